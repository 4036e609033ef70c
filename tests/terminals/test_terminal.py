"""One terminal session from its shell's start to its end: real shells, without a server."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.harness import alive
from tests.scenes import play

from sandkeeper.api.schemas.terminals import screen_of, terminal_of
from sandkeeper.errors import Conflict
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.cursor import Chunk, Follow, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.log.access import Access, Caller
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.terminals import terminal as module
from sandkeeper.terminals.looking import until_shown
from sandkeeper.terminals.pty import open_pty
from sandkeeper.terminals.pump import ROUND_BYTES, TerminalPump
from sandkeeper.terminals.spectator import raw_output, watch
from sandkeeper.terminals.store import TerminalFolder, TerminalMeta
from sandkeeper.terminals.terminal import AHEAD_BYTES, Terminal, Viewer

SECONDS = 60.0
ENV = {"PATH": "/usr/bin:/bin", "TERM": "dumb", "PS1": "$ ", "ENV": ""}


class Rig:
    """A pump and terminals on it; `ended` are the names of those that were told to be over."""

    def __init__(self, folder: Path, sink: Sink) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.ended: list[str] = []
        self.failures: list[str] = []
        self.terminals: list[Terminal] = []
        self.children = Children()
        self._loop = asyncio.get_running_loop()
        self._access = Access(Log(sink), requests=False)
        self.pump = TerminalPump(
            Budget(run_bytes=64 << 20, total_bytes=0),
            notify=lambda: self._loop.call_soon_threadsafe(self._on_news),
            failed=self.failures.append,
        )
        self.pump.start()

    def _on_news(self) -> None:
        journals = [line.journal for line in self.pump.take_news()]
        for terminal in self.terminals:
            if terminal.journal in journals:
                terminal.news()

    def audited(self) -> list[dict[str, str]]:
        """Return the whole lines of the log about what was typed."""
        lines = [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]]
        return [line for line in lines if line.get("action") == "terminal_command"]

    async def _on_end(self, terminal: Terminal) -> None:
        self.ended.append(terminal.meta.name)

    def make(self, name: str = "t", grace: float = 0.1) -> Terminal:
        folder = TerminalFolder(self.folder, name)
        folder.create()
        meta = TerminalMeta(id=name, name=name, shell="/bin/sh")
        journal = Journal(folder.journal)
        made = Terminal(meta, folder, journal, self.pump, self._access, self._on_end, grace)
        self.terminals.append(made)
        return made

    def begun(self, *argv: str, **options: Any) -> Terminal:
        """Return a terminal in which a program runs."""
        made = self.make(**options)
        master, slave = open_pty(made.meta.cols, made.meta.rows)
        spec = Spawn(argv, ENV, None, slave, slave, slave, new_session=True, terminal=True)
        child = self.children.spawn(spec)
        os.close(slave)
        made.begin(child, master)
        made.meta.leader = child.pid
        return made

    async def close(self) -> None:
        for terminal in self.terminals:
            terminal.close()
        for terminal in self.terminals:
            await terminal.over.wait()
        while any(terminal._tasks for terminal in self.terminals):
            await asyncio.sleep(0.01)
        self.pump.stop()
        for terminal in self.terminals:
            terminal.release()
        await self.children.close()
        assert self.failures == []


def within(folder: Path, scene: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
    play(folder, Rig, scene, SECONDS)


def shown(terminal: Terminal, stream: int | None = None) -> str:
    """Return what was shown so far, or what is noted of sizes."""
    data, offset = b"", 0
    with Reader(terminal.journal) as reader:
        while batch := reader.read(offset):
            offset = batch[-1].end
            for item in batch:
                if isinstance(item, Chunk) and (item.stream == NOTICE) == (stream == NOTICE):
                    data += item.data
    return data.decode()


async def shows(terminal: Terminal, text: str) -> None:
    while text not in shown(terminal):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "code", "number"),
    [("echo hello; exit 3", 3, None), ("echo hello; kill -USR1 $$", None, signal.SIGUSR1)],
)
def test_an_end_is_told_once_with_its_status_and_all_that_was_shown(
    tmp_path: Path, command: str, code: int | None, number: int | None
) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun("/bin/sh", "-c", command)
        assert not terminal.is_over
        await terminal.over.wait()

        meta = terminal.meta
        assert terminal.is_over
        assert (meta.exit_signal or None) == number
        assert code is None or meta.exit_code == code
        assert meta.ended_at > 0
        assert terminal.journal.sealed
        assert shown(terminal) == "hello\r\n"
        while made.ended != ["t"]:
            await asyncio.sleep(0.01)

    within(tmp_path, scene)


def test_no_end_is_told_before_it_is_known_how_it_came(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        loop, go = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        script = "echo last; exec <&- >&- 2>&-; read -r go <fifo; exit 3"
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        terminal = made.begun("/bin/sh", "-c", f"cd {tmp_path}; {script}")
        journal, viewer = terminal.journal, Viewer(read_only=True)
        terminal.attach(viewer)

        async def watched() -> tuple[str, int | None]:
            text = "".join([one async for one in watch(terminal, viewer)])  # type: ignore[misc]
            return text, terminal_of(terminal).exit_code

        async def followed() -> tuple[bytes, int | None]:
            follow = Follow(journal, 0)
            with contextlib.closing(follow):
                data = b"".join([one async for one in raw_output(terminal, follow, SECONDS)])
            return data, terminal_of(terminal).exit_code

        async def awaited() -> str:
            await until_shown(terminal, "never shown")
            return screen_of(terminal, await terminal.screen(), 0).status

        await shows(terminal, "last")
        waiting = [asyncio.ensure_future(one()) for one in (watched, followed, awaited)]
        while viewer.offset < journal.tail:
            await asyncio.sleep(0.01)
        held = loop.run_in_executor(None, go.wait)  # whoever is to reap it has to wait
        fifo.write_text("go\n")
        while not (terminal.is_over and journal.sealed):
            await asyncio.sleep(0.01)
        done, _ = await asyncio.wait(waiting, timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
        told = terminal_of(terminal)
        go.set()
        await held

        assert (done, told.status, told.ended_at) == (set(), "running", "")
        text, code = await waiting[0]
        assert ("last" in text, code) == (True, 3)
        assert await waiting[1] == (b"last\r\n", 3)
        assert await waiting[2] == "exited"

    within(tmp_path, scene)


def test_what_is_over_takes_nothing_and_gives_the_keeper_nothing(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun("/bin/true")
        await terminal.over.wait()

        with pytest.raises(Conflict, match="the shell has exited"):
            terminal.type(b"x", Caller())
        terminal.resize(100, 30)
        terminal.close()
        assert terminal.size == (80, 24)
        assert terminal.holdings() == ()

    within(tmp_path, scene)


@pytest.mark.parametrize(
    ("trap", "number"), [("", signal.SIGHUP), ("trap '' HUP;", signal.SIGKILL)]
)
def test_a_close_hangs_up_and_kills_what_stays(tmp_path: Path, trap: str, number: int) -> None:
    async def scene(made: Rig) -> None:
        script = f"{trap} sleep 1000 & echo pid $!.; {trap} wait; wait; sleep 1000"
        terminal = made.begun("/bin/sh", "-c", script)
        await shows(terminal, ".\r\n")
        other = int(shown(terminal).split()[1].rstrip("."))
        terminal.close()
        terminal.close()
        await terminal.over.wait()

        assert terminal.meta.exit_signal == number
        while alive(other) or made.ended != ["t"]:
            await asyncio.sleep(0.01)

    within(tmp_path, scene)


def test_a_session_that_is_left_goes_on_with_what_the_keeper_holds(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun("/bin/sh", "-c", "read x; echo got $x")
        copies = terminal.holdings()
        assert len(copies) == 2
        leader = terminal.meta.leader
        terminal.leave()
        made.pump.stop()
        terminal.release()
        made.terminals.clear()

        assert alive(leader)
        os.write(copies[0], b"on\n")
        seen = b""
        while b"got on" not in seen:  # the kernel hands it over in its own time
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                seen += os.read(copies[0], 4096)
        os.waitid(os.P_PIDFD, copies[1], os.WEXITED)
        for fd in copies:
            os.close(fd)

    within(tmp_path, scene)


def test_one_that_ended_under_an_earlier_server_is_over_at_once(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.make()
        terminal.was_over()

        assert (terminal.is_over, terminal.over.is_set(), terminal.holdings()) == (True, True, ())
        assert terminal.journal.sealed
        with pytest.raises(Conflict):
            terminal.type(b"x", Caller())

    within(tmp_path, scene)


def test_sizes_are_the_programs_and_are_noted_and_nonsense_is_ignored(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun("/bin/sh", "-c", "read x; stty size; read x")
        for size in ((0, 24), (80, 65536), (-1, 5), (80, 24), (132, 43)):
            terminal.resize(*size)
        terminal.type(b"\n", Caller())
        await shows(terminal, "43 132")

        assert terminal.size == (132, 43)
        assert shown(terminal, NOTICE) == "132x43;"

    within(tmp_path, scene)


def test_typed_lines_are_audited_in_their_order_and_passwords_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ECHO_SECONDS", 20.0)  # a busy machine may take its time

    async def scene(made: Rig) -> None:
        script = "read a; stty -echo; echo Secret:; read b; stty echo; echo Open:; read c; echo end"
        terminal = made.begun("/bin/sh", "-c", script)
        terminal.type(b"first\n", Caller(subject_id="me"))
        await shows(terminal, "Secret:")
        terminal.type(b"hunter2\n", Caller())
        await shows(terminal, "Open:")
        terminal.type(b"last\n", Caller())
        await shows(terminal, "end")
        while [line["command"] for line in made.audited()][-1:] != ["last"]:
            await asyncio.sleep(0.01)

        first, last = made.audited()
        assert (first["command"], first["sub-id"]) == ("first", "me")
        assert (last["command"], last["session-id"]) == ("last", "t")
        assert "hunter2" not in made.log.read_text()

    within(tmp_path, scene)


def test_input_that_nobody_reads_is_queued_and_then_refused(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun("/bin/sh", "-c", "stty raw -echo; echo ready; exec sleep 1000")
        await shows(terminal, "ready")
        with pytest.raises(Conflict, match="does not read its input"):
            for _ in range(10):
                terminal.type(b"x" * (1 << 20), Caller())
        assert 3 << 20 < terminal.queued_input <= 4 << 20

    within(tmp_path, scene)


def test_the_pump_stays_near_the_fastest_watcher_until_that_one_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 3600.0)

    async def scene(made: Rig) -> None:
        viewer, behind = Viewer(read_only=False), Viewer(read_only=True)
        terminal = made.make()
        for one in (viewer, behind):
            terminal.attach(one)
            one.slow = False
        master, slave = open_pty(80, 24)
        argv = ["/bin/sh", "-c", "read x; exec yes"]  # not before there is a bound
        spec = Spawn(argv, ENV, None, slave, slave, slave, new_session=True, terminal=True)
        terminal.begin(made.children.spawn(spec), master)
        os.close(slave)
        terminal.moved()
        terminal.type(b"\n", Caller())
        line = terminal._line
        assert line is not None
        while not line.held:
            await asyncio.sleep(0.01)
        assert AHEAD_BYTES <= terminal.journal.tail + ROUND_BYTES <= AHEAD_BYTES + 2 * ROUND_BYTES

        viewer.offset = terminal.journal.tail
        terminal.moved()
        while terminal.journal.tail < viewer.offset + AHEAD_BYTES - ROUND_BYTES:
            await asyncio.sleep(0.01)
        while not line.held:
            await asyncio.sleep(0.01)
        while "held" not in terminal._timers:
            await asyncio.sleep(0.01)
        assert (viewer.slow, behind.slow) == (False, False)

        terminal._timers["held"].cancel()
        terminal._look_at_slow(viewer.offset)  # as the timer would: he has not moved since
        assert (viewer.slow, behind.slow) == (True, True)
        reached = terminal.journal.tail
        while terminal.journal.tail < reached + 2 * AHEAD_BYTES:
            await asyncio.sleep(0.01)
        terminal.detach(viewer)
        terminal.detach(behind)

    within(tmp_path, scene)


def test_the_screen_is_the_same_for_whoever_asks_and_however_late(tmp_path: Path) -> None:
    async def scene(made: Rig) -> None:
        terminal = made.begun(
            "/bin/sh", "-c", "printf 'one\\r\\n\\033[1mtwo'; read x; printf three"
        )
        await shows(terminal, "two")
        first = await terminal.screen()
        terminal.type(b"\n", Caller())
        await terminal.over.wait()
        text, offset = await terminal.replay()

        assert first is await terminal.screen()
        assert offset == terminal.journal.tail
        assert "one" in text
        assert "three" in text

    within(tmp_path, scene)
