"""What steers the server, and what it writes elsewhere, planted by a workload with its own user.

The attacks as they were found: `.env` by a link to a part of an upload, by a link to a file that
only root may read, as a FIFO; the metadata document, the log and the scale file in its folder.
"""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, free_port, needs_root, until

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Started(Server):
    """A server that is started in a folder, `app`, that may belong to the workload."""

    def __init__(self, folder: Path, *, owner: int = NOBODY, **options: Any) -> None:
        super().__init__(folder, **options)
        self.app = folder / "app"
        self.app.mkdir()
        os.chown(self.app, owner, owner)

    def start(self) -> None:
        """Start it in that folder."""
        before = Path.cwd()
        os.chdir(self.app)
        try:
            super().start()
        finally:
            os.chdir(before)

    def variables(self) -> dict[str, str]:
        """Return what a process of the workload sees."""
        lines = self.run("env", workingDir="/")["stdout"].splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def warnings(self) -> str:
        """Return what the log says about the environment."""
        lines = (str(line) for line in self.log_lines())
        return "\n".join(line for line in lines if "is ignored" in line)


@pytest.fixture
def started(place: Path) -> Iterator[Callable[..., Started]]:
    made: list[Started] = []

    def make(**options: Any) -> Started:
        server = Started(place / f"server{len(made)}", args=["--user", "nobody"], **options)
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None:
            server.__exit__()


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)
    os.lchown(path, NOBODY, NOBODY)


@needs_root
def test_a_link_to_a_file_of_roots_leaks_no_line_of_it(started, place: Path) -> None:
    secret = place / "production.env"
    secret.write_text("AWS_SECRET=root-only-value\n")
    secret.chmod(0o600)
    server: Started = started()
    link(server.app / ".env", secret)

    server.start()

    assert "AWS_SECRET" not in server.variables()
    assert ".env is ignored: " in server.warnings()


@needs_root
def test_a_part_of_an_upload_is_the_workloads_and_steers_nothing(started, place: Path) -> None:
    """The way to root: the part held SANDKEEPER_BLFS_BINARY, and `.env` was a link to it."""
    server: Started = started(env={"TMPDIR": str(place)})
    server.start()
    session = server.client.post("/filesystem-multipart/initiate/x", json={}).json()
    content = b"SANDKEEPER_BLFS_BINARY=/tmp/evil.sh\nSK_PLANTED=1\n"
    url = f"/filesystem-multipart/{session['uploadId']}/part?partNumber=1"
    part = server.client.put(url, files={"file": ("x", content)}).json()
    folder = place / "multipart-uploads" / session["uploadId"]
    path = folder / f"part-1-{part['etag']}"
    assert path.read_bytes() == content
    for file in (path, folder / "metadata.json"):
        assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (NOBODY, 0o600)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    link(server.app / ".env", path)

    server.restart()

    assert "SK_PLANTED" not in server.variables()
    os.chown(server.app, 0, 0)  # even if the way to it were trusted, the part is not
    server.restart()
    assert "SK_PLANTED" not in server.variables()
    body = {"parts": [{"partNumber": 1, "etag": part["etag"]}]}
    done = server.client.post(f"/filesystem-multipart/{session['uploadId']}/complete", json=body)
    assert done.status_code in {200, 500}, done.text  # the target is the workload's affair


@needs_root
def test_parts_that_an_earlier_version_kept_as_roots_are_given_away(started, place: Path) -> None:
    server: Started = started(env={"TMPDIR": str(place)})
    server.start()
    session = server.client.post("/filesystem-multipart/initiate/x", json={}).json()
    url = f"/filesystem-multipart/{session['uploadId']}/part?partNumber=1"
    part = server.client.put(url, files={"file": ("x", b"words")}).json()
    path = place / "multipart-uploads" / session["uploadId"] / f"part-1-{part['etag']}"
    os.chown(path, 0, 0)

    server.restart()

    assert path.stat().st_uid == NOBODY
    listed = server.client.get(f"/filesystem-multipart/{session['uploadId']}/parts").json()
    assert [item["etag"] for item in listed["parts"]] == [part["etag"]]


@needs_root
def test_uploads_go_elsewhere_when_the_workload_rules_their_folder(started, place: Path) -> None:
    theirs = place / "theirs"
    (theirs / "multipart-uploads").mkdir(parents=True)
    os.chown(theirs, NOBODY, NOBODY)
    server: Started = started(env={"TMPDIR": str(theirs)})
    server.start()

    session = server.client.post("/filesystem-multipart/initiate/x", json={}).json()

    assert (server.state / "uploads" / session["uploadId"]).is_dir()
    assert list((theirs / "multipart-uploads").iterdir()) == []


@needs_root
@pytest.mark.parametrize("name", [".env", "document", "variables", "log"])
def test_a_fifo_hangs_no_start(started, place: Path, name: str) -> None:
    variable = {"document": "BL_METADATA_PATH", "variables": "BL_ENV_VAR_PATH"}.get(name, "SK_NO")
    server: Started = started(owner=0)
    server.env[variable] = str(server.app / name)
    os.mkfifo(server.app / name, 0o600)
    if name == "log":
        server.env["SANDKEEPER_LOG"] = str(server.app / name)  # the operator may mean that

    server.start()

    assert server.client.get("/health").status_code == 200
    if name in {".env", "variables"}:
        assert "not a regular file" in server.warnings()
    if name == "document":
        reply = server.client.post("/environment/reload")
        assert reply.status_code in {403, 500}
        assert reply.elapsed.total_seconds() < 20


@needs_root
def test_a_file_that_root_left_in_a_folder_of_the_workloads_is_ignored(started) -> None:
    server: Started = started()
    (server.app / ".env").write_text("SK_LEFT=1\n")  # the workload may put another in its place
    variables = server.app / "variables"
    variables.write_bytes(b"SK_LEFT\x001\0")
    server.env["BL_ENV_VAR_PATH"] = str(variables)

    server.start()

    assert "SK_LEFT" not in server.variables()
    assert server.warnings().count("is ignored") == 2


@needs_root
def test_a_user_that_the_file_itself_names_must_not_have_written_it(place: Path) -> None:
    """Group 0 is trusted, unless the workload's user is in it; here the file says so itself."""
    server = Started(place / "server", owner=0)
    try:
        server.app.chmod(0o775)
        (server.app / ".env").write_text(
            "BL_SANDBOX_USER_ENABLED=true\nBL_SANDBOX_USER=nobody:0\nSK_SET=1\n"
        )
        server.start()
        assert "SK_SET" not in server.variables()
        server.app.chmod(0o755)
        server.restart()
        assert server.variables()["SK_SET"] == "1"
        assert server.run("id -u; id -g", workingDir="/")["stdout"].split() == [str(NOBODY), "0"]
    finally:
        server.__exit__()


def test_the_projects_own_file_counts_as_it_always_did(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    (tmp_path / ".env").write_text("SK_PROJECT=mine\n")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        server.start()
    finally:
        os.chdir(before)
    try:
        assert server.run("echo $SK_PROJECT", workingDir="/")["stdout"] == "mine\n"
    finally:
        server.__exit__()


@needs_root
def test_a_developer_who_is_not_root_keeps_the_file_of_the_project(place: Path) -> None:
    project = place / "project"
    project.mkdir()
    (project / ".env").write_text("SK_PROJECT=mine\n")
    (project / ".env").chmod(0o664)  # as a umask of 002 makes it, in a group of one's own
    for path in (project, project / ".env"):
        os.chown(path, NOBODY, NOBODY)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import os\n"
        "from sandkeeper.settings.sources import load_dotenv\n"
        "from sandkeeper.settings import Environment\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(load_dotenv(Environment()), os.environ.get('SK_PROJECT'))\n"
    )
    preloaded = "import dotenv, msgspec, sandkeeper.settings.sources\n"
    done = subprocess.run(
        [sys.executable, "-c", preloaded + code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[] mine\n"


@needs_root
def test_the_document_is_not_obeyed_by_a_link_of_the_workloads(started, place: Path) -> None:
    """Root without a restart: PATH came from a part of an upload, and rclone was the workload's."""
    secret = place / "secret.json"
    secret.write_text('{"generation": 1, "environment": {"SK_PLANTED": "1"}}')
    secret.chmod(0o600)
    server: Started = started(env={"SANDKEEPER_TOKEN": "operator"})
    server.env["BL_METADATA_PATH"] = str(server.app / "metadata")
    link(server.app / "metadata", secret)
    server.start()
    server.client.headers["Authorization"] = "Bearer operator"

    refused = server.client.post("/environment/reload")

    assert refused.status_code == 500
    assert "is not obeyed" in refused.json()["error"]
    assert "SK_PLANTED" not in server.variables()


@needs_root
@pytest.mark.parametrize("planted", ["file", "link", "nothing", "folder above"])
def test_a_log_that_the_workload_rules_is_one_clear_line_and_no_start(
    place: Path, planted: str
) -> None:
    theirs = place / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    log = theirs / "log"
    if planted == "file":
        log.write_text("")
    elif planted == "link":
        link(log, place / "target")
    elif planted == "folder above":
        (theirs / "below").mkdir()
        log = theirs / "below/log"
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "--port", str(free_port()), "--user", "nobody"],
        env={
            **os.environ,
            "SANDKEEPER_LOG": str(log),
            "SANDKEEPER_STATE_DIR": str(place / "state"),
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot start: {log}: it is not safe to use: {theirs}" in done.stderr
    assert not (place / "target").exists()


@needs_root
def test_the_scale_file_is_no_link_of_the_workloads(started, place: Path) -> None:
    target = place / "target"
    server: Started = started()
    server.env["BLAXEL_SCALE_FILE"] = str(server.app / "scale")
    link(server.app / "scale", target)
    server.start()

    body = {"command": "sleep 60", "keepAlive": True, "workingDir": "/", "timeout": 60}
    started_one = server.client.post("/process", json=body)

    assert started_one.status_code == 200, started_one.text
    assert not target.exists()
    assert any("[KeepAlive] cannot write" in str(line) for line in server.log_lines())
    server.client.delete(f"/process/{started_one.json()['pid']}/kill")


@needs_root
def test_a_scale_file_of_roots_is_written_even_if_all_may(started, place: Path) -> None:
    scale = place / "scale"
    scale.write_text("")
    scale.chmod(0o666)
    server: Started = started(env={"BLAXEL_SCALE_FILE": str(scale)})
    server.start()

    until(lambda: scale.read_text() == "=0")


@needs_root
def test_a_state_folder_that_the_workload_could_exchange_is_refused(place: Path) -> None:
    theirs = place / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    victim = place / "victim"
    victim.mkdir(mode=0o755)
    link(theirs / "state", victim)
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "--port", str(free_port()), "--user", "nobody"],
        env={**os.environ, "SANDKEEPER_STATE_DIR": str(theirs / "state")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 1
    assert "cannot use the state folder" in done.stderr
    assert (list(victim.iterdir()), stat.S_IMODE(victim.stat().st_mode)) == ([], 0o755)


@needs_root
def test_certificates_are_merged_into_no_folder_of_the_workloads(started, place: Path) -> None:
    victim = place / "victim"
    victim.mkdir()
    certificate = Path("/etc/ssl/certs/ca-certificates.crt").read_text().partition("-----END")[0]
    server: Started = started()
    link(server.app / "certs", victim)
    server.env["SANDBOX_EXTRA_CA_CERTS"] = certificate + "-----END CERTIFICATE-----\n"
    server.env["SANDBOX_MERGED_CA_PATH"] = str(server.app / "certs/new/bundle.crt")

    server.start()

    assert list(victim.iterdir()) == []
    told = "extra certificates are not used"
    until(lambda: any(told in str(line) for line in server.log_lines()))


@needs_root
def test_nothing_is_imported_late_from_the_folder_it_was_started_in(started, place: Path) -> None:
    """What is imported at the first request was looked for there first, and ran as root."""
    server: Started = started(env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")})
    planted = place / "planted"
    server.start()
    for name in ("prometheus_client", "mcp", "pyte", "zstandard", "tarfile"):
        (server.app / f"{name}.py").write_text(f"open({str(planted)!r}, 'w').close()\n")

    assert server.client.get("/metrics").status_code == 200
    assert server.client.post("/mcp", json={}).status_code < 500
    assert server.client.get(f"/filesystem-archive/{server.app}").status_code == 200
    assert not planted.exists()


@needs_root
def test_a_place_of_our_code_that_the_workload_can_change_is_told(started, place: Path) -> None:
    theirs = place / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    server: Started = started(env={"PYTHONPATH": str(theirs)})
    server.start()

    told = [str(line) for line in server.log_lines() if "can change" in str(line)]
    assert len(told) == 1
    assert str(theirs) in told[0]


SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
open("mine", "w").write("SK_PLANTED=1\\n")
print(flush=True)
while True:
    os.symlink(sys.argv[2], "link"); os.rename("link", ".env")
    os.link("mine", "copy"); os.rename("copy", ".env")
    os.mkfifo("pipe"); os.rename("pipe", ".env"); os.unlink(".env")
"""


@needs_root
def test_no_start_believes_or_waits_for_what_is_swapped_all_the_time(started, place: Path) -> None:
    secret = place / "secret.env"
    secret.write_text("SK_SECRET=1\n")
    secret.chmod(0o600)
    server: Started = started()
    argv = ["python3", "-S", "-c", SWAPPER, str(server.app), str(secret)]
    with subprocess.Popen(argv, user=NOBODY, group=NOBODY, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            began = time.monotonic()
            for _ in range(5):
                server.start()
                assert not {"SK_PLANTED", "SK_SECRET"} & set(server.variables())
                server.stop()
            assert time.monotonic() - began < 100
        finally:
            swapper.send_signal(signal.SIGKILL)
