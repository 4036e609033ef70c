"""The workload's user: resolving it, acting for it in one thread only."""

import grp
import os
import pwd
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import needs_root

from sandkeeper.linux.identity import INVALID, Identity, UnusableUser, acting_for

NOBODY = Identity.resolve("nobody")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A root-only file that is reachable but not readable for others."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    path = tmp_path / "secret"
    path.write_text("root's")
    path.chmod(0o600)
    return path


def test_a_user_is_found_by_name_and_by_number_with_its_groups() -> None:
    entry = pwd.getpwnam("nobody")

    for text in ("nobody", str(entry.pw_uid)):
        found = Identity.resolve(text)
        assert (found.uid, found.gid, found.name) == (entry.pw_uid, entry.pw_gid, "nobody")
        assert found.home == entry.pw_dir
        assert set(found.groups) == set(os.getgrouplist("nobody", entry.pw_gid))


def test_a_group_can_be_named_or_numbered() -> None:
    group = grp.getgrnam("daemon").gr_gid

    assert Identity.resolve("nobody:daemon").gid == group
    assert Identity.resolve(f"nobody:{group}").gid == group
    assert group in Identity.resolve("nobody:daemon").groups


def test_an_unknown_uid_has_the_same_gid_and_lives_in_the_root_folder() -> None:
    assert Identity.resolve("54321") == Identity(54321, 54321, "54321", "/", ())
    assert Identity.resolve("54321:99").gid == 99
    assert Identity.resolve("54321:") == Identity.resolve("54321")
    assert Identity.resolve("nobody:") == NOBODY


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":daemon", "no-such-user", "nobody:no-such-group", "root", "0"),
        *("0:1000", "root:nogroup", "-1", str(INVALID), f"1000:{INVALID}", "9" * 30, " nobody"),
        *("nobody\0", "٣", "1e3", "nobody:daemon:x"),
    ],
)
def test_what_cannot_be_acted_for_is_refused(text: str) -> None:
    with pytest.raises(UnusableUser):
        Identity.resolve(text)


@given(st.text(max_size=20))
def test_no_text_resolves_to_root(text: str) -> None:
    try:
        found = Identity.resolve(text)
    except UnusableUser:
        return
    assert 0 < found.uid < INVALID


@needs_root
def test_files_of_root_are_closed_while_acting_and_open_again_after(secret: Path) -> None:
    with NOBODY.acting():
        with pytest.raises(PermissionError):
            secret.read_text()
        with pytest.raises(PermissionError):
            (secret.parent / "new").write_text("x")
        with pytest.raises(PermissionError):
            secret.rename(secret.parent / "other")
        with pytest.raises(PermissionError):
            secret.chmod(0o666)
        with pytest.raises(PermissionError):
            Path("/proc/1/environ").read_bytes()

    assert secret.read_text() == "root's"


@needs_root
def test_a_symbolic_link_leads_no_further_than_the_user(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)

    with NOBODY.acting(), pytest.raises(PermissionError):
        link.read_text()


@needs_root
def test_what_is_made_belongs_to_the_user(tmp_path: Path, secret: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    os.chown(open_folder, NOBODY.uid, NOBODY.gid)

    with NOBODY.acting():
        (open_folder / "file").write_text("x")
        (open_folder / "folder").mkdir()
        (open_folder / "link").symlink_to("file")

    for made in open_folder.iterdir():
        status = made.lstat()
        assert (status.st_uid, status.st_gid) == (NOBODY.uid, NOBODY.gid)


@needs_root
def test_supplementary_groups_count_and_roots_do_not(tmp_path: Path, secret: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_text("group's")
    os.chown(shared, 0, 4321)
    shared.chmod(0o640)

    with Identity(54321, 54321, "x", "/", (54321, 4321)).acting():
        assert shared.read_text() == "group's"
        assert set(os.getgroups()) == {54321, 4321}
    with Identity(54321, 54321, "x", "/").acting(), pytest.raises(PermissionError):
        shared.read_text()
    with Identity(54321, 54321, "x", "/").acting():
        assert os.getgroups() == []


@needs_root
def test_other_threads_stay_who_they_are(secret: Path) -> None:
    acting, done = threading.Event(), threading.Event()

    def other() -> None:
        with NOBODY.acting():
            acting.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert acting.wait(60)
    try:
        assert secret.read_text() == "root's"
        assert NOBODY.uid not in os.getgroups()
    finally:
        done.set()
        thread.join()


@needs_root
def test_capabilities_over_files_are_gone_inside_and_back_outside() -> None:
    def effective() -> int:
        text = Path("/proc/thread-self/status").read_text()
        return int(text.split("CapEff:")[1].split()[0], 16)

    dac_override = 1 << 1
    before = effective()
    with NOBODY.acting():
        inside = effective()

    assert before & dac_override
    assert not inside & dac_override
    assert effective() == before


@needs_root
def test_an_error_inside_ends_the_acting(secret: Path) -> None:
    with pytest.raises(KeyError), NOBODY.acting():
        raise KeyError

    assert secret.read_text() == "root's"


@needs_root
def test_acting_twice_for_one_is_one_and_for_two_is_a_mistake(secret: Path) -> None:
    with NOBODY.acting():
        with NOBODY.acting():
            pass
        with pytest.raises(PermissionError):
            secret.read_text()
        with pytest.raises(RuntimeError), Identity(54321, 54321, "x", "/").acting():
            pass
        with pytest.raises(PermissionError):
            secret.read_text()


def test_without_an_identity_nothing_changes(secret: Path) -> None:
    with acting_for(None):
        assert secret.read_text() == "root's"


@needs_root
def test_a_server_without_the_right_to_change_is_told_so_at_the_start() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # a child that gives root away
        os.setgroups([])
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
        try:
            NOBODY.check()
            text = "accepted"
        except UnusableUser as error:
            text = str(error)
        Identity(12345, 12345, "own", "/").check()
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as stream:
        assert stream.read().startswith("cannot act for nobody")


@needs_root
def test_acting_costs_microseconds() -> None:
    import timeit

    def once() -> None:
        with NOBODY.acting():
            pass

    assert min(timeit.repeat(once, number=100, repeat=5)) / 100 < 500e-6


@needs_root
def test_acting_leaves_no_capability_and_no_effective_root() -> None:
    def status() -> dict[str, str]:
        text = Path("/proc/thread-self/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    before = status()
    with NOBODY.acting():
        inside = status()
        assert int(inside["CapEff"], 16) == 0
        assert inside["Uid"].split() == ["0", "65534", "0", "65534"]  # nobody may signal it
        with pytest.raises(PermissionError):
            os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)

    after = status()
    assert all(before[name] == after[name] for name in ("CapEff", "Uid", "Gid", "Groups"))
