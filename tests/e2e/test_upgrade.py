"""Upgrades: nobody notices a good one, and a bad one is taken back."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests import kernels
from tests.harness import FirstProcess, Server, free_port, needs_root, until, zombies_of
from tests.storage import storage
from tests.wheels import digest, make_wheel

pytestmark = pytest.mark.timeout(500)
OLD, NEW = "0.1.0", "99.1"
COUNTING = (
    "bash -c 'exec 9<> <(:); i=0;"
    " while [ ! -e stop ]; do i=$((i+1)); echo line $i; read -t 0.005 -u 9; done; exit 0'"
)
"""It waits without a program for each line, which would take half a core."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good wheel of a new version and its checksum."""
    folder = tmp_path_factory.mktemp("wheels")
    note(make_wheel(folder, NEW, light=True))
    return folder


@pytest.fixture
def upgradable(make_server: Callable[..., Server], wheels: Path) -> Callable[..., Server]:
    """Start servers that may be upgraded from the wheels, or from a folder of one's own."""

    def make(folder: Path = wheels, **options: Any) -> Server:
        env = {"SANDKEEPER_UPGRADE_ALLOW": f"{folder}/*.whl", **options.pop("env", {})}
        return make_server(env=env, **options)

    return make


def note(wheel: Path) -> Path:
    """Put the checksum beside a wheel."""
    wheel.with_name(wheel.name + ".sha256").write_text(f"{digest(wheel)}  {wheel.name}\n")
    return wheel


def ended(server: Server, timeout: float = 200.0) -> dict[str, Any]:
    """Wait until no upgrade is under way; returns /health."""

    def look() -> dict[str, Any] | None:
        try:
            asked = httpx.get(server.url + "/health", trust_env=False, verify=False)
            health: dict[str, Any] = asked.json()
        except httpx.HTTPError:
            return None
        return None if health["lastUpgrade"]["status"] == "running" else health

    return until(look, timeout, every=0.05)


def upgrade(server: Server, **body: Any) -> dict[str, Any]:
    """Upgrade and wait for the end; returns /health."""
    reply = server.client.post("/upgrade", json=body)
    assert reply.status_code == 200, reply.text
    return ended(server)


def numbers(text: str) -> list[int]:
    """Return the numbers of counting lines."""
    return [int(line.removeprefix("stdout:").split()[1]) for line in text.splitlines()]


def count(server: Server) -> None:
    """Start a process that counts in lines, in the working folder."""
    body = {"command": COUNTING, "name": "counting", "workingDir": str(server.workdir)}
    assert server.client.post("/process", json=body).status_code == 200


def logged(server: Server) -> list[int]:
    """Return the counted lines in the server's log, which come there behind the answers."""
    lines = [line["msg"] for line in server.log_lines() if line.get("process-name") == "counting"]
    return numbers("\n".join(lines))


def counted(server: Server) -> list[int]:
    """End the counting and return its lines, of which none is missing or there twice."""
    (server.workdir / "stop").touch()
    record = server.client.get("/process/counting/wait?timeout=60").json()
    assert (record["status"], record["exitCode"]) == ("completed", 0)
    with httpx.stream("GET", server.url + "/process/counting/logs/stream") as reply:
        lines = numbers("".join(reply.iter_text()))
    assert lines == list(range(1, len(lines) + 1))
    return lines


class Crowd:
    """Clients that ask all the time, on kept connections and on new ones."""

    def __init__(self, server: Server) -> None:
        self.answers: list[int] = []
        self.faults: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(kept, path, body))
            for kept in (True, False)
            for path, body in (
                ("/health", None),
                ("/process/counting", None),
                ("/process", {"command": "echo hello", "waitForCompletion": True}),
                ("/filesystem//tmp", None),
            )
        ]

    def _ask(self, kept: bool, path: str, body: Any) -> None:
        make = partial(
            httpx.Client, base_url=self._server.url, timeout=60, trust_env=False, verify=False
        )
        client = make()
        while not self._over.wait(0.2):
            try:
                if not kept:
                    client.close()
                    client = make()
                reply = client.post(path, json=body) if body else client.get(path)
                self.answers.append(reply.status_code)
                if reply.status_code != 200:
                    self.faults.append(f"{path}: {reply.status_code} {reply.text}")
            except Exception as error:
                self.faults.append(f"{path}: {error!r}")
        client.close()

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Reader(threading.Thread):
    """Follows the events of a process and comes again with its cursor when the stream breaks."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(daemon=True)
        self.text = ""
        self.ends: list[str] = []
        self._url = f"{server.url}/process/{name}/events"
        self.start()

    def run(self) -> None:
        cursor = 0
        while not self.ends or self.ends[-1] == "server stopping":
            with httpx.stream("GET", self._url, params={"cursor": cursor}, timeout=30) as reply:
                for line in reply.iter_lines():
                    event = json.loads(line)
                    cursor = event["offset"] + len(event.get("data", ""))
                    self.text += event.get("data", "")
                    if event["type"] == "end":
                        self.ends.append(event["reason"])


@dataclass
class Whole:
    """A server that was upgraded under load, and what was seen of that."""

    server: Server
    pid: int
    health: dict[str, Any]
    crowd: Crowd
    lines: list[int]
    reader: Reader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Upgrade a server under load, to a wheel of the whole package, as releases are."""
    folder = tmp_path_factory.mktemp("whole")
    wheel = note(make_wheel(folder, NEW))
    env = {"SANDKEEPER_UPGRADE_ALLOW": f"{folder}/*.whl"}
    with Server(folder / "server", env=env) as own:
        count(own)
        pid = own.pid
        reader = Reader(own, "counting")
        with Crowd(own) as crowd:
            until(lambda: len(crowd.answers) > 50)
            health = upgrade(own)
            before = len(crowd.answers)
            until(lambda: len(crowd.answers) > before + 50)
        wheel.unlink()
        lines = counted(own)
        reader.join(60)
        until(lambda: (own.state / "versions" / "current.json").exists())
        yield Whole(own, pid, health, crowd, lines, reader)


def test_under_load_no_request_fails_and_no_line_is_lost(whole: Whole) -> None:
    own, health = whole.server, whole.health
    assert whole.crowd.faults == []
    assert set(whole.crowd.answers) == {200}
    assert (health["version"], health["upgradeCount"]) == (NEW, 1)
    assert (health["lastUpgrade"]["status"], health["lastUpgrade"]["step"]) == (
        "completed",
        "completed",
    )
    assert own.process is not None
    assert own.process.poll() is None
    assert own.pid == whole.pid
    assert numbers(whole.reader.text) == whole.lines
    assert whole.reader.ends == ["server stopping", "exited"]
    until(lambda: logged(own) == whole.lines)


def test_a_restart_goes_on_with_the_new_version_as_long_as_upgrades_are_permitted(
    whole: Whole,
) -> None:
    own = whole.server
    own.kill9()
    own.start()
    health = own.client.get("/health").json()
    assert (health["version"], health["upgradeCount"]) == (NEW, 1)
    assert health["lastUpgrade"]["status"] == "completed"
    permitted = own.env.pop("SANDKEEPER_UPGRADE_ALLOW")
    own.restart()
    assert own.client.get("/health").json()["version"] == OLD
    own.env["SANDKEEPER_UPGRADE_ALLOW"] = permitted
    own.restart()
    assert own.client.get("/health").json()["version"] == NEW


def test_a_version_that_is_damaged_on_the_disk_does_not_keep_the_server_down(whole: Whole) -> None:
    own = whole.server
    assert own.client.get("/health").json()["version"] == NEW
    own.stop()
    for path in (own.state / "versions").glob("**/sandkeeper/**/sandbox.*py*"):
        path.write_bytes(b"\0" * 1000)
    for _ in range(3):
        with pytest.raises(AssertionError, match="server exited with"):
            own.start()

    own.start()
    assert own.client.get("/health").json()["version"] == OLD
    until(lambda: any("did not start any more" in line["msg"] for line in own.log_lines()))


@needs_root
def test_the_workload_cannot_bring_in_a_version_of_its_own(
    upgradable: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "wheels"
    note(make_wheel(folder, NEW, light=True))
    env = {"SANDKEEPER_WORKLOAD_MAY": "upgrade"}
    own = upgradable(folder, args=["--user", "nobody"], env=env)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o777 == 0o700:  # pytest's own folders, down from the common one
            path.chmod(0o755)
    planted = own.workdir.parent / "planted"
    planted.mkdir()
    os.chown(planted, 65534, 65534)
    wheel = f"{planted}/sandkeeper-{NEW}-py3-none-any.whl"
    assert own.run(f"cp {folder}/*.whl {wheel}")["exitCode"] == 0

    for command in (f"ln -s {wheel} {folder}/x.whl", f"cp {wheel} {folder}/", f"rm -f {folder}/*"):
        assert own.run(command)["exitCode"] != 0
    last = upgrade(own, baseUrl=wheel, sha256=digest(Path(wheel)))["lastUpgrade"]

    assert (last["status"], last["step"]) == ("failed", "starting")
    assert "permits no upgrade from there" in last["error"]
    # With what the operator has put there it still works, and the workload stays what it was.
    assert upgrade(own)["version"] == NEW
    assert own.run("id -un")["stdout"] == "nobody\n"
    assert own.run(f"ls {own.state}/versions")["exitCode"] != 0


@needs_root
def test_tokens_and_rights_are_the_next_versions_too(upgradable: Callable[..., Server]) -> None:
    env = {"SANDKEEPER_TOKEN": "the-user's", "SANDKEEPER_ADMIN_TOKEN": "the-operator's\n"}
    own = upgradable(args=["--user", "61120"], env=env)  # whom no other test stops
    user, admin = ({"Authorization": f"Bearer {env[name].strip()}"} for name in env)
    for before in (True, False):
        status = own.client.get("/archive/status", headers=user)
        assert "needs the operator's right" in status.json()["error"], before
        assert own.client.get("/archive/status", headers=admin).status_code == 200, before
        assert own.client.get("/process").status_code == 401, before
        own.client.headers.update(user)
        hidden = own.run("env", workingDir="/")["stdout"]
        del own.client.headers["Authorization"]
        assert "PATH=" in hidden
        assert "SANDKEEPER_" not in hidden
        if before:
            assert own.client.post("/upgrade", json={}, headers=user).status_code == 403
            assert own.client.post("/upgrade", json={}, headers=admin).status_code == 200
            assert ended(own)["version"] == NEW

    versions = own.state / "versions"
    until(lambda: (versions / "current.json").exists() and not (versions / ".incoming").exists())
    kept = [path for path in own.folder.rglob("*") if path.is_file()]
    assert own.log_path in kept
    for path in kept:
        assert b"the-operator's" not in path.read_bytes(), path


@needs_root
@pytest.mark.parametrize("good", [True, False])
def test_as_process_1_it_stays_process_1_and_reaps(tmp_path: Path, good: bool) -> None:
    statement = "pass" if good else GOES_WRONG["an exception"]
    spoilt(tmp_path / "wheels", statement)
    env = {"SANDKEEPER_UPGRADE_ALLOW": f"{tmp_path}/wheels/*.whl"}
    with FirstProcess(tmp_path / "server", env=env) as own:
        count(own)
        assert own.run("echo $PPID")["stdout"] == "1\n"

        health = upgrade(own)

        assert health["version"] == (NEW if good else OLD)
        assert own.run("echo $PPID; (sleep 0.01 &)")["stdout"] == "1\n"
        assert counted(own)
        until(lambda: "Z" not in own.run("ps -eo stat=")["stdout"])


# What goes on beside requests

CLIENT = """
import asyncio, sys
from blaxel.core import SandboxInstance
from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec

async def main():
    record = Sandbox(metadata=Metadata(name="x"), spec=SandboxSpec())
    it = SandboxInstance(record, force_url=sys.argv[1])
    print((await it.system.upgrade()).message, flush=True)
    sys.stdin.readline()
    health = await it.system.health()
    print(health.version, health.upgrade_count, health.last_upgrade.step)

asyncio.run(main())
"""
MESSAGE = "Upgrade initiated. Process state saved. The server will upgrade shortly."


def reachable(port: int) -> list[str]:
    """Return the loopback addresses on which new connections to a port are answered."""
    found = []
    for host in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((host, port), timeout=60) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            found += [host] if sock.recv(12) == b"HTTP/1.1 200" else []
    return found


@dataclass
class Beside:
    """A server that had all sorts of things under way when it was upgraded."""

    server: Server
    folder: Path
    besides: int = field(default_factory=free_port)
    """The port of its second listening socket."""
    before: list[str] = field(default_factory=list)
    """How it could be reached."""
    told: list[str] = field(default_factory=list)
    """What the published client said of the upgrade that it asked for."""
    answers: dict[str, httpx.Response] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    """Which of the requests that wait were answered during the upgrade."""
    asking: dict[str, threading.Thread] = field(default_factory=dict)
    scale: bytes = b""
    """What was told of holders during the upgrade."""
    shell: str = ""
    context: kernels.Context | None = None

    def ask(self, key: str, method: str, path: str, **options: Any) -> None:
        """Have a request wait for its answer."""

        def asks() -> None:
            url = self.server.url + path
            self.answers[key] = httpx.request(method, url, timeout=300, trust_env=False, **options)

        self.asking[key] = threading.Thread(target=asks)
        self.asking[key].start()

    def answer(self, key: str) -> httpx.Response:
        """Return the answer of a request that waited."""
        self.asking[key].join(200)
        return self.answers[key]

    def open(self, name: str) -> None:
        """Have what waits at a fifo go on, if it has not."""
        gate = self.server.workdir / name
        if gate.exists():
            gate.write_text("go\n")
            gate.unlink()

    def begin_waiting(self) -> None:
        """Have two requests wait for the end of one process."""
        os.mkfifo(self.server.workdir / "stop")
        command = "echo started; read x <stop; echo over; exit 3"
        order = {"command": command, "workingDir": str(self.server.workdir), "name": "w"}
        self.ask("exec", "POST", "/process", json={**order, "waitForCompletion": True})
        until(lambda: self.server.client.get("/process/w").status_code == 200)
        self.ask("wait", "GET", "/process/w/wait?timeout=300")

    def begin_code(self) -> None:
        """Have a request wait for the end of a cell."""
        gate = self.server.workdir / "gate"
        os.mkfifo(gate)
        self.context = kernels.context(self.server)
        self.context.run("kept = 5")
        execution = self.context.start(
            f"print('a', flush=True)\nopen({str(gate)!r}).read()\nprint('b')"
        )
        path = f"/code/executions/{execution}"
        until(lambda: self.server.client.get(path).json()["stdout"])
        self.ask("code", "GET", f"{path}?wait=true")

    def begin_holders(self) -> None:
        """Hold the sandbox awake three times, of which one is told to end, and open a terminal."""
        client, scale = self.server.client, self.folder / "scale"
        until((self.folder / "c").exists)
        client.post("/process", json={"command": "exec sleep 100", "name": "h", "keepAlive": True})
        stopping = "trap '' TERM; echo set; while :; do sleep 100; done"
        client.post("/process", json={"command": stopping, "name": "s", "keepAlive": True})
        until(lambda: client.get("/process/s").json()["stdout"])  # or it would end of the next
        client.delete("/process/s")
        self.shell = client.post("/terminals", json={"name": "t", "shell": "/bin/sh"}).json()["id"]
        typed = client.post(f"/terminals/{self.shell}/input", content=b"X=kept\r")
        assert typed.status_code == 200
        until(lambda: scale.read_bytes() == b"+0")
        scale.write_bytes(b"")

    def upgrade(self) -> None:
        """Have the published client ask for it and see its end."""
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.server.url],
            env={**os.environ, "BL_API_KEY": "x", "BL_WORKSPACE": "x"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdout is not None
        self.told.append(client.stdout.readline())
        ended(self.server)
        self.early = list(self.answers)
        self.scale = (self.folder / "scale").read_bytes()
        self.told.append(client.communicate("\n", timeout=110)[0])


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Beside]:
    """Upgrade a server that has more to do than to answer."""
    folder = tmp_path_factory.mktemp("beside")
    env = {
        "SANDKEEPER_UPGRADE_ALLOW": f"{wheels}/*.whl",
        "SANDKEEPER_LOG_FORMAT": "contract",  # which the trial is judged without
        "BLAXEL_SCALE_FILE": str(folder / "scale"),
    }
    it = Beside(Server(folder / "server", env=kernels.environment(**env)), folder)
    it.server.args = ["--host", "localhost", "--e2b-port", str(it.besides)]
    it.server.args += ["-c", f"echo once >>{folder}/c"]
    ignoring = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, as from nohup(1)
    with chdir(folder):
        it.server.start()
    signal.signal(signal.SIGHUP, ignoring)
    try:
        it.before = reachable(it.server.port)
        for begin in (it.begin_holders, it.begin_code, it.begin_waiting):
            begin()
        look = "/diagnostics"
        until(lambda: it.server.client.get(look).json()["requests"]["inFlight"] > 3)
        (folder / ".env").write_text("SANDKEEPER_TOKEN=planted\nBL_ENV=dev\n")
        it.upgrade()
        yield it
    finally:
        it.server.__exit__()


def test_the_clients_upgrade_and_health_work(beside: Beside) -> None:
    assert beside.told == [f"{MESSAGE}\n", f"{NEW} 1 completed\n"]


def test_what_the_workload_wrote_to_dotenv_meanwhile_is_not_obeyed(beside: Beside) -> None:
    own = beside.server
    assert own.client.get("/health").json()["version"] == NEW
    assert own.client.get("/debug/panic").status_code == 404
    assert own.client.get("/process").status_code == 200
    assert "planted" not in own.run("env")["stdout"]


def test_every_listening_socket_is_handed_on(beside: Beside) -> None:
    assert reachable(beside.server.port) == reachable(beside.besides) == beside.before
    assert beside.before[0] == "127.0.0.1"


def test_what_waits_for_the_end_of_a_process_gets_its_answer_from_the_next_server(
    beside: Beside,
) -> None:
    assert beside.early == []
    beside.open("stop")

    for key in ("exec", "wait"):
        reply = beside.answer(key)
        record = reply.json()
        assert (reply.status_code, record["exitCode"]) == (200, 3)
        assert (record["stdout"], record["exitReason"]) == ("started\nover\n", "exited")


def test_code_that_runs_goes_on_and_its_waiting_client_is_answered_by_the_next_server(
    beside: Beside,
) -> None:
    context = beside.context
    assert context is not None
    beside.open("gate")

    assert beside.answer("code").json()["stdout"] == "a\nb\n"
    assert context.run("kept")["results"][0]["data"]["text/plain"] == "5"
    assert kernels.context(beside.server).run("1")["status"] == "ok"


def test_holders_terminals_and_the_startup_command_are_as_before(beside: Beside) -> None:
    own, shell = beside.server, beside.shell
    # Only the one that was told to stop is not counted any more; zero was never written.
    assert beside.scale == b"-"
    own.client.delete("/process/s/kill")
    assert own.client.get("/process/s/wait?timeout=60").json()["status"] == "killed"
    assert (beside.folder / "c").read_text() == "once\n"
    own.client.post(f"/terminals/{shell}/input", content=b"echo it is $X\r")
    screen = own.client.get(f"/terminals/{shell}/screen?waitFor=it+is+kept&format=text").text
    assert "it is kept" in screen
    # As children of the same process they are reaped like before.
    assert own.run("exit 7")["exitCode"] == 7
    until(lambda: not zombies_of(own.pid))
    os.kill(own.pid, signal.SIGHUP)
    assert own.run("exit 8")["exitCode"] == 8
    for name in ("stop", "gate"):
        beside.open(name)
    own.client.delete("/process/h/kill")
    own.client.delete(f"/terminals/{shell}")
    assert own.stop() == 0  # the keeper, a child, ends during it: nothing holds it any more
    assert (own.folder / "stderr.log").read_text() == ""
    own.start()


def test_an_older_version_which_may_know_of_one_socket_gets_the_first_alone(
    upgradable: Callable[..., Server], tmp_path: Path
) -> None:
    note(make_wheel(tmp_path, "0.0.1", light=True))
    own = upgradable(
        tmp_path, args=["--host", "localhost"], env={"SANDKEEPER_UPGRADE_DOWNGRADE": "true"}
    )

    assert upgrade(own)["version"] == "0.0.1"
    # The other is closed when nobody needs it for the way back any more: nobody waits at it.
    until(lambda: reachable(own.port) == ["127.0.0.1"], 60)


# What fails

SABOTAGE = "    count = handover.count + (not handover.failed)"
GOES_WRONG = {
    "an exception": "raise ImportError('sabotage')",
    "a hard end": "import os; os._exit(9)",
}
"""What else can go wrong is in tests/upgrade/test_guard.py."""


def spoilt(folder: Path, statement: str, *, trial: bool = False) -> Path:
    """Return a wheel in which a server that takes over does something else."""
    condition = "True" if trial else "not handover.trial"
    text = f"    if {condition}:\n        {statement}\n{SABOTAGE}"
    return note(make_wheel(folder, NEW, {"cli.py": (SABOTAGE, text)}, light=True))


@pytest.mark.parametrize("how", GOES_WRONG)
def test_from_a_version_that_fails_after_a_good_trial_all_is_taken_back(
    upgradable: Callable[..., Server], tmp_path: Path, how: str
) -> None:
    spoilt(tmp_path / "wheels", GOES_WRONG[how])
    besides = free_port()
    args = ["--host", "localhost", "--e2b-port", str(besides)]
    own = upgradable(tmp_path / "wheels", args=args)
    before = reachable(own.port)
    count(own)
    own.client.get("/health")

    own.client.post("/upgrade", json={})
    health = ended(own)

    assert (health["version"], health["upgradeCount"]) == (OLD, 0)
    last = health["lastUpgrade"]
    assert (last["status"], last["step"], last["version"]) == ("failed", "replace", NEW)
    assert "the earlier version was taken back" in last["error"]
    assert reachable(own.port) == reachable(besides) == before
    assert own.process is not None
    dead = how == "a hard end"
    assert (own.process.poll() is not None) == dead
    if not dead:  # even connections that were kept over both changes
        assert own.client.get("/process/counting").status_code == 200
    parent = int(own.run("echo $PPID")["stdout"])
    assert (parent == own.pid) != dead
    lines = counted(own)
    until(lambda: logged(own) == lines)
    if dead:
        os.kill(parent, 15)
        until(lambda: not Path(f"/proc/{parent}").exists())


def test_a_version_that_does_not_stand_its_trial_changes_nothing(
    upgradable: Callable[..., Server], tmp_path: Path
) -> None:
    spoilt(tmp_path / "wheels", "raise ImportError('sabotage')", trial=True)
    own = upgradable(tmp_path / "wheels")
    own.run("true")

    began = own.client.get("/health").json()["startedAt"]
    health = upgrade(own)

    assert (health["version"], health["startedAt"]) == (OLD, began)
    assert health["lastUpgrade"]["step"] == "validate"
    assert "sabotage" in health["lastUpgrade"]["error"]
    until(lambda: os.listdir(own.state / "versions") == [])
    spoilt(tmp_path / "wheels", "pass")
    assert upgrade(own)["version"] == NEW


@pytest.mark.parametrize("index", [False, True])
def test_what_a_wheel_requires_comes_from_a_permitted_index_or_not_at_all(
    make_server: Callable[..., Server], tmp_path: Path, index: bool
) -> None:
    note(make_wheel(tmp_path / "wheels", NEW, requires=("sandkeeper-test-part>=3",), light=True))
    allow = f"{tmp_path}/wheels/*.whl" + (",index:https://localhost:9/simple" if index else "")
    own = make_server(env={"SANDKEEPER_UPGRADE_ALLOW": allow})

    last = upgrade(own)["lastUpgrade"]

    assert (last["status"], last["step"]) == ("failed", "validate")
    assert "sandkeeper-test-part>=3" in last["error"]
    assert ("cannot be installed" in last["error"]) == index


# The wire


def test_by_default_nothing_is_permitted_and_clients_learn_it_from_health(
    server: Server, tmp_path: Path
) -> None:
    wheel = note(make_wheel(tmp_path, NEW, light=True))

    for body in ({}, {"baseUrl": f"file://{wheel}"}, {"baseUrl": "https://127.0.0.1:1/simple"}):
        reply = server.client.post("/upgrade", json={"version": "v9", "sha256": None, **body})
        assert reply.status_code == 200
        last = server.client.get("/health").json()["lastUpgrade"]
        assert (last["status"], last["step"], last["version"]) == ("failed", "starting", "v9")
        assert "SANDKEEPER_UPGRADE_ALLOW" in last["error"]
    assert not (server.state / "versions").exists()


@pytest.mark.parametrize("body", [b"", b"nothing", b"[]", b'{"version":7}', b'{"version":null}'])
def test_the_answer_is_the_contracts_and_a_bad_body_is_ignored(server: Server, body: bytes) -> None:
    reply = server.client.post("/upgrade", content=body)

    assert reply.status_code == 200
    assert reply.json() == {
        "baseUrl": "https://github.com/blaxel-ai/sandbox/releases",
        "message": MESSAGE,
        "version": "latest",
    }


def test_head_is_empty_and_get_is_unknown(server: Server) -> None:
    assert (server.client.head("/upgrade").status_code, server.client.head("/upgrade").text) == (
        200,
        "",
    )
    assert server.client.get("/upgrade").text == "404 page not found"


def test_development_mode_skips_and_the_count_comes_from_dotenv(
    make_server: Callable[..., Server], wheels: Path
) -> None:
    env = {"SANDBOX_DEV_MODE": "true", "SANDKEEPER_UPGRADE_ALLOW": f"{wheels}/*.whl"}
    own = make_server(env={**env, "SANDBOX_UPGRADE_COUNT": "4"})

    health = upgrade(own)

    assert health["upgradeCount"] == 4
    last = health["lastUpgrade"]
    assert (last["status"], last["step"]) == ("failed", "skipped")


def test_one_upgrade_at_a_time_each_audited_and_the_same_version_is_no_change(
    upgradable: Callable[..., Server], tmp_path: Path
) -> None:
    note(make_wheel(tmp_path / "wheels", OLD, light=True))
    own = upgradable(tmp_path / "wheels")
    began = own.client.get("/health").json()["startedAt"]

    ask = "POST /upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n{}\r\n{{}}"
    with socket.create_connection(("127.0.0.1", own.port), timeout=60) as sock:
        # The second is here when the first is answered: it finds that one under way.
        both = ask.format("X-Blaxel-Subject-Id: me\r\n") + ask.format("Connection: close\r\n")
        sock.sendall(both.encode())
        _, first, second = sock.makefile().read().split("HTTP/1.1 ")

    assert (first[:3], second[:3]) == ("200", "409")
    assert "under way" in second
    health = ended(own)
    last = health["lastUpgrade"]
    assert (last["status"], last["step"], health["startedAt"]) == ("completed", "skipped", began)
    asked = [line for line in own.log_lines() if line.get("action") == "upgrade"]
    assert [line["sub-id"] for line in asked] == ["me", ""]


def test_an_older_version_is_refused(upgradable: Callable[..., Server], tmp_path: Path) -> None:
    note(make_wheel(tmp_path / "wheels", "0.0.1", light=True))

    last = upgrade(upgradable(tmp_path / "wheels"), version="0.0.1")["lastUpgrade"]

    assert "0.0.1 is older than" in last["error"]


def test_an_export_that_runs_is_not_cut_off_by_an_upgrade(
    upgradable: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    own = upgradable(env={"SANDKEEPER_ARCHIVE_ROOT": str(tmp_path / "root")})
    (tmp_path / "root/file").write_text("kept")
    with storage() as store:
        store.hold = threading.Event()
        assert own.client.post("/upgrade", json={}).status_code == 200
        asked = {"url": store.url("a"), "async": True, "stopTimeoutSeconds": 1}
        assert own.client.post("/archive/export", json=asked).status_code == 202
        until(store.arrived.is_set)
        last = ended(own)["lastUpgrade"]
        store.hold.set()
        assert (last["status"], last["step"]) == ("failed", "validate")
        assert "an export or a restore is running" in last["error"]
        until(lambda: own.client.get("/archive/status").json()["export"]["state"] == "succeeded")
