"""Waiting for what a process does: a line it writes, ports it opens, its end."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from sandkeeper.core.cursor import Gap, follow
from sandkeeper.core.lines import LineSplitter
from sandkeeper.core.segment import NOTICE, REMARK, STDERR, STDOUT
from sandkeeper.errors import Unprocessable
from sandkeeper.services.process import Process
from sandkeeper.services.processes import Processes
from sandkeeper.services.query import Question, matcher

__all__ = ["Awaited", "wait_for"]

LINE_BYTES = 64 << 10


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
    source = follow(process.journal, offset, consumer="wait")
    async with aclosing(source) as batches:  # type: ignore[type-var]
        async for batch in batches:
            for item in batch:
                if isinstance(item, Gap) or item.stream in {NOTICE, REMARK}:
                    continue
                splitter = lines.get(item.stream)
                if splitter is None:
                    continue
                behind = item.offset - len(splitter.pending)
                for line, ends in splitter.feed(item.data):
                    behind += len(line) + ends
                    if matches(line):
                        return _found(line, behind)
                # A prompt has no newline yet.
                if splitter.pending and matches(splitter.pending):
                    return _found(splitter.pending, item.end)
    return None


def _found(line: bytes, offset: int) -> Awaited:
    return Awaited("output", line.decode("utf-8", "replace"), offset)
