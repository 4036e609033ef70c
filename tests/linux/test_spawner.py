"""Programs of another user: started by a process of ours that the workload cannot reach."""

import asyncio
import errno
import gc
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.harness import children_of, needs_root, state_of, stop_all_of, until

from sandkeeper.linux.children.child import Child, ExitStatus
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.identity import Identity

pytestmark = needs_root
EARLIER: set[int] = set()


@pytest.fixture(autouse=True)
def _earlier() -> None:
    EARLIER.clear()
    EARLIER.update(children_of(os.getpid()))


def with_children(work: Callable[[Children], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        children = Children()
        try:
            async with asyncio.timeout(60):
                return await work(children)
        finally:
            await children.close()

    before = files_of_ours()
    try:
        return asyncio.run(run())
    finally:
        gc.collect()  # the score's descriptor goes with its owner
        assert files_of_ours() <= before  # what others left may go meanwhile


def files_of_ours() -> set[tuple[str, str]]:
    """Return the descriptors of this process, and what each of them is."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of this look
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def somebody(*argv: str, env: dict[str, str] | None = None, **options: Any) -> Spawn:
    return Spawn(
        argv, env or {"PATH": "/usr/bin:/bin"}, identity=Identity.resolve("61119"), **options
    )


async def ended(child: Child) -> ExitStatus:
    await readable(child.pidfd.number)
    return child.reap()


async def output(children: Children, *argv: str, **options: Any) -> str:
    read_end, write_end = os.pipe()
    child = await children.start(somebody(*argv, stdout=write_end, stderr=write_end, **options))
    os.close(write_end)
    await ended(child)
    with open(read_end) as file:
        return file.read()


# A shell's background job ignores two; the server sees to those (linux.dispositions). The C library
# keeps 32 and 33 for itself: glibc's posix_spawn(3) leaves them ignored in whatever it starts, this
# test among it, and they have no other use for a program than to be set by its own C library.
SEEN_TO_ELSEWHERE = {signal.SIGINT, signal.SIGQUIT, 32, 33}


def ignored(mask: int) -> set[int]:
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


def test_a_program_has_its_users_rights_and_nothing_of_ours() -> None:
    async def work(children: Children) -> str:
        script = "grep -E '^(Uid|Gid|Groups|Cap|Sig)' /proc/self/status; ls /proc/self/fd"
        return await output(children, "sh", "-c", script)

    said = with_children(work).split("\n")

    found = dict(line.split(":\t") for line in said if ":\t" in line)
    assert found["Uid"].split() == ["61119"] * 4
    assert found["Gid"].split() == ["61119"] * 4
    assert found["Groups"].split() == []
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert int(found["SigBlk"], 16) == 0
    assert ignored(int(found["SigIgn"], 16)) <= SEEN_TO_ELSEWHERE
    assert [line for line in said if line.isdigit()] == ["0", "1", "2", "3"]  # 3 is ls's own


def test_a_child_is_ours_to_wait_for_and_leads_a_group_of_its_own() -> None:
    async def work(children: Children) -> tuple[str, ExitStatus, int]:
        child = await children.start(somebody("sh", "-c", "exit 7"))
        group = os.getpgid(child.pid)
        assert group == child.pid
        return await output(children, "sh", "-c", "echo $PPID"), await ended(child), os.getpid()

    parent, status, ours = with_children(work)

    assert int(parent) == ours
    assert status.code == 7


def test_limits_score_and_variables_reach_the_program() -> None:
    async def work(children: Children) -> str:
        script = "cat /proc/self/oom_score_adj; ulimit -n; echo ${#A}; pwd"
        return await output(
            children,
            "sh",
            "-c",
            script,
            env={"PATH": "/bin", "A": "x" * 130_000},
            nofile=77,
            cwd="/usr",
        )

    assert with_children(work).split() == ["500", "77", "130000", "/usr"]


@pytest.mark.parametrize(
    ("argv", "number", "name"),
    [
        (["/nowhere/x"], errno.ENOENT, "/nowhere/x"),
        (["no-such-program"], errno.ENOENT, "no-such-program"),
        (["/etc/passwd"], errno.EACCES, "/etc/passwd"),
        (["/"], errno.EACCES, "/"),
    ],
)
def test_what_cannot_be_executed_is_told_with_its_reason(
    argv: list[str], number: int, name: str
) -> None:
    async def work(children: Children) -> None:
        with pytest.raises(OSError) as told:
            await children.start(somebody(*argv))
        assert (told.value.errno, told.value.filename) == (number, name)

    with_children(work)
    until(lambda: not _children())


def test_a_nul_byte_is_refused_before_anything_is_started() -> None:
    async def work(children: Children) -> None:
        with pytest.raises(ValueError, match="null byte"):
            await children.start(somebody("echo", "a\0b"))

    with_children(work)


def test_a_killed_spawner_is_replaced_at_the_next_start() -> None:
    async def work(children: Children) -> ExitStatus:
        children.open_spawner()
        first = _children()
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        until(lambda: state_of(first[0]) == "Z")
        return await ended(await children.start(somebody("true")))

    assert with_children(work).code == 0


def test_a_start_whose_spawner_is_killed_is_made_by_another() -> None:
    async def work(children: Children) -> list[ExitStatus]:
        children.open_spawner()
        (first,) = _children()
        os.kill(first, signal.SIGSTOP)  # so that the orders are with it when it is killed
        order = somebody("sh", "-c", "exit 7")
        starts = [asyncio.ensure_future(children.start(order)) for _ in range(3)]
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        return [await ended(await start) for start in starts]

    assert [status.code for status in with_children(work)] == [7, 7, 7]


def test_a_stopped_spawner_is_replaced_and_what_it_had_not_begun_never_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def work(children: Children) -> ExitStatus:
        children.open_spawner()
        (stopped,) = _children()
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr("sandkeeper.linux.children.children.START_SECONDS", 0.3)
        tmp_path.chmod(0o777)
        late = [somebody("touch", str(tmp_path / str(number))) for number in range(3)]
        outcomes = await asyncio.gather(*map(children.start, late), return_exceptions=True)
        assert {str(one).partition("] ")[2] for one in outcomes} <= {
            "the spawner does not answer",
            "the spawner has ended",
        }
        monkeypatch.undo()
        status = await ended(await children.start(somebody("true")))
        while stopped in _children():
            await asyncio.sleep(0.01)
        assert len(_children()) == 1
        return status

    assert with_children(work).code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_cancelled_leaves_no_child() -> None:
    async def work(children: Children) -> None:
        starts = [
            asyncio.ensure_future(children.start(somebody("sleep", "1000"))) for _ in range(5)
        ]
        await asyncio.sleep(0)
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        while len(_children()) > 1:  # the spawner
            await asyncio.sleep(0.01)

    with_children(work)
    assert _children() == []


def test_a_workload_that_stops_all_it_may_delays_a_start_by_the_deadline_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandkeeper.linux.children.children.START_SECONDS", 0.3)

    async def work(children: Children) -> None:
        children.open_spawner()
        stopper = stop_all_of(61119)
        outcomes = await asyncio.gather(
            *(children.start(somebody("sleep", "1000")) for _ in range(10)), return_exceptions=True
        )
        stopper.kill()
        stopper.wait()
        for outcome in outcomes:
            if isinstance(outcome, Child):
                outcome.signal_group(signal.SIGKILL)
                await ended(outcome)
            else:
                assert isinstance(outcome, OSError)
                assert re.search("stopped before it began|the spawner", str(outcome))
        monkeypatch.undo()
        assert (await ended(await children.start(somebody("true")))).code == 0
        while len(_children()) > 1:  # the spawner
            await asyncio.sleep(0.01)

    with_children(work)
    assert _children() == []


def test_a_birth_that_a_loop_was_too_late_to_hear_of_leaves_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(children: Children) -> None:
        children.open_spawner()
        assert (await ended(await children.start(somebody("true")))).code == 0
        monkeypatch.setattr("sandkeeper.linux.children.children.START_SECONDS", 0.2)
        while True:
            before, began = set(_children()), time.monotonic()
            starting = asyncio.ensure_future(children.start(somebody("sleep", "1000")))
            for _ in range(5):
                await asyncio.sleep(0)  # the order goes out
            # Here the loop stands still: the child is there, and the time is up.
            until(lambda before=before: set(_children()) - before)
            until(lambda began=began: time.monotonic() - began > 0.5)
            (outcome,) = await asyncio.gather(starting, return_exceptions=True)
            if isinstance(outcome, OSError):
                assert re.search("stopped before it began", str(outcome))
                break
            assert isinstance(outcome, Child)
            outcome.signal_group(signal.SIGKILL)  # it was heard of before
            await ended(outcome)
        while len(_children()) > 1:  # the spawner
            await asyncio.sleep(0.01)

    with_children(work)
    assert _children() == []


def test_the_reaper_of_orphans_takes_no_child_that_is_on_its_way() -> None:
    async def work(children: Children) -> list[int | None]:
        over = asyncio.Event()

        async def reap() -> None:
            while not over.is_set():
                await asyncio.to_thread(children.reap_orphans)

        reaping = asyncio.ensure_future(reap())
        codes = []
        for _ in range(40):
            child = await children.start(somebody("sh", "-c", "exit 3"))
            codes.append((await ended(child)).code)
        over.set()
        await reaping
        return codes

    assert with_children(work) == [3] * 40


def _children() -> list[int]:
    """Return our children but for those that other tests have left."""
    return sorted(children_of(os.getpid()) - EARLIER)


def test_an_orphan_that_was_seen_during_a_start_is_reaped_after_it() -> None:
    """Nobody would look again before the next child ends."""

    async def work(children: Children) -> None:
        children.open_spawner()
        starting = asyncio.ensure_future(children.start(somebody("sleep", "1000")))
        await asyncio.sleep(0)
        orphan = os.fork()
        if orphan == 0:
            os._exit(0)
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        assert children.reap_orphans() == 0
        child = await starting
        while orphan in _children():
            await asyncio.sleep(0.01)
        child.signal_group(signal.SIGKILL)
        await ended(child)

    with_children(work)
