"""Drives over real mounts: bound folders, rclone's FUSE, and a stand-in for blfs."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import (
    Server,
    children_of,
    debian,
    needs_root,
    state_of,
    until,
    words_of,
)

from sandkeeper.drives.drivers import first_nameserver
from sandkeeper.drives.rules import Drive, checked, refuse_system_folder
from sandkeeper.drives.system import read_mount
from sandkeeper.errors import BadInput
from sandkeeper.linux.mounts import mounts, parse_mounts


@pytest.fixture(scope="session")
def rclone() -> str:
    debian("rclone", "fuse3")
    return "/usr/bin/rclone"


@pytest.fixture(autouse=True)
def _no_mount_is_left(tmp_path: Path) -> Iterator[None]:
    """Unmount what a failed test has left, so that pytest can remove its folders."""
    yield
    for mount in mounts():
        if mount.path.startswith(str(tmp_path)):
            subprocess.run(["umount", "-l", mount.path], check=False)


BIND = {"SANDKEEPER_DRIVE_DRIVER": "bind"}


@pytest.fixture(scope="module")
def bound(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bound")
    env = {**BIND, "SANDKEEPER_DRIVE_ROOT": str(folder / "drives")}
    with Server(folder, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def remote(tmp_path_factory, rclone: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("remote")
    (folder / "remote/data/sub").mkdir(parents=True)
    (folder / "remote/data/file.txt").write_text("from the remote")
    env = {
        "SANDKEEPER_RCLONE_REMOTE": f":local:{folder / 'remote'}",
        "SANDKEEPER_DRIVE_DRIVER": "rclone",
        "SANDKEEPER_DRIVE_PROBE_MS": "100",
        "SANDKEEPER_RCLONE_ARGS": "--attr-timeout 0s --dir-cache-time 0s",
    }
    with Server(folder, env=env) as running:
        yield running


def drive(server: Server, name: str) -> Path:
    """Return the folder that holds a drive of the test's drivers."""
    below = "drives" if "SANDKEEPER_DRIVE_ROOT" in server.env else "remote"
    return server.folder / below / name


def mount(server: Server, name: str, path: Any, **more: Any) -> httpx.Response:
    body = {"driveName": name, "mountPath": str(path), **more}
    return server.client.post("/drives/mount", json=body)


def unmount(server: Server, path: Any) -> httpx.Response:
    return server.client.delete(f"/drives/mount/{str(path).lstrip('/')}")


def listed(server: Server) -> list[dict[str, Any]]:
    return server.client.get("/drives/mount").json()["mounts"]


def is_mounted(path: Path) -> bool:
    return any(item.path == str(path) for item in mounts())


def daemon_of(server: Server, target: Path) -> int:
    """Return the program behind a mount: one of an earlier mount may be about to end."""
    return next(pid for pid in children_of(server.pid) if os.fsencode(target) in words_of(pid))


def freeze(pid: int) -> None:
    """Stop a process, and wait until none of its threads can answer any more."""
    os.kill(pid, signal.SIGSTOP)
    tasks = f"/proc/{pid}/task"
    until(lambda: {state_of(int(task)) for task in os.listdir(tasks)} <= {"T", ""})


@needs_root
def test_a_bound_drive_is_mounted_listed_and_unmounted(bound: Server, tmp_path: Path) -> None:
    target = tmp_path / "a folder"

    done = mount(bound, "data", target)

    assert done.json() == {
        "success": True,
        "message": "Drive mounted successfully",
        "driveName": "data",
        "mountPath": str(target),
        "drivePath": "/",
        "readOnly": False,
        "uidMap": "",
        "gidMap": "",
    }
    (target / "x").write_text("kept")
    assert (drive(bound, "data") / "x").read_text() == "kept"
    (entry,) = listed(bound)
    assert (entry["driveName"], entry["mountPath"], entry["drivePath"]) == (
        "data",
        str(target),
        "/",
    )
    assert (entry["driver"], entry["status"]) == ("bind", "healthy")
    gone = bound.client.delete(f"/drives/mount/{str(target)[1:].replace('/', '%2F')}")
    assert gone.json() == {
        "success": True,
        "message": "Drive unmounted successfully",
        "mountPath": str(target),
    }
    assert listed(bound) == []
    assert not is_mounted(target)


@needs_root
def test_the_same_mount_again_changes_nothing_and_another_is_a_conflict(
    bound: Server, tmp_path: Path
) -> None:
    target = tmp_path / "m"
    assert mount(bound, "a", target).status_code == 200

    assert mount(bound, "a", f"{target}/").status_code == 200
    for other in ({"readOnly": True}, {"drivePath": "/sub"}):
        refused = mount(bound, "a", target, **other)
        assert refused.status_code == 409
        assert "mount path already in use" in refused.json()["error"]
    assert mount(bound, "b", target).status_code == 409
    assert len([item for item in mounts() if item.path == str(target)]) == 1
    assert unmount(bound, target).status_code == 200


@needs_root
def test_a_folder_of_a_drive_can_be_mounted_read_only(bound: Server, tmp_path: Path) -> None:
    target = tmp_path / "m"

    assert mount(bound, "a", target, drivePath="/deep/er/", readOnly=True).status_code == 200
    with pytest.raises(OSError):
        (target / "x").write_text("no")
    (entry,) = listed(bound)
    assert (entry["readOnly"], entry["drivePath"]) == (True, "/deep/er")
    assert (drive(bound, "a") / "deep/er").is_dir()
    assert unmount(bound, target).status_code == 200


def test_a_link_in_a_drive_does_not_lead_out_of_it(bound: Server, tmp_path: Path) -> None:
    drive(bound, "linked").mkdir(parents=True)
    (drive(bound, "linked") / "out").symlink_to("/etc")

    assert mount(bound, "linked", tmp_path / "m", drivePath="/out").status_code == 500
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Invalid request body: "),
        (b"{", "Invalid request body: "),
        (b'{"mountPath": "/mnt/x"}', "driveName"),
        (b'{"driveName": "a"}', "mountPath"),
        (b'{"driveName": "-a", "mountPath": "/mnt/x"}', "drive name"),
        (b'{"driveName": "a\\n", "mountPath": "/mnt/x"}', "drive name"),
        (b'{"driveName": "a", "mountPath": "/mnt/../etc"}', ".."),
        (b'{"driveName": "a", "mountPath": "/"}', "Mount path is required"),
        (b'{"driveName": "a", "mountPath": "/mnt/x", "drivePath": "x"}', "must start with /"),
        (b'{"driveName": "a", "mountPath": "/mnt/x", "drivePath": "/a/../b"}', ".."),
        (b'{"driveName": "a", "mountPath": "/mnt/x", "uidMap": "root"}', "uid"),
        (b'{"driveName": "a", "mountPath": "/mnt/x", "driver": "nfs"}', "driver"),
        (b'{"driveName": "a", "mountPath": "/proc/x"}', "system"),
        (b'{"driveName": "a", "mountPath": "/etc"}', "system"),
        (b'{"driveName": "a", "mountPath": "//usr//bin/"}', "system"),
        (b'{"driveName": "a", "mountPath": "/etc/passwd"}', "system"),
        (b'{"driveName": "a", "mountPath": "/mnt/x", "uidMap": "1"}', "cannot map"),
    ],
)
def test_what_may_not_be_mounted_is_a_400(bound: Server, body: bytes, text: str) -> None:
    refused = bound.client.post("/drives/mount", content=body)

    assert refused.status_code == 400
    assert text in refused.json()["error"]


def test_a_file_or_a_link_into_the_system_is_no_mount_point(bound: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/etc")

    assert mount(bound, "a", tmp_path / "file").status_code == 400
    assert mount(bound, "a", tmp_path / "link/x").status_code == 400
    assert mount(bound, "a", bound.state).status_code == 400


def test_only_drives_are_unmounted(bound: Server, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()

    for path, text in (
        ("proc", "not a drive"),
        (tmp_path / "plain", "not a mount point"),
        (tmp_path / "missing", "does not exist"),
        ("mnt%2F..%2Fproc", ".."),
        ("", "Mount path is required"),
    ):
        refused = unmount(bound, path)
        assert refused.status_code == 400
        assert text in refused.json()["error"]
    assert is_mounted(Path("/proc"))
    assert bound.client.delete("/drives/mount").status_code == 307
    assert bound.client.head("/drives/mount").status_code == 200


@needs_root
def test_a_drive_in_use_stays_until_it_is_free(bound: Server, tmp_path: Path) -> None:
    target = tmp_path / "m"
    mount(bound, "a", target)
    (target / "x").write_text("")

    with open(target / "x"):
        busy = unmount(bound, target)
        assert (busy.status_code, "in use" in busy.json()["error"]) == (409, True)
        assert is_mounted(target)
    assert unmount(bound, target).status_code == 200


@needs_root
def test_twenty_callers_who_mount_the_same_get_one_mount(bound: Server, tmp_path: Path) -> None:
    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(base_url=bound.url, timeout=30, trust_env=False) as client:
            body = {"driveName": "a", "mountPath": str(tmp_path / "m")}
            calls = (client.post("/drives/mount", json=body) for _ in range(20))
            return [reply.status_code for reply in await asyncio.gather(*calls)]

    assert asyncio.run(all_at_once()) == [200] * 20
    assert len([item for item in mounts() if item.path == str(tmp_path / "m")]) == 1
    assert unmount(bound, tmp_path / "m").status_code == 200


@needs_root
def test_mounts_outlive_the_server_and_belong_to_the_next_one(make_server, tmp_path: Path) -> None:
    bound: Server = make_server(env=BIND)
    mount(bound, "a", tmp_path / "m")
    bound.kill9()
    bound.start()

    assert [entry["driveName"] for entry in listed(bound)] == ["a"]
    assert unmount(bound, tmp_path / "m").status_code == 200


@needs_root
def test_a_fuse_drive_is_read_written_and_unmounted(remote: Server, tmp_path: Path) -> None:
    target = tmp_path / "m"

    done = mount(remote, "data", target, uidMap="7", gidMap="8")

    assert done.status_code == 200, done.text
    assert (done.json()["uidMap"], done.json()["gidMap"]) == ("7", "8")
    assert (target / "file.txt").read_text() == "from the remote"
    assert (target / "file.txt").stat().st_uid == 7
    (target / "new.txt").write_text("to the remote")
    (entry,) = listed(remote)
    assert (entry["driver"], entry["uidMap"], entry["gidMap"]) == ("rclone", "7", "8")
    assert unmount(remote, target).status_code == 200
    assert not is_mounted(target)
    assert (drive(remote, "data") / "new.txt").read_text() == "to the remote"


def read_by(pid: int) -> int:
    """Return how many bytes a process has read (proc_pid_io(5))."""
    fields = Path(f"/proc/{pid}/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


@needs_root
def test_a_backend_that_freezes_in_the_middle_of_a_read_stops_nobody(
    remote: Server, tmp_path: Path
) -> None:
    target = tmp_path / "m"
    big = drive(remote, "data") / "big"
    big.touch()
    os.truncate(big, 64 << 30)  # nobody comes to its end
    assert mount(remote, "data", target).status_code == 200
    reader = subprocess.Popen(
        ["dd", f"if={target / 'big'}", "of=/dev/null", "bs=64k", "iflag=direct"],
        stderr=subprocess.DEVNULL,
    )
    until(lambda: read_by(reader.pid) > 1 << 20)
    freeze(daemon_of(remote, target))

    started = time.monotonic()
    assert listed(remote)[0]["driveName"] == "data"
    assert remote.client.get("/health").status_code == 200
    assert time.monotonic() - started < 60
    assert unmount(remote, target).status_code == 200
    assert time.monotonic() - started < 120
    assert not is_mounted(target)
    assert reader.wait(30) != 0
    big.unlink()
    assert mount(remote, "data", target).status_code == 200
    assert (target / "file.txt").read_text() == "from the remote"
    assert unmount(remote, target).status_code == 200


@needs_root
def test_a_dead_backend_is_mounted_again_by_itself(remote: Server, tmp_path: Path) -> None:
    target = tmp_path / "m"
    assert mount(remote, "data", target).status_code == 200

    os.kill(daemon_of(remote, target), signal.SIGKILL)

    until(lambda: [entry["restarts"] for entry in listed(remote)] == [1])
    assert (target / "file.txt").read_text() == "from the remote"
    assert unmount(remote, target).status_code == 200


@needs_root
def test_a_fuse_drive_outlives_the_server_and_is_watched_by_the_next(
    remote: Server, tmp_path: Path
) -> None:
    target = tmp_path / "m"
    assert mount(remote, "data", target).status_code == 200
    daemon = daemon_of(remote, target)
    remote.kill9()
    remote.start()

    assert (target / "file.txt").read_text() == "from the remote"
    os.kill(daemon, signal.SIGKILL)
    until(lambda: [entry["restarts"] for entry in listed(remote)] == [1])
    assert unmount(remote, target).status_code == 200


def test_a_failed_mount_says_why_and_leaves_nothing(
    make_server, rclone: str, tmp_path: Path
) -> None:
    remote: Server = make_server(env={"SANDKEEPER_RCLONE_REMOTE": "no-such-remote:"})

    failed = mount(remote, "data", tmp_path / "m", driver="rclone")

    assert failed.status_code == 500
    assert failed.json()["error"].startswith("Failed to mount drive: rclone ended: ")
    assert not (tmp_path / "m").exists()
    assert listed(remote) == []


@needs_root
@pytest.mark.parametrize(
    ("filer", "path", "shown"), [("", "/sub/", "/sub"), ("filer.example", "/", "/")]
)
def test_blfs_gets_the_contracts_command_line(
    make_server, tmp_path: Path, filer: str, path: str, shown: str
) -> None:
    blfs = tmp_path / "blfs"
    blfs.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/argv\n'
        f'for a; do case $a in -dir=*) mount -t tmpfs none "${{a#-dir=}}";; esac; done\n'
        f"while mountpoint -q {tmp_path}/m; do sleep 0.02; done\n"
    )
    blfs.chmod(0o755)
    own: Server = make_server(
        env={
            "SANDKEEPER_BLFS_BINARY": str(blfs),
            "BL_WORKSPACE_ID": "WS-1",
            "BL_DRIVE_FILER": filer,
            "BLFS_UID_MAP": "1000",
            "BLFS_READ_DIRECT_IO": "true",
            "BLFS_EVICT_PAGE_CACHE_ON_CLOSE": "false",
        }
    )

    done = mount(own, "data", tmp_path / "m", drivePath=path, readOnly=True)

    assert done.status_code == 200, done.text
    assert (done.json()["uidMap"], done.json()["gidMap"]) == ("1000", "")
    argv = (tmp_path / "argv").read_text().split()
    server = filer or first_nameserver(Path("/etc/resolv.conf").read_text())
    assert argv == [
        "mount",
        f"-filer={server}:49200.49201",
        "-asyncDio=true",
        "-cacheSymlink=true",
        "-auth.tokenFile=/var/run/secrets/blaxel.ai/identity/token",
        f"-filer.path=/buckets/drv-data-ws-1{shown}",
        f"-dir={tmp_path}/m",
        "-volumeServerAccess=filerProxy",
        "-dirAutoCreate=true",
        "-writebackCache=true",
        "-crossMountCacheCoherence=false",
        "-readDirectIO=true",
        "-readOnly=true",
        "-map.uid=1000:0",
    ]
    assert unmount(own, tmp_path / "m").status_code == 200


def test_without_blfs_or_a_workspace_nothing_is_mounted_unless_bind_is_named(
    make_server, tmp_path: Path
) -> None:
    """A client would take a local folder for the drive that it shares with others."""
    own: Server = make_server(env={"SANDKEEPER_BLFS_BINARY": str(tmp_path / "none")})
    workspace = mount(own, "data", tmp_path / "m")
    own.env["BL_WORKSPACE_ID"] = "ws"
    own.restart()
    program = mount(own, "data", tmp_path / "m")

    assert (workspace.status_code, "BL_WORKSPACE_ID is not set" in workspace.text) == (500, True)
    assert (program.status_code, "none is not installed" in program.text) == (500, True)
    assert own.client.get("/drives/mount").json()["mounts"] == []


@needs_root
def test_the_published_client_mounts_lists_and_unmounts(
    bound: Server, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("BL_API_KEY", "dummy")
    monkeypatch.setenv("BL_WORKSPACE", "dummy")
    from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec
    from blaxel.core.sandbox.default.sandbox import SandboxInstance

    async def use() -> None:
        sandbox = SandboxInstance(
            Sandbox(metadata=Metadata(name="local"), spec=SandboxSpec()), force_url=bound.url
        )
        target = str(tmp_path / "m")
        done = await sandbox.drives.mount("data", target)
        assert (done.drive_name, done.mount_path) == ("data", target)
        (entry,) = await sandbox.drives.list()
        assert (entry.drive_path, entry.read_only) == ("/", False)
        assert (await sandbox.drives.unmount(target)).success

    asyncio.run(use())


def test_names_and_paths_follow_the_contracts_table() -> None:
    assert checked(Drive("a", "mnt/a..b/", "")).mount_path == "/mnt/a..b"
    assert checked(Drive("a" * 128, "/m", "")).drive_path == "/"
    for bad in (
        Drive("a" * 129, "/m"),
        Drive("a b", "/m"),
        Drive("", "/m"),
        Drive("a", "/" + "m" * 512),
        Drive("a", "/m\0"),
        Drive("a", "/m", uid_map="-1"),
        Drive("a", "/m", gid_map="²"),
    ):
        with pytest.raises(BadInput):
            checked(bad)
    refuse_system_folder("/usr/src/app", "/var/lib/state")
    refuse_system_folder("/procedures")
    for path in ("/", "/sys/fs", "/lib64/x", "/var/lib/state/x", "/home"):
        with pytest.raises(BadInput):
            refuse_system_folder(path, "/var/lib/state")


def test_the_kernels_table_is_unescaped() -> None:
    line = (
        "71 22 0:39 / /mnt/with\\040blank\\134x ro,nosuid shared:1 master:2 - fuse.blfs "
        "10.0.0.1:49200:/buckets/drv-my-data-ws1/a:b rw,user_id=0"
    )
    (entry,) = parse_mounts(line)

    assert (entry.path, entry.read_only, entry.id) == ("/mnt/with blank\\x", True, 71)
    assert (entry.kind, entry.options[:2]) == ("fuse.blfs", ("ro", "nosuid"))
    drive = read_mount(entry, "WS1")
    assert (drive.name, drive.drive_path, drive.read_only) == ("my-data", "/a:b", True)
    assert (
        first_nameserver(
            "#nameserver 1.1.1.1\nnameservers 2.2.2.2\nnameserver x\n"
            "nameserver fe80::1%eth0\nnameserver 8.8.8.8"
        )
        == "fe80::1%eth0"
    )


def test_a_call_that_never_returns_costs_its_time_limit_only() -> None:
    from sandkeeper.linux.mounts import bounded

    release = threading.Event()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await bounded(release.wait, seconds=0.05)

    asyncio.run(wait())
    release.set()
