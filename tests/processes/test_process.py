"""One process from its start to its end, and one attempt: real children, without a server."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.scenes import play

from sandkeeper.errors import NotFound, Unprocessable
from sandkeeper.files.work import FileWork
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.output import read_texts
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.segment import REMARK
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.keeper.client import Keeper
from sandkeeper.linux.users import Users
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.processes.confinement import Confinements
from sandkeeper.processes.keepalive import KeepAlive
from sandkeeper.processes.launch import Launch, Workshop
from sandkeeper.processes.lifecycle import State
from sandkeeper.processes.oom import OomWatch
from sandkeeper.processes.process import Process
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.recorder import Records
from sandkeeper.processes.runs import RunStore
from sandkeeper.processes.state_folder import StateFolder
from sandkeeper.settings import Environment

SECONDS = 30.0


class Rig:
    """A workshop of its own, and processes made in it; `finished` are those that it was told."""

    def __init__(self, folder: Path, sink: Sink) -> None:
        self.log = Log(sink)
        self.finished: list[str] = []
        self.scale = folder / "scale/file"
        self.scale.parent.mkdir()
        self.store = RunStore(folder / "state", folder / "pipes")
        children = Children()
        budget = Budget(run_bytes=0, total_bytes=0)
        writer = ThreadPoolExecutor(1)
        self.shop = Workshop(
            children=children,
            pump=Pump([folder / "stage"], budget, notify=lambda: None, failed=self.log.error),
            budget=budget,
            keeper=Keeper(folder / "keeper.sock", children, restarted=lambda: None),
            keepalive=KeepAlive(self.scale, allowed=True, log=self.log),
            environment=Environment(),
            users=Users(None, ()),
            log=self.log,
            oom=OomWatch(),
            confinements=Confinements(folder / "state", Users(None, ()), self.log),
            work=FileWork(lambda: None),
            spawner=ThreadPoolExecutor(1),
            writer=writer,
            records=Records(writer),
            nofile=1024,
            finished=self.finished.append,
            state=StateFolder(folder / "state", self.log),
        )
        (folder / "state").mkdir()
        self.store.prepare(self.shop.state.aside)
        self.shop.pump.start()

    def make(self, command: str, **given: Any) -> Process:
        folder = self.store.make()
        meta = RunMeta(id=folder.id, command=command, name="p", state="running", **given)
        return Process(self.shop, folder, meta, Journal(folder.path, segment_bytes=1 << 20))

    async def close(self) -> None:
        self.shop.pump.stop()
        self.shop.writer.shutdown()
        self.shop.spawner.shutdown()
        self.shop.confinements.close()
        self.shop.work.close()
        self.shop.keeper.close()
        await self.shop.children.close()


def within(folder: Path, scene: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    play(folder, Rig, scene, SECONDS)


async def said(process: Process) -> str:
    return (await read_texts(process.journal, 1 << 20)).logs


async def says(process: Process, text: str) -> None:
    while text not in await said(process):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "status", "code", "reason"),
    [
        ("echo hello", "completed", 0, "exited"),
        ("echo hello; exit 7", "failed", 7, "exited"),
        ("echo hello; kill -HUP $$", "failed", -1, "signaled"),
    ],
)
def test_an_end_is_told_with_its_cause_and_all_of_its_output(
    tmp_path: Path, command: str, status: str, code: int, reason: str
) -> None:
    async def scene(made: Rig) -> None:
        process = made.make(command)
        await process.start()
        assert (process.status, process.is_over) == ("running", False)
        await process.wait()
        meta = process.meta
        assert (process.status, meta.exit_code, meta.exit_reason) == (status, code, reason)
        assert (await said(process), process.leader) == ("hello\n", 0)
        assert made.finished == [process.meta.id]

    within(tmp_path, scene)


def test_what_cannot_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("true", working_dir=str(tmp_path / "nowhere"))
        with pytest.raises(Unprocessable, match="does not exist"):
            await process.start()
        await process.recorder.done()
        assert not process.folder.path.exists()
        assert not list(made.store.pipes.iterdir())

    within(tmp_path, scene)


@pytest.mark.parametrize(
    ("ask", "status", "reason", "words"),
    [
        (Process.stop, "stopped", "stopped", "gracefully terminated"),
        (Process.kill, "killed", "killed", "forcefully killed"),
    ],
)
def test_whoever_ends_it_is_told_so_and_a_second_time_that_it_is_over(
    tmp_path: Path, ask: Callable[[Process, str], None], status: str, reason: str, words: str
) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("exec sleep 60", restart_on_failure=True, max_restarts=-1)
        await process.start()
        ask(process, "p")
        await process.wait()
        assert (process.status, process.meta.exit_reason) == (status, reason)
        assert process.journal.totals[REMARK] == len(f"\n[Process is being {words}]\n")
        for again in (Process.stop, Process.kill):
            with pytest.raises(NotFound):
                again(process, "p")
        with pytest.raises(NotFound):
            process.send_signal(signal.SIGHUP, "p")

    within(tmp_path, scene)


def test_a_kill_wins_over_a_stop_that_is_not_heard(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("trap '' TERM; echo deaf; while :; do sleep 0.05; done")
        await process.start()
        await says(process, "deaf")
        process.stop("p")
        assert (process.state, process.status) == (State.STOPPING, "running")
        process.kill("p")
        await process.wait()
        assert (process.status, process.meta.exit_signal) == ("killed", signal.SIGKILL)

    within(tmp_path, scene)


def test_failures_are_tried_again_as_often_as_allowed_in_one_journal(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("echo try; exit 3", restart_on_failure=True, max_restarts=1)
        await process.start()
        first = process.meta.leader
        await process.wait()
        assert (process.status, process.meta.restart_count) == ("failed", 1)
        assert process.meta.leader != first
        notice = "\n[Process failed with exit code 3. Attempting restart 1/1...]\n"
        assert await said(process) == f"try\n{notice}try\n"

    within(tmp_path, scene)


def test_a_stop_between_two_attempts_is_the_end(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("exit 3", restart_on_failure=True, max_restarts=-1)
        await process.start()
        while process.state is not State.BACKOFF:
            await asyncio.sleep(0)  # in every round of the loop, so ahead of the timer
        process.stop("p")
        await process.wait()
        assert (process.status, process.meta.restart_count) == ("stopped", 0)
        assert "Attempting restart 1/unlimited" in await said(process)

    within(tmp_path, scene)


def test_a_restart_that_cannot_start_fails_and_says_why(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        folder = tmp_path / "here"
        folder.mkdir()
        process = made.make(
            f"rmdir {folder}; exit 3",
            working_dir=str(folder),
            restart_on_failure=True,
            max_restarts=-1,
        )
        await process.start()
        await process.wait()
        assert process.status == "failed"
        assert "[Failed to restart process: could not execute command" in await said(process)

    within(tmp_path, scene)


def test_time_that_is_up_kills_and_is_told_as_such(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("exec sleep 60", timeout=1)
        await process.start()
        await process.wait()
        assert process.timed_out
        assert (process.status, process.meta.exit_reason) == ("killed", "timeout")

    within(tmp_path, scene)


def test_a_process_holds_the_sandbox_awake_until_its_end(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("read line", keep_alive=True, stdin=True)
        await process.start()
        await process.recorder.done()
        assert (process.holds, made.scale.read_text()) == (True, "+")
        assert process.stdin is not None
        await process.stdin.write(b"go on\n")
        await process.wait()
        await process.recorder.done()
        assert (process.holds, made.scale.read_text()) == (False, "-")

    within(tmp_path, scene)


def test_the_record_tells_the_end_to_the_next_server(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("echo bye; exit 4")
        await process.start()
        await process.wait()
        process.recorder.save_now()
        await process.recorder.done()
        kept = process.folder.load()
        assert kept == process.meta
        assert (kept.state, kept.exit_code, kept.exit_offset) == ("failed", 4, 4)

    within(tmp_path, scene)


def test_an_attempt_has_the_keeper_hold_its_pipes_and_its_child(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        process = made.make("exec sleep 60")
        launch = Launch(made.shop, process.folder, process.meta, process.journal, None)
        child, sources = await launch.run(None, None)
        try:
            kept = made.shop.keeper.get(process.meta.id)
            assert len(kept) == 3
            pipes = {os.fstat(fd).st_ino for fd in kept}
            assert {os.fstat(source.fd).st_ino for source in sources} <= pipes
            assert (process.meta.leader, process.meta.pid) == (child.pid, str(child.pid))
            for fd in kept:
                os.close(fd)
        finally:
            child.signal_group(signal.SIGKILL)
            await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert child.reap().signal == signal.SIGKILL
            for source in sources:
                source.close()
            made.shop.keeper.drop(process.meta.id)

    within(tmp_path, scene)
