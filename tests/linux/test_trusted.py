"""Files that steer the server: what makes one trusted, and each way in which it is not."""

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness import needs_root, until

from sandkeeper.linux.children.programs import environment_for_root, refuse_program
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.trusted import (
    UntrustedFile,
    open_trusted_folder,
    open_trusted_output,
    read_trusted,
    write_trusted,
)
from sandkeeper.log.sink import open_target

NOBODY = Identity(65534, 65534, "nobody", "/nonexistent", (65534,))
STRANGER = 54321


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a/b/file, all of it ours alone."""
    (tmp_path / "a/b").mkdir(parents=True, mode=0o755)
    (tmp_path / "a/b/file").write_text("words")
    (tmp_path / "a/b/file").chmod(0o644)
    return tmp_path


def content(path: Path, **rule: object) -> str:
    return read_trusted(path, 100, **rule).decode()  # type: ignore[arg-type]


def test_a_file_of_our_own_is_read_by_every_name_that_we_gave_it(tree: Path) -> None:
    (tree / "link").symlink_to("a/b")
    (tree / "a/round").symlink_to("../link/file")
    (tree / "a/whole").symlink_to(tree / "a/round")

    for name in ("a/b/file", "link/file", "a/round", "a/whole", "a//b/../b/./file"):
        assert content(tree / name) == "words"
        assert read_trusted(f"{tree}/{name}", 100) == b"words"


def test_a_relative_name_begins_in_the_working_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "a")

    assert read_trusted("b/file", 100) == b"words"


def test_the_systems_own_links_are_fine() -> None:
    with pytest.raises(OSError, match="larger"):
        read_trusted("/proc/self/../version", 1)  # /proc/self is a link, too
    os.close(open_trusted_folder("/bin"))


def test_what_is_missing_too_large_or_in_a_circle_is_an_error_of_the_system(tree: Path) -> None:
    (tree / "circle").symlink_to("circle")
    (tree / "dangling").symlink_to("nowhere")

    for name in ("none", "none/below", "dangling", "a/none/../b/file"):
        with pytest.raises(FileNotFoundError):
            content(tree / name)
    with pytest.raises(OSError, match="levels of symbolic links"):
        content(tree / "circle")
    with pytest.raises(NotADirectoryError):
        content(tree / "a/b/file/below")
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_trusted(tree / "a/b/file", 3)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "socket"])
def test_only_regular_files_are_read_and_nothing_waits(tree: Path, kind: str) -> None:
    path = tree / "a/b/other"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/zero")

    with pytest.raises(UntrustedFile, match="not a regular file"):
        content(path)


SPOILS: dict[str, Callable[[Path], object]] = {
    "file of another": lambda tree: os.chown(tree / "a/b/file", STRANGER, 0),
    "file for all": lambda tree: (tree / "a/b/file").chmod(0o646),
    "file for a group": lambda tree: spoil_group(tree / "a/b/file"),
    "folder of another": lambda tree: os.chown(tree / "a/b", STRANGER, 0),
    "folder for all": lambda tree: (tree / "a/b").chmod(0o777),
    "folder for a group": lambda tree: spoil_group(tree / "a/b"),
    "folder above of another": lambda tree: os.chown(tree / "a", STRANGER, 0),
    "folder above for all": lambda tree: (tree / "a").chmod(0o777),
    "folder above for a group": lambda tree: spoil_group(tree / "a"),
}


def spoil_group(path: Path) -> None:
    os.chown(path, 0, STRANGER)
    path.chmod(path.stat().st_mode | 0o020)


@needs_root
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
@pytest.mark.parametrize("name", ["a/b/file", "link", "deep/file"])
def test_nobody_else_may_have_had_a_hand_in_it(
    tree: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    (tree / "link").symlink_to("a/b/file")
    (tree / "deep").symlink_to(tree / "a/b")
    assert content(tree / name) == "words"
    spoil(tree)

    with pytest.raises(UntrustedFile, match=r"another user|can be written by others"):
        content(tree / name)


@needs_root
def test_a_link_in_a_strangers_folder_leads_nowhere(tree: Path) -> None:
    theirs = tree / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(tree / "a/b/file")  # even if root made it
    os.chown(theirs, STRANGER, STRANGER)
    (tree / "into").symlink_to("theirs/link")

    for name in ("theirs/link", "into", "theirs/../a/b/file"):
        with pytest.raises(UntrustedFile, match="another user"):
            content(tree / name)


@needs_root
def test_in_a_sticky_folder_only_what_is_ours_counts(tree: Path) -> None:
    crowd = tree / "crowd"
    crowd.mkdir()
    crowd.chmod(0o1777)
    (crowd / "ours").write_text("ours")
    (crowd / "folder").mkdir()
    (crowd / "folder/file").write_text("below")
    (crowd / "link").symlink_to(tree / "a/b/file")
    assert [content(crowd / name) for name in ("ours", "folder/file", "link")] == [
        *("ours", "below", "words"),
    ]

    (crowd / "theirs").write_text("theirs")
    os.chown(crowd / "theirs", STRANGER, STRANGER)
    (crowd / "planted").symlink_to(tree / "a/b/file")
    os.lchown(crowd / "planted", STRANGER, STRANGER)
    os.link(tree / "a/b/file", crowd / "hard")
    os.link(crowd / "link", crowd / "hardlink", follow_symlinks=False)
    for name in ("theirs", "planted", "hard", "hardlink"):
        with pytest.raises(UntrustedFile, match=r"another user|hard link"):
            content(crowd / name)


@needs_root
def test_the_group_of_root_does_not_count_when_the_workload_is_in_it(tree: Path) -> None:
    (tree / "a/b").chmod(0o775)
    member = Identity(65534, 65534, "nobody", "/", (0,))

    assert content(tree / "a/b/file", workload=NOBODY) == "words"
    with pytest.raises(UntrustedFile):
        content(tree / "a/b/file", workload=member)


@needs_root
def test_an_access_control_list_that_gives_more_is_seen(tree: Path) -> None:
    # Version 2: u::rw-, u:65534:rw-, g::r--, m::rw-, o::r-- (acl(5), linux/posix_acl_xattr.h).
    none = 0xFFFFFFFF
    entries = ((1, 6, none), (2, 6, 65534), (4, 4, none), (16, 6, none), (32, 4, none))
    data = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, mode, who in entries
    )
    os.setxattr(tree / "a/b/file", "system.posix_acl_access", data)

    with pytest.raises(UntrustedFile):
        content(tree / "a/b/file")


@needs_root
def test_links_that_change_all_the_time_never_lead_to_what_is_roots(tree: Path) -> None:
    """The workload swaps a folder for a link to a folder of root's while the file is read."""
    secret = tree / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("root's")
    theirs = tree / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    swap = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.makedirs('own', exist_ok=True)\n"
        "open('own/file', 'w').write('mine')\n"
        "print(flush=True)\n"
        "while True:\n"
        "    os.rename('own', 'd'); os.rename('d', 'own')\n"
        "    os.symlink(sys.argv[2], 'd'); os.unlink('d')\n"
    )
    command = ["python3", "-S", "-c", swap, str(theirs), str(secret)]
    with subprocess.Popen(command, user=65534, group=65534, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            swapper.stdout.readline()
            for _ in range(2000):
                with pytest.raises((UntrustedFile, FileNotFoundError)):
                    content(theirs / "d/file")
        finally:
            swapper.kill()


@needs_root
def test_folders_are_made_only_where_nobody_else_rules(tree: Path) -> None:
    os.close(open_trusted_folder(tree / "new/er", make=0o700))
    assert stat.S_IMODE((tree / "new/er").stat().st_mode) == 0o700
    write_trusted(tree / "further/file", b"words", mode=0o644)
    assert content(tree / "further/file") == "words"

    theirs = tree / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(tree / "a")
    os.chown(theirs, STRANGER, STRANGER)
    for path in (theirs / "x/file", theirs / "link/x/file"):
        with pytest.raises(UntrustedFile):
            write_trusted(path, b"planted")
    assert sorted(p.name for p in (tree / "a").iterdir()) == ["b"]


@needs_root
def test_output_goes_where_the_workload_cannot_lead_it(tree: Path) -> None:
    group = tree / "group"
    group.mkdir()
    os.chown(group, STRANGER, STRANGER)  # as /var/log, of a user of the system
    fd = open_trusted_output(group / "log", os.O_WRONLY, 0o600, workload=NOBODY)
    os.write(fd, b"line\n")
    os.close(fd)
    assert (group / "log").read_text() == "line\n"

    theirs = tree / "theirs"
    theirs.mkdir()
    (theirs / "made").write_text("")
    (theirs / "link").symlink_to(tree / "a/b/file")
    os.chown(theirs, 65534, 65534)
    for name in ("made", "link", "new"):
        with pytest.raises(UntrustedFile):
            open_trusted_output(theirs / name, os.O_WRONLY, 0o600, workload=NOBODY)
    assert sorted(p.name for p in theirs.iterdir()) == ["link", "made"]
    assert (tree / "a/b/file").read_text() == "words"


@needs_root
def test_the_log_may_be_a_pipe_or_a_device_that_the_operator_named(tree: Path) -> None:
    os.mkfifo(tree / "pipe", 0o600)
    for target in (str(tree / "pipe"), "/dev/null", "none", "/dev/stderr", "stdout"):
        os.close(open_target(target, NOBODY))

    crowd = tree / "crowd"
    crowd.mkdir()
    crowd.chmod(0o1777)
    os.mkfifo(crowd / "pipe", 0o600)
    os.chown(crowd / "pipe", 65534, 65534)
    with pytest.raises(PermissionError, match="another user"):
        open_target(str(crowd / "pipe"), NOBODY)


@needs_root
def test_programs_of_roots_get_no_place_that_the_workload_rules(tree: Path) -> None:
    theirs = tree / "theirs"
    (theirs / "bin").mkdir(parents=True)
    for path in (theirs, theirs / "bin"):
        os.chown(path, 65534, 65534)
    env = {
        "PATH": f"{theirs}/bin:relative::/usr/bin:/bin",
        "HOME": str(theirs),
        "XDG_CONFIG_HOME": str(theirs / "none"),
        "RCLONE_CONFIG": str(tree / "a/b/file"),
        "TMPDIR": "/tmp",
        "LD_PRELOAD": f"/usr/lib/none.so {theirs}/evil.so",
        "LD_LIBRARY_PATH": f"/tmp/lib:{theirs}",
        "BASH_ENV": str(theirs / "none/rc"),
        "REMOTE": f":local:{theirs}",
        "OTHER": "kept",
    }

    assert environment_for_root(env, None) == env
    assert environment_for_root(env, NOBODY) == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/root",
        "RCLONE_CONFIG": str(tree / "a/b/file"),
        "LD_PRELOAD": "/usr/lib/none.so",
        "REMOTE": f":local:{theirs}",
        "OTHER": "kept",
    }
    (theirs / "bin/program").write_text("#!/bin/sh\n")
    refuse_program("/bin/sh", NOBODY)
    with pytest.raises(UntrustedFile):
        refuse_program(str(theirs / "bin/program"), NOBODY)


def test_many_threads_leave_no_descriptor_open(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def read() -> None:
        for _ in range(50):
            content(tree / "a/b/file")
            with pytest.raises(UntrustedFile):
                content(tree / "a/b")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # What other tests left may go meanwhile.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
