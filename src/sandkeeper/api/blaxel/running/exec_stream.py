"""The answer of a start that streams: output, heartbeats, and at last the record."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, closing
from typing import Any

from sandkeeper.api.blaxel.sentences import sentence
from sandkeeper.api.edge.respond import encode_json
from sandkeeper.api.schemas.processes import record_of
from sandkeeper.errors import Unprocessable
from sandkeeper.journal.cursor import Abandoned, Follow
from sandkeeper.journal.events import SILENT, ExecRecords, Heart
from sandkeeper.journal.lines import KEEPALIVE_SECONDS
from sandkeeper.journal.output import read_texts
from sandkeeper.journal.turns import Turns
from sandkeeper.processes.process import Process

__all__ = ["exec_events", "failed"]


async def exec_events(
    process: Process,
    opened: Callable[[], Coroutine[Any, Any, None]] | None,
    turns: Turns,
    inline: int,
    stopping: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Yield the records, once its ports are `opened` where that is waited for.

    `inline` bytes of each stream are in the last.
    """
    if opened is not None:
        waiting = asyncio.ensure_future(opened())
        try:
            async with aclosing(_beats(waiting, stopping)) as beats:
                async for beat in beats:
                    yield beat
            waiting.result()
        except Unprocessable as error:
            yield failed(error)
            return
        finally:
            waiting.cancel()
    records = ExecRecords()
    with closing(Follow(process.journal, turns=turns, consumer="exec")) as follow:
        heart = Heart()
        while (items := await follow.next(heart.left())) is not None:
            yield heart.beat(records.batch(items), lambda: SILENT)
    yield records.finish()
    await process.wait()
    texts = await read_texts(process.journal, inline)
    result = encode_json(record_of(process, texts)).decode()
    yield encode_json({"type": "result", "data": result}) + b"\n"


def failed(error: Unprocessable) -> bytes:
    """Return the only record of a start that failed."""
    return encode_json({"type": "error", "data": sentence(error)}) + b"\n"


async def _beats(
    waiting: "asyncio.Future[None]", stopping: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    """Yield heartbeats until something is done; raises Abandoned when the server stops first."""
    stops: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    try:
        while not waiting.done():
            done, _ = await asyncio.wait(
                [waiting, stops], timeout=KEEPALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if stops in done:
                raise Abandoned
            if not done:
                yield SILENT
    finally:
        stops.cancel()
