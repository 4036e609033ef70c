"""Drives where the workload has a user of its own: what it may not, it may not by mounts either."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, needs_root, until

from sandkeeper.drives.drivers import Plan
from sandkeeper.drives.points import open_point, open_source, remove_made
from sandkeeper.drives.rules import (
    Drive,
    Reach,
    own_places,
    refuse_beyond_reach,
    refuse_system_folder,
)
from sandkeeper.errors import BadInput, Forbidden
from sandkeeper.linux import mounts as mounting
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.mounts import (
    attach,
    bind_mount,
    mount_id,
    mounts,
    open_mount,
    restrict,
    unmount,
    unmount_staged,
)

pytestmark = needs_root

NOBODY = 65534
WORKLOAD = Identity(NOBODY, NOBODY, "nobody", "/nonexistent", (NOBODY,))
TOKEN = {"SANDKEEPER_TOKEN": "operator"}
OPERATOR = {"Authorization": "Bearer operator"}


@contextmanager
def served(**env: str) -> Iterator[Server]:
    """Run a server of root's whose workload is nobody; its working directory is nobody's."""
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        variables = {"SANDKEEPER_DRIVE_DRIVER": "bind", "SANDKEEPER_TOKEN": "", **env}
        server = Server(folder, args=["--user", "nobody"], env=variables)
        if not variables["SANDKEEPER_TOKEN"]:
            del server.env["SANDKEEPER_TOKEN"]
        os.chown(server.workdir, NOBODY, NOBODY)
        try:
            with server:
                yield server
        finally:
            for mount in reversed(mounts()):
                if mount.path.startswith(name):
                    subprocess.run(["umount", "-l", mount.path], check=False)


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """Return a server without a token: whoever asks could be the workload."""
    with served() as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def mount(server: Server, path: Any, name: str = "data", **more: Any) -> httpx.Response:
    body = {"driveName": name, "mountPath": str(path), **more}
    return server.client.post("/drives/mount", json=body)


def unmounted(server: Server, path: Any, **more: Any) -> httpx.Response:
    return server.client.delete(f"/drives/mount/{str(path).lstrip('/')}", **more)


def at(path: Any) -> list[mounting.Mount]:
    return [mount for mount in mounts() if mount.path == str(path)]


def theirs(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, NOBODY, NOBODY)
    return path


def test_the_user_mounts_what_is_its_own_and_gains_nothing_by_it(own: Server) -> None:
    target = own.workdir / "new" / "er"

    done = mount(own, target)

    assert done.status_code == 200, done.text
    (there,) = at(target)
    assert {"nosuid", "nodev"} <= set(there.options)
    made = own.run(f"touch {target}/file && stat -c %u {target} {target}/..", workingDir="/")
    assert made["stdout"].split() == [str(NOBODY), str(NOBODY)]
    assert unmounted(own, target).status_code == 200
    assert not (own.workdir / "new").exists()  # it was made for the mount
    assert (own.state / "drive-data/data/file").stat().st_uid == NOBODY


def test_folders_that_hold_something_or_were_there_stay_after_the_unmount(own: Server) -> None:
    there = theirs(own.workdir / "there")
    assert mount(own, there).status_code == 200
    assert unmounted(own, there).status_code == 200
    assert there.is_dir()

    assert mount(own, there / "a/b").status_code == 200
    (there / "a" / "put").write_text("")
    assert unmounted(own, there / "a/b").status_code == 200
    assert [path.name for path in (there / "a").iterdir()] == ["put"]


def places(server: Server) -> list[str]:
    """Return where a server can be harmed: the list that was tried, and what it lives on."""
    packages = Path(sys.modules["msgspec"].__path__[0])
    return [
        str(packages),
        str(packages.parent),
        str(packages.parent / "prometheus_client"),
        sys.prefix,
        f"{sys.prefix}/bin",
        sys.base_prefix,
        str(Path(os.__file__).parent / "json"),
        *("/root", "/root/.ssh", "/root/.local", "/root/new/er", "/opt/x", "/srv/y", "/mnt/z"),
        *("/var/spool/cron", "/var/lib/dpkg/info", "/usr/share/python3", "/usr/local/share/x"),
        *("/", "/etc", "/etc/cron.d", "/proc", "/proc/self", "/proc/sys", "/sys/fs/cgroup"),
        *("/dev", "/dev/shm", "/run", "/tmp", "/home", "/var/log", "/boot"),
        *(str(server.state), f"{server.state}/runs", f"{server.state}/versions/new"),
        *(str(server.folder), f"{server.folder}/new", str(server.state.parent)),
    ]


def test_nothing_that_is_not_the_users_can_be_mounted_over(own: Server) -> None:
    tried = places(own)
    before = [mount for mount in mounts() if mount.path in tried]
    for path in tried:
        refused = mount(own, path)
        assert 400 <= refused.status_code < 500, (path, refused.text)
        assert not Path("/root/new").exists()
    assert [mount for mount in mounts() if mount.path in tried] == before
    assert own.client.get("/metrics").status_code == 200


def test_the_rule_itself_refuses_them_without_any_list(own: Server) -> None:
    for path in places(own):
        with pytest.raises((Forbidden, PermissionError, NotADirectoryError)):
            open_point(path, WORKLOAD)
        assert not Path("/root/new").exists()


def test_folders_of_its_processes_in_proc_are_no_mount_points(own: Server) -> None:
    own.client.post("/process", json={"command": "sleep 60", "name": "s", "workingDir": "/"})
    record = own.client.get("/process/s").json()
    for path in (f"/proc/{record['pid']}", f"/proc/{record['pid']}/task"):
        until(lambda path=path: Path(path).stat().st_uid == NOBODY)
        with pytest.raises(Forbidden, match="proc file system"):
            open_point(path, WORKLOAD)
        assert mount(own, path).status_code == 400
    own.client.delete("/process/s/kill")


def test_a_link_of_the_users_leads_to_no_other_place(own: Server) -> None:
    link = own.workdir / "link"
    link.symlink_to("/opt")
    os.lchown(link, NOBODY, NOBODY)

    for path in (link, link / "new"):
        assert mount(own, path).status_code == 403
    assert not Path("/opt/new").exists()
    link.unlink()


SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
os.makedirs("own/d/m", exist_ok=True)
os.rename("own", "p")
print(flush=True)
while True:
    os.rename("p", "own"); os.symlink(sys.argv[2], "p")
    os.unlink("p"); os.rename("own", "p")
    os.rename("p/d", "p/e"); os.symlink(sys.argv[2], "p/d")
    os.unlink("p/d"); os.rename("p/e", "p/d")
"""


@contextmanager
def swapping(folder: Path, victim: Path) -> Iterator[None]:
    """Have nobody exchange folders of its own for links to a folder of root's, all the time."""
    argv = ["python3", "-S", "-c", SWAPPER, str(folder), str(victim)]
    with subprocess.Popen(argv, user=NOBODY, group=NOBODY, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            yield
        finally:
            swapper.kill()


def test_folders_that_are_swapped_for_links_lead_no_mount_elsewhere(own: Server) -> None:
    folder = theirs(own.workdir / "swap")
    victim = own.folder / "victim"
    (victim / "d/m").mkdir(parents=True)
    (victim / "m").mkdir()
    before = sorted(str(path) for path in victim.rglob("*"))
    done = 0
    with swapping(folder, victim):
        for number in range(120):
            path = folder / "p/d" / ("m" if number % 2 else f"new{number}")
            reply = mount(own, path, readOnly=number % 3 == 0)
            assert reply.status_code < 500 or "Failed to" in reply.json()["error"]
            done += reply.status_code == 200
            inside = [entry.path for entry in mounts() if entry.path.startswith(str(victim))]
            assert inside == []
            if reply.status_code == 200:
                unmounted(own, reply.json()["mountPath"])
    assert sorted(str(path) for path in victim.rglob("*")) == before
    assert all(path.stat().st_uid == 0 for path in victim.rglob("*"))
    for entry in mounts():
        if entry.path.startswith(str(folder)):
            subprocess.run(["umount", "-l", entry.path], check=True)


def test_a_source_that_is_swapped_for_links_brings_nothing_of_roots(own: Server) -> None:
    base = own.folder / "base"
    base.mkdir()
    folder = theirs(base / "data")
    victim = own.folder / "source-victim"
    (victim / "d/m").mkdir(parents=True)
    plan = Plan(below=base, folder=("data", "p", "d", "m"))
    secret = (victim / "d/m").stat().st_ino
    with swapping(folder, victim):
        for _ in range(500):
            try:
                fd = open_source(plan, WORKLOAD, Reach.OWN)
            except (OSError, Forbidden):
                continue
            assert (os.fstat(fd).st_uid, os.fstat(fd).st_ino == secret) == (NOBODY, False)
            os.close(fd)
    assert [path.name for path in (victim / "d/m").iterdir()] == []


def test_a_drive_of_somebody_else_needs_the_operator(own: Server) -> None:
    drive = own.state / "drive-data" / "shared"
    drive.mkdir(parents=True)
    drive.chmod(0o777)
    target = theirs(own.workdir / "target")

    refused = mount(own, target, "shared", drivePath="/made")

    assert refused.status_code == 403
    assert "does not belong to the workload's user" in refused.json()["error"]
    assert at(target) == []
    fd = open_source(Plan(below=drive.parent, folder=("shared",)), WORKLOAD, Reach.DRIVES)
    os.close(fd)


def test_a_folder_of_all_drives_that_the_workload_rules_is_not_used(place: Path) -> None:
    root = theirs(place / "root")
    (root / "data").symlink_to("/etc")
    with pytest.raises(Forbidden, match="another user"):
        open_source(Plan(below=root, folder=("data",)), WORKLOAD, Reach.ALL)


def test_programs_and_maps_are_beyond_the_users_reach() -> None:
    bind, rclone = Drive("a", "/m", driver="bind"), Drive("a", "/m", driver="rclone", uid_map="0")

    refuse_beyond_reach(bind, bind, Reach.OWN, WORKLOAD)
    refuse_beyond_reach(rclone, rclone, Reach.ALL, WORKLOAD)
    refuse_beyond_reach(rclone, Drive("a", "/m", uid_map=str(NOBODY)), Reach.DRIVES, WORKLOAD)
    for drive, reach in ((rclone, Reach.OWN), (rclone, Reach.DRIVES)):
        with pytest.raises(Forbidden):
            refuse_beyond_reach(drive, drive, reach, WORKLOAD)


def test_what_the_server_is_made_of_is_refused_to_the_operator_too() -> None:
    trees = own_places()
    for path in (
        *(sys.prefix, f"{sys.prefix}/lib/python3.11/site-packages/mcp", sys.base_prefix),
        *(str(Path(os.__file__).parent), str(Path(sys.prefix).parent), "/"),
    ):
        with pytest.raises(BadInput):
            refuse_system_folder(path, *trees)
    refuse_system_folder("/mnt/data", *trees)
    refuse_system_folder("/opt/data", *trees)
    assert "/usr" not in trees


def test_the_operator_mounts_anywhere_and_the_user_cannot_take_it_down() -> None:
    with served(**TOKEN) as server, tempfile.TemporaryDirectory(dir="/srv") as place:
        target = Path(place) / "new"
        server.client.headers.update(OPERATOR)

        assert mount(server, target, "fresh").status_code == 200
        assert {"nosuid", "nodev"} <= set(at(target)[0].options)
        assert server.client.get("/drives/mount").json()["mounts"][0]["mountPath"] == str(target)
        server.restart()
        record = (server.state / "drives/mounted.json").read_text()
        assert '"reach":2' in record
        assert unmounted(server, target).status_code == 200
        assert (at(target), target.exists()) == ([], False)


def test_a_mount_of_the_operators_stays_when_the_user_asks_to_end_it(own: Server) -> None:
    """The record of an earlier version, whose mounts nobody's word is known of."""
    target = theirs(own.workdir / "operators")
    assert mount(own, target).status_code == 200
    own.stop()
    records = own.state / "drives/mounted.json"
    records.write_text(records.read_text().replace('"reach":0', '"reach":2'))
    own.start()

    refused = unmounted(own, target)

    assert refused.status_code == 403
    assert len(at(target)) == 1
    unmount(str(target))


def test_an_old_record_is_still_read(own: Server) -> None:
    target = theirs(own.workdir / "old")
    assert mount(own, target).status_code == 200
    own.stop()
    records = own.state / "drives/mounted.json"
    old = (
        f'[{{"name":"data","mount_path":"{target}","drive_path":"/","read_only":false,'
        '"uid_map":"","gid_map":"","driver":"bind","pid":0,"born":0}]'
    )
    records.write_text(old)
    own.start()

    (entry,) = own.client.get("/drives/mount").json()["mounts"]
    assert (entry["mountPath"], entry["status"]) == (str(target), "healthy")
    assert mount(own, target).status_code == 200
    unmount(str(target))


def test_the_unmount_follows_no_link_and_takes_no_other_mount(own: Server) -> None:
    """The folder above a mount is moved away, and a link to another mount put in its place."""
    above = theirs(own.workdir / "above")
    other = own.folder / "other"
    (other / "m").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", other / "m"], check=True)
    assert mount(own, above / "m").status_code == 200
    moved = own.workdir / "moved"
    above.rename(moved)
    above.symlink_to(other)

    done = unmounted(own, above / "m")

    assert done.status_code == 200, done.text
    assert len(at(other / "m")) == 1
    assert at(moved / "m") == []
    subprocess.run(["umount", other / "m"], check=True)


def test_an_unmount_tells_nothing_of_what_the_user_cannot_see(own: Server) -> None:
    closed = own.folder / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    (closed / "there").mkdir()

    told = [unmounted(own, closed / name).json()["error"] for name in ("there", "missing")]

    assert told == ["Failed to unmount drive: mount path does not exist"] * 2


def test_a_mount_point_that_is_in_use_is_not_taken_down_by_force(own: Server) -> None:
    target = theirs(own.workdir / "busy")
    assert mount(own, target).status_code == 200
    (target / "x").write_text("")
    with open(target / "x"):
        assert unmounted(own, target).status_code == 409
    assert unmounted(own, target).status_code == 200


def test_a_program_mounts_in_our_own_folder_and_is_shown_at_the_mount_point(
    place: Path,
) -> None:
    """A stand-in for blfs; whatever it mounts must never be at a name that can be swapped."""
    blfs = place / "blfs"
    blfs.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "$PATH" >{place}/argv\n'
        'for a; do case $a in -dir=*) d="${a#-dir=}";; esac; done\n'
        'mount -t tmpfs none "$d"\nexec sleep 60\n'
    )
    blfs.chmod(0o755)
    theirs(place / "bin")
    more = {
        "SANDKEEPER_BLFS_BINARY": str(blfs),
        "BL_WORKSPACE_ID": "ws",
        "SANDKEEPER_DRIVE_DRIVER": "blfs",
        "PATH": f"{place}/bin:{os.environ['PATH']}",
    }
    with served(**TOKEN, **more) as server:
        server.client.headers.update(OPERATOR)
        target = server.workdir / "m"

        done = mount(server, target)

        assert done.status_code == 200, done.text
        *argv, path = (place / "argv").read_text().split("\n")[:-1]
        (folder,) = (word.removeprefix("-dir=") for word in argv if word.startswith("-dir="))
        assert folder.startswith(f"{server.state}/drives/staging/")
        assert f"{place}/bin" not in path.split(":")
        assert (at(folder), Path(folder).exists()) == ([], False)
        (there,) = at(target)
        assert (there.kind, {"nosuid", "nodev"} <= set(there.options)) == ("tmpfs", True)
        (entry,) = server.client.get("/drives/mount").json()["mounts"]
        assert (entry["driver"], entry["mountPath"]) == ("blfs", str(target))
        assert unmounted(server, target).status_code == 200
        assert at(target) == []

        os.chown(blfs, NOBODY, NOBODY)
        refused = mount(server, target)
        assert (refused.status_code, "another user" in refused.text) == (500, True)


def test_what_a_killed_server_was_bringing_up_goes_at_the_next_start() -> None:
    with served() as server:
        left = server.state / "drives/staging/left"
        left.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", left], check=True)
        server.kill9()
        server.start()

        assert (at(left), left.exists()) == ([], False)


@pytest.fixture(params=["open_tree", "mount"])
def staged(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Iterator[Path]:
    """Return a staged bind mount, under a kernel that knows move_mount(2) or does not."""
    if request.param == "mount":

        def refuse(_path: str) -> int:
            raise OSError(38, "not implemented")

        monkeypatch.setattr(mounting, "_open_tree", refuse)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("words")
    (tmp_path / "stage").mkdir()
    fd = os.open(tmp_path / "source", os.O_PATH)
    bind_mount(fd, str(tmp_path / "stage"))
    os.close(fd)
    yield tmp_path / "stage"
    for mount in reversed(mounts()):
        if mount.path.startswith(str(tmp_path)):
            subprocess.run(["umount", "-l", mount.path], check=False)


def test_a_mount_is_shown_on_an_open_folder_with_the_rights_it_was_left(
    staged: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    restrict(str(staged), no_privilege=True)
    restrict(str(staged), read_only=True)
    fd = os.open(target, os.O_PATH)
    target.rename(tmp_path / "renamed")

    made = attach(str(staged), fd)

    os.close(fd)
    unmount_staged(str(staged))
    (there,) = at(tmp_path / "renamed")
    assert there.id == made
    assert {"ro", "nosuid", "nodev"} <= set(there.options)
    assert (tmp_path / "renamed/file").read_text() == "words"
    assert not staged.exists()
    root = open_mount(there.path, made)
    assert mount_id(root) == made
    os.close(root)
    with pytest.raises(OSError, match="Invalid argument"):
        unmount(there.path, made + 1)
    unmount(there.path, made)
    assert at(there.path) == []


def test_nothing_is_shown_on_a_folder_that_is_gone(staged: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    fd = os.open(target, os.O_PATH)
    target.rmdir()

    with pytest.raises(FileNotFoundError):
        attach(str(staged), fd)
    os.close(fd)


def test_a_remount_gives_no_right_back(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    options = "nosuid,nodev,noexec,noatime"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", target], check=True)
    try:
        restrict(str(target), read_only=True)
        assert {"ro", *options.split(",")} <= set(at(target)[0].options)
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_failed_descent_leaves_no_folder_and_no_descriptor(place: Path) -> None:
    folder = theirs(place / "theirs")
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    before = len(os.listdir("/proc/self/fd"))

    for path in (closed / "new", folder / "a/b" / ("n" * 300), place / "new/er"):
        with pytest.raises(OSError):
            open_point(str(path), WORKLOAD)
    assert sorted(path.name for path in folder.iterdir()) == ["closed"]
    point = open_point(f"{folder}/a/b/c", WORKLOAD)
    assert point.made == 3
    assert stat.S_IMODE((folder / "a/b/c").stat().st_mode) == 0o755
    point.close()
    (folder / "a/kept").write_text("")
    remove_made(point.path, point.made, WORKLOAD)
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["kept"]
    assert len(os.listdir("/proc/self/fd")) == before
