"""Archives of real mounts and of machines that are made again from them."""

import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from tests.harness import Server, needs_root, until
from tests.storage import Storage, storage

from sandkeeper.archive.job import Clock, Restored
from sandkeeper.archive.readonly import set_read_only
from sandkeeper.archive.restore import restore
from sandkeeper.archive.snapshot import LeftOut
from sandkeeper.errors import Internal

Make = Callable[..., Server]


@pytest.fixture
def store() -> Iterator[Storage]:
    with storage() as made:
        yield made


@contextlib.contextmanager
def mounted(*arguments: Any) -> Iterator[None]:
    subprocess.run(["mount", *map(str, arguments)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(arguments[-1])], check=True)


def fill(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9))


def env_of(root: Path, **more: str) -> dict[str, str]:
    return {"SANDKEEPER_ARCHIVE_ROOT": str(root), "SANDKEEPER_ARCHIVE_RETRIES": "1", **more}


def dry(server: Server, **options: Any) -> tuple[dict[str, str], dict[str, Any]]:
    reply = server.client.post("/archive/export", json={"dryRun": True, **options})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return {change["path"]: change["kind"] for change in body["changes"]}, body["manifest"]


def status(server: Server) -> dict[str, Any]:
    return server.client.get("/archive/status").json()


def restored(server: Server) -> dict[str, Any]:
    def over() -> Any:
        found = status(server)["restore"]
        return found if "finishedAt" in found else None

    return until(over)


@needs_root
def test_of_an_overlay_the_layers_below_are_what_it_is_compared_with(
    make_server: Make, tmp_path: Path
) -> None:
    for name in ("low:er", "base", "upper", "work", "root"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "base", {"same": "1", "gone": "2", "tree/x": "3", "kept": "4", "hidden": "old"})
    fill(tmp_path / "low:er", {"hidden": "new", "replaced/a": "5"})
    lower = f"{tmp_path}/low\\:er:{tmp_path}/base"
    options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    with mounted("-t", "overlay", "-o", options, "overlay", tmp_path / "root"):
        box = make_server(env=env_of(tmp_path / "root"))
        root = tmp_path / "root"
        (root / "gone").unlink()
        subprocess.run(["rm", "-r", root / "tree", root / "replaced"], check=True)
        fill(root, {"replaced/b": "6"})
        # The same size and time, but other bytes: the change time of the copy tells.
        (root / "kept").write_text("9")
        os.utime(root / "kept", (1e9, 1e9))

        changes, manifest = dry(box)

    assert manifest["basis"] == "overlay"
    assert manifest["deleted"] == ["gone", "replaced/a", "tree"]
    assert changes == {
        "gone": "deleted",
        "kept": "modified",
        "replaced/a": "deleted",
        "replaced/b": "added",
        "tree": "deleted",
    }


@needs_root
def test_an_image_device_is_mounted_to_look_at_and_unmounted(
    make_server: Make, tmp_path: Path
) -> None:
    image, root = tmp_path / "image", tmp_path / "root"
    root.mkdir()
    subprocess.run(["truncate", "-s", "8M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    loop = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with mounted(loop, root):
            fill(root, {"same": "1", "gone": "2"})
        fill(root, {"same": "1", "new": "3"})
        box = make_server(env=env_of(root))

        changes, manifest = dry(box, imageDevice=loop, excludes=["lost+found"])

        assert changes == {"gone": "deleted", "new": "added"}
        assert (manifest["basis"], manifest["imageDevice"]) == ("image", loop)
        assert str(box.state) not in Path("/proc/mounts").read_text()
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def test_a_recorded_baseline_tells_deletions_too(make_server: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root, {"same": "1", "gone": "2", "touched": "3", "tmp/x": "4"})
    env = env_of(root, SANDKEEPER_STATE_DIR=str(tmp_path / "server0/state"))
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "archive-baseline"],
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("3 entries recorded")
    (root / "gone").unlink()
    (root / "touched").write_text("9")
    os.utime(root / "touched", (1e9, 1e9))
    fill(root, {"new": "5"})

    box = make_server(env=env_of(root, SANDKEEPER_ARCHIVE_BASELINE="required"))
    changes, manifest = dry(box)

    assert manifest["basis"] == "baseline"
    assert changes == {"gone": "deleted", "new": "added", "touched": "modified"}


def test_a_baseline_can_be_recorded_beside_the_first_start(
    make_server: Make, tmp_path: Path
) -> None:
    fill(tmp_path / "root", {"a": "1", "b": "2"})
    box = make_server(env=env_of(tmp_path / "root", SANDKEEPER_ARCHIVE_BASELINE="record"))
    until((box.state / "archive/baseline").exists)
    (tmp_path / "root/a").unlink()

    changes, manifest = dry(box)

    assert manifest["basis"] == "baseline"
    assert changes == {"a": "deleted"}
    until(lambda: any("2 entries" in line["msg"] for line in box.log_lines()))


@needs_root
def test_the_root_is_read_only_until_it_is_resumed(
    make_server: Make, tmp_path: Path, store: Storage
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with mounted("-t", "tmpfs", "-o", "nosuid", "tmpfs", root):
        (root / "file").write_text("x")
        box = make_server(env=env_of(root))

        done = box.client.post("/archive/export", json={"url": store.url("a")})

        assert done.status_code == 200
        assert status(box)["readOnlyRoot"] is True
        assert status(box)["reason"] == "archive export"
        with pytest.raises(OSError, match="Read-only"):
            (root / "file").write_text("y")
        assert "nosuid" in Path("/proc/mounts").read_text().split(f" {root} ")[1].split("\n")[0]
        box.kill9()
        box.start()
        assert status(box)["readOnlyRoot"] is True
        set_read_only(str(root), False)
        with mounted("--bind", root, root):
            # What the server remounts is now another mount over its own, and read-only below.
            assert box.client.post("/archive/resume").status_code == 200
        (root / "file").write_text("y")
        assert status(box)["state"] == "active"

        # Something writes all the time: then only the API refuses.
        with open(root / "open", "w"):
            box.client.post("/archive/export", json={"url": store.url("b")})
            assert status(box)["readOnlyRoot"] is False
            assert "open for writing" in status(box)["reason"]
        box.client.post("/archive/resume")


def archive_of(files: dict[str, str], manifest: dict[str, Any]) -> bytes:
    """Make an archive by hand, as another server would."""
    made = io.BytesIO()
    head = {"version": 1, "createdAt": "2026-01-01T00:00:00Z", "root": "/", **manifest}
    contents = {".blaxel-archive/manifest.json": json.dumps(head), **files}
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


@needs_root
def test_a_machine_is_made_again_from_its_archive(
    make_server: Make, tmp_path: Path, store: Storage
) -> None:
    pristine = {"same": "1", "gone/a": "2", "kind/x": "3", "changed": "4"}
    old, image, new = (tmp_path / name for name in ("old", "image", "new"))
    for top in (old, image, new):
        fill(top, pristine)
    subprocess.run(["rm", "-r", old / "gone", old / "kind"], check=True)
    fill(old, {"kind": "a file now", "changed": "!", "own/deep/file": "own"})
    os.link(old / "own/deep/file", old / "own/linked")
    (old / "own").chmod(0o2750)
    os.chown(old / "own/deep", 12, 34)
    os.setxattr(old / "changed", "user.note", b"\xff\x00")
    (old / os.fsdecode(b"raw\xff")).symlink_to("changed")
    os.mknod(old / "device", 0o20600, os.makedev(1, 3))
    box = make_server(env=env_of(old, SANDKEEPER_ARCHIVE_IMAGE=str(image)))
    program = 'echo "$A-${BL_ARCHIVE_IMPORT_URL:-none}"; exec cat'
    box.client.post(
        "/process",
        json={
            "command": program,
            "name": "p",
            "env": {"A": "b"},
            "stdin": True,
            "limits": {"openFiles": 512, "memoryBytes": 1 << 30},
        },
    )
    done = box.client.post("/archive/export", json={"url": store.url("a")})
    assert done.status_code == 200, done.text
    store.kept["a"] = gzip.compress(store.kept["a"], 1)
    cut = len(store.kept["a"]) // 2
    store.fault = lambda method, _path, attempt: (
        f"drop:{cut}" if (method, attempt) == ("GET", 1) else None
    )

    again = make_server(
        env=env_of(new, BL_ARCHIVE_IMPORT_URL=store.url("a")),
        args=["-c", f"echo x >> {tmp_path}/began"],
    )
    progress = restored(again)

    assert progress["state"] == "succeeded", progress
    assert progress["downloaded"] == progress["size"] == len(store.kept["a"])
    assert store.attempts("GET", "a") == 2
    assert (progress["restored"], progress["deleted"]) == (8, 1)
    assert not (new / "gone").exists()
    assert (new / "kind").read_text() == "a file now"
    assert (new / "changed").read_text() == "!"
    assert (new / "same").read_text() == "1"
    assert os.getxattr(new / "changed", "user.note") == b"\xff\x00"
    assert os.readlink(new / os.fsdecode(b"raw\xff")) == "changed"
    assert (new / "own/linked").samefile(new / "own/deep/file")
    assert (new / "own").stat().st_mode & 0o7777 == 0o2750
    assert (new / "own/deep").stat().st_uid == 12
    assert (new / "device").is_char_device()
    process = again.client.get("/process/p").json()
    assert (process["status"], process["stdin"]) == ("running", True)
    kept = {name: process["limits"][name] for name in ("openFiles", "memoryBytes", "pids", "cpus")}
    assert kept == {"openFiles": 512, "memoryBytes": 1 << 30, "pids": None, "cpus": None}
    again.client.post("/process/p/stdin", content=b"fresh pipe\n")
    until(lambda: "fresh pipe" in again.client.get("/process/p/logs").json()["stdout"])
    assert again.client.get("/process/p/logs").json()["stdout"].startswith("b-none\n")
    assert again.run('echo "${BL_ARCHIVE_IMPORT_URL:-none}"')["stdout"] == "none\n"
    assert status(again)["state"] == "active"
    until((tmp_path / "began").exists)
    assert b"s3cr3t" not in again.log_path.read_bytes()

    (new / "changed").write_text("later")
    again.restart()
    until(lambda: (tmp_path / "began").read_text() == "x\nx\n")
    assert "restore" not in status(again)
    assert (new / "changed").read_text() == "later"
    assert store.attempts("GET", "a") == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "broken"),
        (b"nonsense" * 100, "broken"),
        (archive_of({}, {"version": 2}), "version 2"),
        (archive_of({}, {"processes": True}), "processes.json"),
        (zstd.compress(archive_of({}, {}))[:-9], "broken"),
        (None, "answered 404"),
    ],
)
def test_an_archive_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, store: Storage, data: bytes | None, text: str
) -> None:
    root = str(tmp_path)
    progress = Restored()
    if data is not None:
        store.kept["a"] = data

    with pytest.raises(Internal, match=text) as refused:
        restore(store.url("a"), root, LeftOut([]), temporary, Clock(), 0, progress)

    assert "s3cr3t" not in str(refused.value)
    assert not progress.written
    assert os.listdir(root) == []


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o755
    return made


def tar_of(*members: tarfile.TarInfo, deleted: Sequence[str] = ()) -> bytes:
    manifest = json.dumps({"version": 1, "deleted": deleted}).encode()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        first = entry(".blaxel-archive/manifest.json")
        first.size = len(manifest)
        archive.addfile(first, io.BytesIO(manifest))
        for member in members:
            archive.addfile(member)
    return target.getvalue()


SERVERS = ".blaxel-archive", "var/state"


@pytest.mark.parametrize(
    ("members", "deleted", "refused"),
    [
        ([entry("var/state/lock")], (), ""),
        ([entry("var/state", tarfile.SYMTYPE, "../..")], (), ""),
        ([entry(".blaxel-archive", tarfile.SYMTYPE, "..")], (), ""),
        ([entry("var", tarfile.SYMTYPE, "..")], (), "'var' holds what belongs to the server"),
        ([entry("var")], (), "'var' holds what belongs to the server"),
        ([entry("var", tarfile.DIRTYPE)], ("var/state", "var/state/lock"), ""),
        ([], ("var",), "'var' holds what belongs to the server"),
    ],
)
def test_what_is_the_servers_own_is_left_alone_by_a_restore(
    tmp_path: Path,
    store: Storage,
    members: list[tarfile.TarInfo],
    deleted: tuple[str, ...],
    refused: str,
) -> None:
    root = tmp_path / "root"
    (root / "var/state").mkdir(parents=True)
    (root / "var/state/lock").write_text("ours")
    store.kept["a"] = tar_of(*members, deleted=deleted)
    expected = pytest.raises(Internal, match=refused) if refused else contextlib.nullcontext()

    with expected:
        restore(store.url("a"), str(root), LeftOut(SERVERS), temporary, Clock(), 0, Restored())

    assert (root / "var/state/lock").read_text() == "ours"
    assert os.listdir(tmp_path) == ["root"]
    assert (root / ".blaxel-archive/restored.json").exists() is not bool(refused)


def test_the_mark_of_a_restore_follows_no_link(tmp_path: Path, store: Storage) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/.blaxel-archive").symlink_to(tmp_path)
    store.kept["a"] = tar_of()

    with pytest.raises(Internal, match="cannot apply"):
        restore(
            store.url("a"), str(tmp_path / "root"), LeftOut([]), temporary, Clock(), 0, Restored()
        )

    assert os.listdir(tmp_path) == ["root"]


def test_a_manifest_of_endless_depth_cannot_be_read(tmp_path: Path, store: Storage) -> None:
    data = b"[" * 200_000
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        first = entry(".blaxel-archive/manifest.json")
        first.size = len(data)
        archive.addfile(first, io.BytesIO(data))
    store.kept["a"] = target.getvalue()

    with pytest.raises(Internal, match="manifest cannot be read"):
        restore(store.url("a"), str(tmp_path), LeftOut([]), temporary, Clock(), 0, Restored())


@contextlib.contextmanager
def temporary(_root: str, path: str) -> Iterator[str]:
    yield os.path.basename(path) + ".new"


@pytest.mark.parametrize(
    ("url", "why"), [("", "version 2"), ("http://no host/a", "is no http or https URL")]
)
def test_after_a_restore_that_changed_nothing_the_server_goes_on(
    make_server: Make, tmp_path: Path, store: Storage, url: str, why: str
) -> None:
    fill(tmp_path / "root", {"a": "1"})
    store.kept["a"] = archive_of({"b": "2"}, {"version": 2})

    box = make_server(
        env=env_of(tmp_path / "root", BL_ARCHIVE_IMPORT_URL=url or store.url("a")),
        args=["-c", f"touch {tmp_path}/began"],
    )
    progress = restored(box)

    assert progress["state"] == "failed"
    assert why in progress["error"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["a"]
    until((tmp_path / "began").exists)
    assert status(box)["state"] == "active"
    assert box.run("true")["exitCode"] == 0


@pytest.mark.parametrize("how", ["cut", "escape"])
def test_a_restore_that_fails_half_way_leaves_the_sandbox_frozen_without_its_workload(
    make_server: Make, tmp_path: Path, store: Storage, how: str
) -> None:
    root = tmp_path / "root"
    fill(root, {"a": "1"})
    files = {"first": "written", "../outside" if how == "escape" else "second": "x" * 9_000_000}
    store.kept["a"] = archive_of(files, {"deleted": ["a", "../server0/stderr.log"][:1]})
    if how == "cut":
        store.fault = lambda _method, _path, _attempt: "drop:4000000"

    box = make_server(
        env=env_of(root, BL_ARCHIVE_IMPORT_URL=store.url("a")),
        args=["-c", f"touch {tmp_path}/began"],
    )
    progress = restored(box)

    assert progress["state"] == "failed"
    assert (root / "first").read_text() == "written"
    assert not (tmp_path / "outside").exists()
    frozen = status(box)
    assert frozen["state"] == "quiesced"
    assert "half-way" in frozen["reason"]
    assert box.client.post("/process", json={"command": "true"}).status_code == 503
    assert box.client.get("/health").status_code == 200
    assert not (tmp_path / "began").exists()
    assert box.client.post("/archive/resume").status_code == 200


def test_nothing_is_written_while_the_restore_runs(
    make_server: Make, tmp_path: Path, store: Storage
) -> None:
    fill(tmp_path / "root", {"a": "1"})
    store.kept["a"] = archive_of({"b": "2"}, {})
    wait = threading.Event()

    def late(_method: str, _path: str, _attempt: int) -> None:
        wait.wait(100)

    store.fault = late

    box = make_server(env=env_of(tmp_path / "root", BL_ARCHIVE_IMPORT_URL=store.url("a")))

    assert status(box)["state"] == "restoring"
    assert status(box)["restore"]["state"] == "downloading"
    assert box.client.post("/process", json={"command": "true"}).status_code == 503
    assert box.client.post("/archive/resume").status_code == 409
    assert box.client.post("/archive/export", json={"dryRun": True}).status_code == 409
    wait.set()
    assert restored(box)["state"] == "succeeded"
    assert box.run("true")["exitCode"] == 0
