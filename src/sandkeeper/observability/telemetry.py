"""Telemetry: what processes write, as lines in the server's log.

The exporter is a reader of journals like any other. It runs on the sink's thread and gives one
block at a time, when the log takes one: if the collector stalls, positions stand still and nothing
is held in memory. A position is saved after its block was written, so a restart goes on there and
repeats at most one block.
"""

import os
import re
import threading
from collections import deque
from collections.abc import Callable

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.exported import POSITIONS, read_positions
from sandkeeper.journal.lines import LineSplitter
from sandkeeper.journal.segment import NOTICE, OUTPUT, STDERR, STDOUT, Stream
from sandkeeper.linux.paths.statefiles import Damaged
from sandkeeper.log.formats import Format, Json
from sandkeeper.processes.process import Process

__all__ = ["Exporter"]

BLOCK = 64 << 10
LINE_BYTES = 8 << 10
NAME_CHARACTERS = 256
"""So much of a name stands in every line: one of a megabyte would multiply each of its lines."""
JSON = Json()
_EMPTY_LINES = re.compile(rb"\n\n+")


class Exporter:
    """Follows the journals of all processes; `pull` is the sink's source.

    `wake` tells the sink that there is something to pull; `form` makes its lines.
    """

    def __init__(self, wake: Callable[[], None], form: Format = JSON) -> None:
        self._wake = wake
        self._form = form
        self._followers: dict[str, Follower] = {}
        self._pending: deque[str] = deque()
        self._queued: set[str] = set()
        self._gone: deque[Follower] = deque()
        self._stuck: set[str] = set()
        self._lock = threading.Lock()

    def follow(self, process: Process) -> None:
        """Export a process from where its last exporter stood."""
        with self._lock:
            self._followers[process.meta.id] = Follower(process, self._form)
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

    def pull(self) -> tuple[bytes, Callable[[], None]] | None:
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
            if follower is None:
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
            self._again(run)
            return block, follower.acknowledge

    def _again(self, run: str) -> None:
        with self._lock:
            if run not in self._queued:
                self._queued.add(run)
                self._pending.append(run)


class Follower:
    """The exporter's place in one journal; the sink's thread only, but for `gone`."""

    _form: Format = JSON

    def __init__(self, process: Process, form: Format = JSON) -> None:
        self._process = process
        self._form = form
        self._reader = Reader(process.journal)
        self._path = process.folder.exported
        self._fd = -1
        self._position = 0
        self._next = 0
        self._lines = {STDOUT: LineSplitter(LINE_BYTES), STDERR: LineSplitter(LINE_BYTES)}
        self._starts = {STDOUT: 0, STDERR: 0}
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
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def block(self) -> bytes | None:
        """Return the lines of the next block, possibly none; None at the tail."""
        if not self._resumed:
            self._resume()
            self._resumed = True
        if self.gone:
            return None
        chunks = self._reader.read(self._position, BLOCK)
        if not chunks:
            return self._last_lines()
        self._next = chunks[-1].end
        return b"".join(self._render(chunk) for chunk in chunks)

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
            self._fd = os.open(self._path, flags, 0o600)
        starts = [
            self._starts[stream] if self._lines[stream].pending else self._position
            for stream in OUTPUT
        ]
        os.pwrite(self._fd, POSITIONS.pack(self._position, *starts), 0)

    def _resume(self) -> None:
        """Go on where the last server stood: its open lines are read again up to there."""
        try:
            known = read_positions(self._path, self._process.journal.tail)
        except (OSError, Damaged):  # said twice is better than never
            return
        if known is None:
            return
        self._position, *starts = known
        self._next = self._position
        for stream, start in zip(OUTPUT, starts, strict=True):
            offset, parts = start, []
            while offset < self._position and (
                chunks := self._reader.read(offset, min(BLOCK, self._position - offset))
            ):
                parts += [c.data for c in chunks if isinstance(c, Chunk) and c.stream == stream]
                offset = chunks[-1].end
            self._lines[stream].pending = b"".join(parts)[-LINE_BYTES:]
            self._starts[stream] = start

    def _last_lines(self) -> bytes | None:
        """Return lines that never got their newline, once the process has ended."""
        end = self._process.journal.exit_offset
        if self._flushed or end is None or self._position < end:
            return None
        self._flushed = True
        out = b""
        for stream, splitter in self._lines.items():
            rest, splitter.pending = splitter.pending, b""
            if rest:
                moment = self._process.meta.completed_at
                out += self._encode(stream, rest, moment)
        return out

    def _render(self, chunk: Chunk | Gap) -> bytes:
        if isinstance(chunk, Gap):
            return self._tell_gap(chunk)
        stream = STDOUT if chunk.stream == NOTICE else chunk.stream
        if stream not in OUTPUT:
            return b""
        splitter = self._lines[stream]
        if not splitter.pending:
            self._starts[stream] = chunk.offset
        moment = chunk.time / 1e6
        text = self._complete(splitter, chunk.data)
        if splitter.pending:
            self._starts[stream] = max(self._starts[stream], chunk.end - len(splitter.pending))
        return self._encode(stream, text, moment) if text else b""

    def _complete(self, splitter: LineSplitter, data: bytes) -> bytes:
        """Return the lines that are complete but for empty ones; too long ones in parts."""
        text, _, rest = (splitter.pending + data).rpartition(b"\n")
        if len(rest) <= LINE_BYTES and not _has_long_line(text):
            splitter.pending = rest
        else:
            text = b"\n".join(line for line, _ in splitter.feed(data))
        return _EMPTY_LINES.sub(b"\n", text).strip(b"\n") if b"\n\n" in text else text.strip(b"\n")

    def _encode(self, stream: Stream, lines: bytes, moment: float) -> bytes:
        meta = self._process.meta
        name = meta.name[:NAME_CHARACTERS]
        return self._form.output(name, meta.pid, stream.wire, lines, moment)

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
            },
        )


def _has_long_line(text: bytes) -> bool:
    """Say whether a line has more than `LINE_BYTES`, looking at every so-manieth newline only."""
    start = 0
    while len(text) - start > LINE_BYTES:
        end = text.rfind(b"\n", start, start + LINE_BYTES + 1)
        if end < 0:
            return True
        start = end + 1
    return False
