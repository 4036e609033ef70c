"""Children: started one way, reaped once, told apart from orphans."""

import asyncio
import os
import pty
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from tests.harness import needs_root

from sandkeeper.linux.children.child import ExitStatus
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.procstat import Births, start_time


def spawn(children: Children, code: str, **options):
    return children.spawn(Spawn([sys.executable, "-c", code], dict(os.environ), **options))


async def ended(child) -> ExitStatus:
    await readable(child.pidfd.number)
    return child.reap()


def test_an_exit_code_is_reported_as_it_was() -> None:
    child = spawn(Children(), "raise SystemExit(7)")

    status = asyncio.run(ended(child))

    assert (status.code, status.signal) == (7, None)
    assert status.cpu_seconds is not None
    assert status.cpu_seconds > 0


def test_the_peak_of_memory_is_the_childs_or_unknown_and_never_ours() -> None:
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    ours = int(line.split()[1]) * 1024
    more = ours + (64 << 20)
    small = asyncio.run(ended(spawn(Children(), "pass")))
    large = asyncio.run(ended(spawn(Children(), f"bytearray(b'x') * {more}")))

    assert small.peak_rss_bytes is None
    assert large.peak_rss_bytes is not None
    assert large.peak_rss_bytes > more


LOOKS = """
import os
fds = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]
print(*sorted(fds), os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid(), flush=True)
"""


@pytest.mark.parametrize("folder", [None, "/"])
@pytest.mark.parametrize("session", [False, True])
def test_a_child_has_its_streams_and_nothing_of_what_we_have_open(
    folder: str | None, session: bool, tmp_path: Path
) -> None:
    """With a folder `subprocess` starts it, without one posix_spawn(3)."""
    left = os.open("/", os.O_RDONLY)
    os.set_inheritable(left, True)  # as whoever started the server may leave it one
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    try:
        child = spawn(Children(), LOOKS, stdout=out, cwd=folder, new_session=session)
        status = asyncio.run(ended(child))
    finally:
        os.close(left)
        os.close(out)

    assert status.code == 0
    assert (tmp_path / "out").read_text().split() == ["0", "1", "2", "True", str(session)]


RULES = """
import os
os.close(os.open("/dev/tty", os.O_RDWR))
same = len({os.fstat(fd).st_rdev for fd in range(3)}) == 1
print(same, os.tcgetpgrp(0) == os.getpid() == os.getsid(0), flush=True)
"""


@pytest.mark.parametrize("folder", [None, "/"])
def test_a_child_rules_the_terminal_that_is_its_input(folder: str | None) -> None:
    """With a folder it is told so after a fork, without one by opening it after posix_spawn(3)."""
    master, slave = pty.openpty()
    try:
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        child = spawn(Children(), RULES, cwd=folder, new_session=True, terminal=True, **streams)
        status = asyncio.run(ended(child))
        said = os.read(master, 4096).split()
    finally:
        os.close(master)
        os.close(slave)

    assert status.code == 0
    assert said[:2] == [b"True", b"True"]


def test_a_death_by_signal_is_not_an_exit_code() -> None:
    child = spawn(Children(), "import os; os.kill(os.getpid(), 9)")

    status = asyncio.run(ended(child))

    assert (status.code, status.signal) == (None, signal.SIGKILL)


def test_noticing_an_exit_does_not_take_the_status() -> None:
    child = spawn(Children(), "raise SystemExit(3)")
    asyncio.run(readable(child.pidfd.number))

    assert child.has_exited()
    assert child.has_exited()
    assert child.reap().code == 3


def test_a_reaped_child_cannot_be_signalled() -> None:
    child = spawn(Children(), "pass")
    asyncio.run(ended(child))

    with pytest.raises(ProcessLookupError):
        child.signal_group(signal.SIGTERM)


def test_the_oom_score_is_set_before_the_first_instruction_and_ours_is_kept() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    read, write = os.pipe()
    child = spawn(Children(), "print(open('/proc/self/oom_score_adj').read())", stdout=write)
    os.close(write)
    asyncio.run(ended(child))

    with os.fdopen(read) as stream:
        assert stream.read().strip() == "500"
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_a_missing_program_and_a_missing_folder_are_different_errors(tmp_path) -> None:
    children = Children()

    with pytest.raises(FileNotFoundError) as program:
        children.spawn(Spawn(["/no/such/program"], {}))
    with pytest.raises(FileNotFoundError) as folder:
        children.spawn(Spawn(["/bin/true"], {}, cwd=str(tmp_path / "gone")))
    assert program.value.filename == "/no/such/program"
    assert folder.value.filename == str(tmp_path / "gone")


def test_the_leader_of_a_session_starts_as_any_other_program() -> None:
    read, write = os.pipe()
    says = "import os; print(os.getsid(0) == os.getpid(), os.environ, flush=True)"
    spec = Spawn([sys.executable, "-c", says], {"WORD": "ä"}, stdout=write, new_session=True)
    child = Children().spawn(spec)
    os.close(write)
    with open(read) as told:
        assert told.read().startswith("True environ({'WORD': 'ä'")
    assert asyncio.run(ended(child)).code == 0

    with pytest.raises(FileNotFoundError) as missing:
        Children().spawn(Spawn(["/no/such/program"], {}, new_session=True))
    assert missing.value.filename == "/no/such/program"
    with pytest.raises(ValueError, match="null byte"):
        Children().spawn(Spawn(["/bin/true", "a\0b"], {}, new_session=True))


def test_orphans_are_reaped_and_our_own_children_are_not() -> None:
    children = Children()
    children.reap_orphans()  # those of other tests
    ours = spawn(children, "raise SystemExit(5)")
    orphan = os.posix_spawn("/bin/true", ["true"], {})
    asyncio.run(readable(ours.pidfd.number))
    fd = os.pidfd_open(orphan)
    asyncio.run(readable(fd))
    os.close(fd)

    assert children.reap_orphans() == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, os.WNOHANG)
    assert ours.reap().code == 5


def test_a_tool_gives_its_output_and_its_status() -> None:
    async def run():
        argv = [sys.executable, "-c", "import sys; print('out'); sys.exit('err')"]
        return await Children().run_tool(argv, env=dict(os.environ))

    result = asyncio.run(run())

    assert (result.stdout, result.stderr, result.status.code) == (b"out\n", b"err\n", 1)


def test_a_tool_that_hangs_is_killed_with_its_children() -> None:
    async def run():
        await Children().run_tool(
            ["/bin/sh", "-c", "sleep 1000 & sleep 1000"], env=dict(os.environ), timeout=0.2
        )

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_tool_that_floods_costs_its_limit_only() -> None:
    async def run():
        argv = ["head", "-c", "5000000", "/dev/zero"]
        return await Children().run_tool(argv, env=dict(os.environ), limit=1000)

    assert len(asyncio.run(run()).stdout) == 1000


STARTED_FROM_A_TERMINAL = """
import asyncio, os, sys
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.identity import Identity
from tests.harness import needs_root

assert os.path.exists("/dev/tty") and os.ttyname(0)
read, write = os.pipe()
argv = ["/bin/sh", "-c", "(: < /dev/tty) 2>/dev/null && echo shared || echo apart"]
async def main():
    for identity in (Identity.resolve("nobody"), None):
        children = Children()
        child = await children.start(Spawn(argv, {}, "/", stdout=write, identity=identity))
        os.waitpid(child.pid, 0)
        child.pidfd.close()
        await children.close()
asyncio.run(main())
os.write(1, os.read(read, 100).replace(b"\\n", b" "))
"""


@needs_root
def test_another_user_does_not_share_the_terminal_the_server_was_started_from() -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", STARTED_FROM_A_TERMINAL])
    said = b""
    with suppress(OSError):  # EIO: the terminal's last user has gone
        while data := os.read(master, 1024):
            said += data
    os.close(master)
    os.waitpid(pid, 0)

    assert said.split() == [b"apart", b"shared"]


@needs_root
def test_a_folder_below_a_closed_one_stays_closed_for_another_user() -> None:
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        below = os.path.join(name, "closed", "below")
        os.makedirs(below)
        os.chmod(name, 0o755)
        os.chmod(os.path.dirname(below), 0o700)
        nobody = Identity.resolve("nobody")
        children = Children()

        async def run() -> None:
            with pytest.raises(PermissionError):
                await children.start(Spawn(["/bin/ls"], {}, below, identity=nobody))
            os.chmod(os.path.dirname(below), 0o755)
            child = await children.start(Spawn(["/bin/true"], {}, below, identity=nobody))
            await readable(child.pidfd.number)
            assert child.reap().code == 0
            await children.close()

        asyncio.run(run())


def test_a_birth_is_told_by_the_clock_until_proc_says_something_else() -> None:
    births = Births()
    for _ in range(20):
        before = births.now()
        child = os.posix_spawn("/bin/true", ["true"], {})
        assert births.start_time(child, before) == start_time(child) > 0
        os.waitpid(child, 0)
    doubtful, us = Births(), os.getpid()

    # As on a kernel whose /proc has another clock: this process was not born just now.
    assert {doubtful.start_time(us, doubtful.now()) for _ in range(20)} == {start_time(us)}
