"""Waiting for what a process does: a line it writes, ports it opens, its end."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from sandkeeper.core.cursor import Abandoned, Chunk, Follow, Gap
from sandkeeper.core.lines import LineSplitter
from sandkeeper.core.segment import STDERR, STDOUT
from sandkeeper.errors import Unavailable, Unprocessable
from sandkeeper.services.process import Process
from sandkeeper.services.processes import Processes
from sandkeeper.services.query import Question, matcher

__all__ = ["Awaited", "wait_for"]

LINE_BYTES = 64 << 10
SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Awaited:
    """What came first: `output` (then `line` and the offset behind it), `ports`, `exited` or
    `timeout`.
    """

    reason: str
    line: str = ""
    offset: int = 0


async def wait_for(
    processes: Processes,
    process: Process,
    question: Question,
    ports: list[int],
    offset: int,
    seconds: float,
) -> Awaited:
    """Wait until a line answers `question.grep`, all `ports` are open, or the process is over.

    What is not asked for is not waited for; the end and the time always count. Output counts from
    `offset` on, also what was written before. Raises BadInput for a bad pattern.
    """
    watchers = [asyncio.ensure_future(_end(process))]
    if question.grep:
        watchers.append(asyncio.ensure_future(_line(process, question, offset)))
    if ports:
        watchers.append(asyncio.ensure_future(_ports(processes, process, ports)))
    # Every watcher ends with the process, so a last line still counts when the end is noticed.
    pending = set(watchers)
    try:
        async with asyncio.timeout(seconds):
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (found := task.result()) is not None:
                        return found
            return Awaited("exited", offset=process.journal.tail)
    except TimeoutError:
        return Awaited("timeout", offset=process.journal.tail)
    finally:
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _end(process: Process) -> Awaited | None:
    await process.wait()
    return None


async def _ports(processes: Processes, process: Process, ports: list[int]) -> Awaited | None:
    try:
        await processes.wait_for_ports(process, ports)
    except Unprocessable:
        return None  # it ended first, or its own time is up
    return Awaited("ports", offset=process.journal.tail)


async def _line(process: Process, question: Question, offset: int) -> Awaited | None:
    matches = matcher(question)
    wanted = {"stdout": (STDOUT,), "stderr": (STDERR,)}.get(question.stream, (STDOUT, STDERR))
    lines = {stream: LineSplitter(LINE_BYTES) for stream in wanted}
    with closing(Follow(process.journal, offset, consumer="wait")) as follow:
        while (batch := await _next(follow)) is not None:
            for item in batch:
                found = None if isinstance(item, Gap) else _first(item, lines, matches)
                if found is not None:
                    return found
    return None


async def _next(follow: Follow) -> list[Chunk | Gap] | None:
    try:
        return await follow.next(SILENCE_SECONDS)
    except Abandoned:
        raise Unavailable("the server is stopping") from None


def _first(
    chunk: Chunk, lines: dict[int, LineSplitter], matches: Callable[[bytes], bool]
) -> Awaited | None:
    splitter = lines.get(chunk.stream)
    if splitter is None:
        return None
    behind = chunk.offset - len(splitter.pending)
    for line, ends in splitter.feed(chunk.data):
        behind += len(line) + ends
        if matches(line):
            return _found(line, behind)
    # A prompt has no newline yet.
    if splitter.pending and matches(splitter.pending):
        return _found(splitter.pending, chunk.end)
    return None


def _found(line: bytes, offset: int) -> Awaited:
    return Awaited("output", line.decode("utf-8", "replace"), offset)
