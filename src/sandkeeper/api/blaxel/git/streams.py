"""The stream of an operation: what git tells of its progress, at last the result or the error."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sandkeeper.api.blaxel.sentences import sentence
from sandkeeper.api.edge.respond import error_fields, status_of
from sandkeeper.api.edge.streaming import Abandoned
from sandkeeper.errors import SandkeeperError
from sandkeeper.git.progress import Progress
from sandkeeper.git.service import Work
from sandkeeper.journal.events import Heart
from sandkeeper.jsonlines import json_line, sse_fields

__all__ = ["error_record", "events"]

TOGETHER_SECONDS = 0.1


def _record(fields: dict[str, Any], *, sse: bool) -> bytes:
    data = json_line(fields)
    return sse_fields(fields["type"], data) + b"\n" if sse else data


def error_record(error: SandkeeperError) -> dict[str, Any]:
    """Return an error as an answer of its own would have it, with its status."""
    told = error_fields(error, sentence)
    return {"type": "error", "data": told.pop("error"), "status": status_of(error), **told}


async def events(
    work: Work[msgspec.Struct], stopping: asyncio.Event, *, sse: bool
) -> AsyncIterator[bytes]:
    """Do the work and yield its records; who stops reading ends it. Raises Abandoned."""
    progress, heart = Progress(), Heart()
    doing = asyncio.ensure_future(work(progress))
    stops = asyncio.ensure_future(stopping.wait())
    try:
        while not doing.done():
            news = asyncio.ensure_future(progress.changed.wait())
            await asyncio.wait(
                {doing, stops, news}, timeout=heart.left(), return_when=asyncio.FIRST_COMPLETED
            )
            news.cancel()
            if stops.done():
                raise Abandoned
            block = b"".join(_record(one, sse=sse) for one in progress.take())
            yield heart.beat(block, lambda: _record({"type": "keepalive"}, sse=sse))
            if block:  # a moment in which more of it comes together
                ends = {doing, stops}
                await asyncio.wait(
                    ends, timeout=TOGETHER_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
        yield b"".join(_record(one, sse=sse) for one in progress.take())
        try:
            result = msgspec.to_builtins(doing.result())
            yield _record({"type": "result", "data": result}, sse=sse)
        except SandkeeperError as error:
            yield _record(error_record(error), sse=sse)
    finally:
        stops.cancel()
        doing.cancel()
        await asyncio.gather(doing, stops, return_exceptions=True)
