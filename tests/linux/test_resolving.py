"""Paths as an acting thread goes them: as the kernel would, but never through our own entry."""

import errno
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.harness import needs_root

from sandkeeper.files.changing.renaming import exclusive_rename
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths import lookup, resolving
from sandkeeper.linux.paths import useros as os_of_users

pytestmark = needs_root

READ, WRITE = os.O_RDONLY, os.O_WRONLY | os.O_CREAT


@pytest.fixture(params=["openat2", "older kernel"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Act as nobody in a folder of nobody's; on a kernel with openat2(2), and as without."""
    if request.param == "older kernel":

        def missing(*_arguments: object) -> NoReturn:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(resolving, "_openat2", missing)
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        (folder / "closed" / "below").mkdir(parents=True)
        (folder / "closed" / "below" / "file").write_text("secret")
        (folder / "closed" / "below").chmod(0o777)
        (folder / "closed").chmod(0o700)
        (folder / "open").mkdir()
        os.chown(folder / "open", 65534, 65534)
        folder.chmod(0o755)
        os.chdir(folder / "closed" / "below")
        try:
            with Identity.resolve("nobody").acting():
                yield folder / "open"
        finally:
            os.chdir(before)


def text_of(path: object) -> str:
    fd = lookup.open(str(path), READ)
    with open(fd) as file:
        return file.read()


def write(path: object, flags: int = WRITE) -> None:
    os.close(lookup.open(str(path), flags, 0o640))


def refused(path: object, flags: int = READ) -> int:
    with pytest.raises(OSError) as told:
        os.close(lookup.open(str(path), flags))
    assert told.value.filename == str(path)
    return told.value.errno or 0


def test_files_are_made_found_and_followed_as_by_the_kernel(place: Path) -> None:
    write(place / "new")
    lookup.symlink("new", str(place / "link"))
    lookup.symlink("later", str(place / "dangling"))
    lookup.symlink("loop", str(place / "loop"))
    lookup.mkdir(str(place / "folder"), 0o750)
    lookup.symlink("..", str(place / "folder" / "up"))

    made = lookup.stat(str(place / "link"))
    assert (made.st_mode & 0o777, made.st_uid) == (0o640, 65534)
    assert lookup.lstat(str(place / "link")).st_ino != made.st_ino
    assert lookup.readlink(str(place / "link")) == "new"
    assert text_of(f"{place}/folder/up/./folder/../new") == ""
    write(place / "dangling")
    assert lookup.isfile(str(place / "later"))
    assert refused(place / "new", WRITE | os.O_EXCL) == errno.EEXIST
    assert refused(place / "link", READ | os.O_NOFOLLOW) == errno.ELOOP
    assert refused(place / "loop") == errno.ELOOP
    assert refused(place / "none") == errno.ENOENT
    assert refused(f"{place}/new/x") == errno.ENOTDIR
    assert refused(place / "new", READ | os.O_DIRECTORY) == errno.ENOTDIR
    assert sorted(lookup.listdir(str(place))) == [
        *("dangling", "folder", "later", "link", "loop", "new")
    ]


def test_names_are_changed_and_removed_as_by_the_kernel(place: Path) -> None:
    write(place / "a")
    lookup.rename(str(place / "a"), str(place / "b"))
    lookup.link(str(place / "b"), str(place / "c"))
    lookup.chmod(str(place / "b"), 0o600)
    lookup.utime(str(place / "b"), ns=(5, 7))
    lookup.symlink("b", str(place / "l"))
    lookup.utime(str(place / "l"), ns=(1, 1), follow_symlinks=False)

    info = lookup.stat(str(place / "c"))
    assert (info.st_mode & 0o777, info.st_mtime_ns, info.st_nlink) == (0o600, 7, 2)
    with lookup.scandir(str(place)) as entries:
        found = sorted((e.path, e.is_file(), e.is_symlink()) for e in entries)
    assert found == [
        *((str(place / name), True, False) for name in ("b", "c")),
        (str(place / "l"), True, True),
    ]
    for name in ("b", "c", "l"):
        lookup.unlink(str(place / name))
    with pytest.raises(FileNotFoundError) as told:
        lookup.unlink(str(place / "b"))
    assert told.value.filename == str(place / "b")
    lookup.mkdir(str(place / "folder"))
    lookup.rmdir(f"{place}/folder/")
    assert lookup.listdir(str(place)) == []


@pytest.mark.parametrize("way", ["/proc/self/cwd", "/proc/thread-self/cwd", "/proc/self/root/proc"])
def test_our_own_magic_links_lead_nowhere(place: Path, way: str) -> None:
    lookup.symlink(way, str(place / "link"))
    for path in (f"{way}/file", f"{place}/link/file", f"{way}/../below/file"):
        assert refused(path) in {errno.EACCES, errno.ENOENT}
        assert not lookup.exists(path)
    assert os.path.exists("/proc/self/cwd/file")  # the kernel itself would let us


@pytest.mark.parametrize("name", ["maps", "limits", "fd", "cwd", "exe", "comm"])
def test_our_own_entry_is_refused(place: Path, name: str) -> None:
    lookup.symlink("/proc/self", str(place / "own"))
    for way in ("/proc/self", f"/proc/{os.getpid()}", f"{place}/own", "/proc/thread-self"):
        with pytest.raises(PermissionError):
            lookup.lstat(f"{way}/{name}")
    assert "MemTotal" in text_of("/proc/meminfo")
    assert "Name:" in text_of("/proc/1/status")
    assert lookup.readlink("/proc/self") == str(os.getpid())


def test_a_rename_that_replaces_nothing_does_not_pass_through_our_entry(place: Path) -> None:
    write(place / "mine")
    for source, target in (
        ("/proc/self/cwd/file", place / "got"),
        (place / "mine", "/proc/self/cwd/put"),
    ):
        with pytest.raises(OSError) as told:
            exclusive_rename(str(source), str(target))
        assert told.value.errno == errno.EACCES
    exclusive_rename(str(place / "mine"), str(place / "renamed"))
    assert sorted(os.listdir(place)) == ["renamed"]


def test_no_text_of_our_own_links_is_told_where_links_are_followed(place: Path) -> None:
    os.symlink("/proc/self/cwd", place / "away")
    os.symlink("../open/file", place / "file link")
    os.symlink("round", place / "round")
    own = f"/proc/{os.getpid()}/cwd"

    follow = os_of_users.path.realpath
    assert follow("/proc/self/cwd/file") == f"{own}/file"
    assert follow(place / "away" / "file") == f"{own}/file"
    assert follow(os.fsencode(place / "file link")) == os.fsencode(place / "file")
    assert follow(f"{place}/none/../x/./") == f"{place}/x"
    assert follow(place / "round").startswith(str(place))


@pytest.mark.parametrize("name", sorted(os_of_users.COMPOUND))
def test_what_os_makes_of_several_calls_is_not_for_users(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(os_of_users, name)


def test_a_thread_that_acts_for_nobody_uses_os_itself() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.symlink("/proc/self/maps", os.path.join(name, "maps"))
        assert "libc" in text_of(os.path.join(name, "maps"))


@pytest.mark.parametrize("name", sorted(set(lookup.__all__) & set(dir(os)) - {"utime"}))
def test_every_keyword_of_os_is_taken(name: str) -> None:
    """The type checker sees the signatures of `os`, not those of `linux.paths.lookup`."""
    ours = inspect.signature(getattr(lookup, name)).parameters.values()
    taken = {one.name for one in ours if one.kind is one.KEYWORD_ONLY}
    anything = any(one.kind is one.VAR_KEYWORD for one in ours)
    theirs = inspect.signature(getattr(os, name)).parameters.values()
    keywords = {one.name for one in theirs if one.kind is one.KEYWORD_ONLY}

    assert anything or keywords <= taken


def test_the_os_of_users_is_os_but_for_what_takes_a_path() -> None:
    for name in lookup.__all__:
        kind = os_of_users if hasattr(os, name) else os_of_users.path
        assert getattr(kind, name) is getattr(lookup, name)
    assert os_of_users.O_RDONLY == os.O_RDONLY
    assert os_of_users.path.join is os.path.join
    assert os_of_users.close is os.close
