"""Telemetry: what processes write, as lines in the server's log, and as lines for a collector.

The exporter is a reader of journals like any other. It runs on the sink's thread (for a collector
on that of `otlp.shipping`) and gives one block at a time, when the log takes one: if the collector
stalls, positions stand still and nothing is held in memory. A position is saved after its block was
written, so a restart goes on there and repeats at most one block. Where descriptors are scarce,
none is held between blocks.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.exported import EXPORTED, POSITIONS, read_positions
from sandkeeper.journal.segment import NOTICE, OUTPUT, STDERR, STDOUT
from sandkeeper.linux.fds import Use, is_scarce
from sandkeeper.linux.paths.statefiles import Damaged
from sandkeeper.log.formats import Format
from sandkeeper.log.framing import Frame
from sandkeeper.observability.renderer import Renderer
from sandkeeper.observability.rendering import BEGINNING, LINE_BYTES, Piece, State, render, rest
from sandkeeper.processes.process import Process

__all__ = ["Exporter"]

BLOCK = 64 << 10
BACKLOG_BYTES = 256 << 10
"""From here on a process of its own makes the lines, in blocks of `RENDERED_BLOCK`."""
RENDERED_BLOCK = 128 << 10
RENDERED_BYTES = 8 << 10
"""Less is made here sooner than it is sent there."""
NAME_CHARACTERS = 256
"""So much of a name stands in every line: one of a megabyte would multiply each of its lines."""
_OWNERS = {STDOUT: 0, NOTICE: 0, STDERR: 1}
"""Which stream's lines bytes belong to; remarks are in none."""


class Exporter:
    """Follows the journals of all processes; `pull` is the sink's source.

    `wake` tells whoever pulls that there is something; `form` makes its lines, and `renderer` those
    of a backlog. The positions are kept in the file `kept_in` of each run. Blocks of several
    processes may be out at once, of each one: its next comes behind the acknowledgement.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        renderer: Renderer,
        form: Format,
        kept_in: str = EXPORTED,
    ) -> None:
        self._wake = wake
        self._renderer = renderer
        self._form = form
        self._kept_in = kept_in
        self._out: set[str] = set()
        self._followers: dict[str, Follower] = {}
        self._pending: deque[str] = deque()
        self._queued: set[str] = set()
        self._gone: deque[Follower] = deque()
        self._stuck: set[str] = set()
        self._lock = threading.Lock()

    def follow(self, process: Process) -> None:
        """Export a process from where its last exporter stood."""
        with self._lock:
            self._followers[process.meta.id] = Follower(
                process, self._renderer, self._form, self._kept_in
            )
        if process.journal.tail:
            self.grown(process)

    def grown(self, process: Process) -> None:
        """Look at a process again: it has written or ended."""
        if process.journal.sealed and not process.journal.tail:
            self.forget(process)
            return
        with self._lock:
            if process.meta.id not in self._followers or process.meta.id in self._queued:
                return
            self._queued.add(process.meta.id)
            self._pending.append(process.meta.id)
        self._wake()

    def forget(self, process: Process) -> None:
        """Stop exporting a process whose journal goes away."""
        with self._lock:
            follower = self._followers.pop(process.meta.id, None)
            if follower is not None:
                follower.gone = True
                self._gone.append(follower)
        self._wake()

    def retry(self) -> None:
        """Look again at processes whose journals could not be read."""
        with self._lock:
            again, self._stuck = self._stuck - self._queued, set()
            self._queued |= again
            self._pending.extend(again)
        if again:
            self._wake()

    def lag(self) -> dict[str, int]:
        """Return per process id how many bytes were not exported yet."""
        with self._lock:
            followers = list(self._followers.items())
        return {run: follower.lag for run, follower in followers}

    def pull(self) -> tuple[bytes | bytearray, Callable[[], None]] | None:
        """Return the next block and what acknowledges it; None when all is exported."""
        while self._gone:  # closed here: this thread may have been reading them
            self._gone.popleft().close()
        while True:
            with self._lock:
                if not self._pending:
                    return None
                run = self._pending.popleft()
                self._queued.discard(run)
                follower = self._followers.get(run)
                is_out = run in self._out
            if follower is None or is_out:  # the acknowledgement comes back to it
                continue
            try:
                block = follower.block()
            except OSError:  # no descriptor, a broken disk: the next bytes or `retry` look again
                follower.is_behind()
                with self._lock:
                    self._stuck.add(run)
                continue
            if block is None:
                if follower.finished:
                    with self._lock:
                        self._followers.pop(run, None)
                    follower.close()
                elif follower.is_behind():
                    self._again(run)
                continue
            with self._lock:
                self._out.add(run)
            return block, partial(self._acknowledge, run, follower)

    def _acknowledge(self, run: str, follower: "Follower") -> None:
        follower.acknowledge()
        with self._lock:
            self._out.discard(run)
        self._again(run)

    def _again(self, run: str) -> None:
        with self._lock:
            if run not in self._queued:
                self._queued.add(run)
                self._pending.append(run)


class Follower:
    """The exporter's place in one journal; the sink's thread only, but for `gone`."""

    def __init__(self, process: Process, renderer: Renderer, form: Format, kept_in: str) -> None:
        self._process = process
        self._renderer = renderer
        self._form = form
        self._reader = Reader(process.journal)
        self._kept_in = kept_in
        self._fd = -1
        self._position = 0
        self._next = 0
        self._state = BEGINNING
        self._flushed = False
        self._resumed = False
        self.gone = False

    @property
    def lag(self) -> int:
        """Bytes that were not exported yet."""
        return self._process.journal.tail - self._position

    def is_behind(self) -> bool:
        """Ask to be told of the next bytes, and say whether they came just before that."""
        self._process.journal.awaited = True
        return self.lag > 0 and not self.gone

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        journal = self._process.journal
        return self.gone or (journal.sealed and self._flushed and self._position >= journal.tail)

    def close(self) -> None:
        """Close what it holds open."""
        self._reader.close()
        self._close_positions()

    def _close_positions(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def block(self) -> bytes | bytearray | None:
        """Return the lines of the next block, possibly none; None at the tail."""
        if not self._resumed:
            self._resume()
            self._resumed = True
        if self.gone:
            return None
        behind = self.lag
        if behind >= BACKLOG_BYTES:
            self._renderer.wanted()
        much = behind >= BACKLOG_BYTES and self._renderer.is_ready
        chunks = self._reader.read(self._position, RENDERED_BLOCK if much else BLOCK)
        self._reader.close_scarce()
        if not chunks:
            return self._last_lines()
        self._next = chunks[-1].end
        block, self._state = self._render(chunks)
        return block

    def acknowledge(self) -> None:
        """Save the position behind a block that was written.

        On a full disk it is not saved: only the next server would say these lines again.
        """
        self._position = self._next
        if self.gone:
            return
        try:
            self._save()
        except FileNotFoundError:  # evicted meanwhile
            self.gone = True
        except OSError:
            return

    def _save(self) -> None:
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._process.folder.path / self._kept_in, flags, 0o600)
        out, out_start, err, err_start = self._state
        starts = (out_start if out else self._position, err_start if err else self._position)
        os.pwrite(self._fd, POSITIONS.pack(self._position, *starts), 0)
        if is_scarce(self._fd, Use.FOLLOWER):
            self._close_positions()

    def _resume(self) -> None:
        """Go on where the last server stood: its open lines are read again up to there."""
        try:
            path = self._process.folder.path / self._kept_in
            known = read_positions(path, self._process.journal.tail)
        except (OSError, Damaged):  # said twice is better than never
            return
        if known is None:
            return
        self._position, *starts = known
        self._next = self._position
        lines: list[bytes] = []
        for stream, start in zip(OUTPUT, starts, strict=True):
            offset, parts = start, []
            while offset < self._position and (
                chunks := self._reader.read(offset, min(BLOCK, self._position - offset))
            ):
                parts += [c.data for c in chunks if isinstance(c, Chunk) and c.stream == stream]
                offset = chunks[-1].end
            lines.append(b"".join(parts)[-LINE_BYTES:])
        self._state = lines[0], starts[0], lines[1], starts[1]

    def _last_lines(self) -> bytes | None:
        """Return lines that never got their newline, once the process has ended."""
        end = self._process.journal.exit_offset
        if self._flushed or end is None or self._position < end:
            return None
        self._flushed = True
        state, self._state = self._state, BEGINNING
        moment = self._process.meta.completed_at
        return rest(state, (self._frame(0, moment), self._frame(1, moment)))

    def _render(self, chunks: list[Chunk | Gap]) -> tuple[bytes | bytearray, State]:
        """Return the lines of a block and the state behind it."""
        if isinstance(chunks[0], Gap):
            return self._tell_gap(chunks[0]), self._state
        pieces: list[Piece] = [
            (owner, chunk.offset, self._frame(owner, chunk.time / 1e6), chunk.data)
            for chunk in chunks
            if isinstance(chunk, Chunk) and (owner := _OWNERS.get(chunk.stream)) is not None
        ]
        if self._renderer.is_ready and sum(len(piece[3]) for piece in pieces) >= RENDERED_BYTES:
            made = self._renderer.render(self._state, pieces)
            if made is not None:
                return made
        return render(self._state, pieces)

    def _frame(self, owner: int, moment: float) -> Frame:
        meta = self._process.meta
        name = meta.name[:NAME_CHARACTERS]
        return self._form.frame(name, meta.pid, OUTPUT[owner].wire, moment, meta.trace_fields())

    def _tell_gap(self, gap: Gap) -> bytes:
        meta = self._process.meta
        return self._form.line(
            "warning",
            f"{gap.end - gap.start} bytes of output were gone before they could be exported",
            {
                "source": "process",
                "process-name": meta.name,
                "process-pid": meta.pid,
                "reason": gap.reason,
                **meta.trace_fields(),
            },
        )
