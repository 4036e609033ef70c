"""Answers that are long because of the texts in them, made and sent in small pieces.

A few megabytes as JSON in one go would keep the event loop and the interpreter from everybody else
for some tens of milliseconds. So texts become blocks of JSON in a worker thread, and each round of
the loop sends one.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandkeeper.api.edge.connections.outgoing import answer_of
from sandkeeper.api.edge.respond import encode_json
from sandkeeper.api.edge.streaming import Disconnected
from sandkeeper.journal.output import LongText, LongTexts, Texts
from sandkeeper.journal.turns import Turns

__all__ = ["Frame", "LongAnswer", "long_answer", "making"]


class LongAnswer(Response):
    """JSON in blocks, of a length that is told."""

    def __init__(
        self,
        blocks: list[bytes],
        turns: Turns,
        headers: Mapping[str, str] | None = None,
        reserved: int = 0,
    ) -> None:
        length = str(sum(map(len, blocks)))
        media_type = "application/json; charset=utf-8"
        super().__init__(None, 200, {**(headers or {}), "Content-Length": length}, media_type)
        self._blocks = blocks
        self._turns = turns
        self._reserved = reserved

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send a block at a time; a client that reads slowly makes nobody else wait."""
        answer = answer_of(scope)
        answer.take(max(0, sum(map(len, self._blocks)) - self._reserved))
        answer.is_managed = True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        blocks, self._blocks = self._blocks[::-1], []
        while blocks:
            await self._turns.take()
            block = blocks.pop()
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Frame:
    """JSON around texts: `make` gets marks to put where they belong, none of which it changes."""

    def __init__(self, make: Callable[[list[str]], Any], count: int) -> None:
        self._marks = [secrets.token_hex(16) for _ in range(count)]
        self._json = encode_json(make(self._marks))

    def around(self, pieces: Iterable[str]) -> Iterator[bytes]:
        """Yield the JSON with one text in its one place, of which the pieces come one by one."""
        before, after = self._json.split(self._marks[0].encode())
        yield before
        for piece in pieces:
            yield encode_json(piece)[1:-1]
        yield after

    def fill(self, texts: Sequence[LongText]) -> list[bytes]:
        """Return the whole in blocks; a text that stands in two places is encoded once.

        One whose mark was not put anywhere is left out.
        """
        encoded: dict[int, list[bytes]] = {}
        marked = zip(self._marks, texts, strict=True)
        found = [(self._json.find(mark.encode()), text) for mark, text in marked]
        for place, text in found:
            if place >= 0 and id(text) not in encoded:
                encoded[id(text)] = [encode_json(piece)[1:-1] for piece in text.pieces()]
        places = sorted((place, id(text)) for place, text in found if place >= 0)
        filled: list[bytes] = []
        end = 0
        for start, key in places:
            filled += [self._json[end:start], *encoded[key]]
            end = start + len(self._marks[0])
        return [block for block in (*filled, self._json[end:]) if block]


making = asyncio.Semaphore(2)
"""So many texts are read and made at once: what they take meanwhile was only guessed."""


async def long_answer(
    scope: Scope,
    size: int,
    reading: Callable[[], Awaitable[LongTexts]],
    record: Callable[[Texts], Any],
    turns: Turns,
    headers: Mapping[str, str] | None = None,
) -> LongAnswer:
    """Answer with what `record` makes of the texts that `reading` brings, of about `size` bytes.

    Raises Unavailable when there is no room for as much, Disconnected when nobody waits for it.
    """
    answer = answer_of(scope)
    await answer.reserve(size)
    async with making:
        if answer.is_gone:
            raise Disconnected
        frame = Frame(lambda marks: record(Texts(*marks)), 3)
        texts = await reading()
        blocks = await asyncio.to_thread(frame.fill, [texts.stdout, texts.stderr, texts.logs])
    return LongAnswer(blocks, turns, headers, size)
