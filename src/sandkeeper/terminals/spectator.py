"""What a watcher of a terminal gets: the screen, then everything that is shown.

A watcher that falls too far behind is not fed what it missed: it gets the screen as it is then.
One that wants to know of sizes gets each as a pair, where in the text it was set.
"""

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from sandkeeper.journal.cursor import Abandoned, Chunk, Follow, Gap, Reader
from sandkeeper.journal.segment import NOTICE, STDOUT
from sandkeeper.terminals.mirror import HISTORY_BYTES, read_batch, sizes_in
from sandkeeper.terminals.terminal import Terminal, Viewer

__all__ = ["Size", "raw_output", "watch", "watch_raw"]

Size = tuple[int, int]
"""Columns and rows."""

BLOCK_BYTES = 64 << 10
BEHIND_BYTES = 4 << 20
PATIENCE_SECONDS = 60.0
RESYNC_SECONDS = 0.5
RESYNC_BYTES = 24 << 10
LEAVE_ALTERNATE = "\x1b[?1049l"


async def watch(terminal: Terminal, viewer: Viewer) -> AsyncGenerator[str | Size, None]:
    """Yield text until the shell has ended and all it wrote is out; never an empty one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async with aclosing(_shown(terminal, viewer)) as shown:
        async for one in shown:
            if isinstance(one, str):
                decoder.reset()
                yield one
            elif isinstance(one, tuple):
                yield one
            elif text := decoder.decode(one):
                yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


async def watch_raw(terminal: Terminal, viewer: Viewer) -> AsyncGenerator[bytes | Size, None]:
    """Yield the same as bytes, whatever they are."""
    async with aclosing(_shown(terminal, viewer)) as shown:
        async for one in shown:
            data = one.encode("utf-8", "replace") if isinstance(one, str) else one
            if data:
                yield data


async def raw_output(
    terminal: Terminal, follow: Follow, patience: float
) -> AsyncGenerator[bytes, None]:
    """Yield what a terminal shows, from an offset on, as the bytes its programs wrote.

    It ends when it is known how the shell did. Nothing is yielded for what is not kept any more; an
    empty block after `patience` seconds of silence. Raises Abandoned when the server stops first.
    """
    while (items := await follow.next(patience)) is not None:
        data = b"".join(
            item.data for item in items if isinstance(item, Chunk) and item.stream == STDOUT
        )
        if data or not items:
            yield data
    while not terminal.over.is_set():
        if terminal.journal.abandoned:
            raise Abandoned
        await terminal.journal.changed(PATIENCE_SECONDS, terminal.journal.tail)


async def _shown(terminal: Terminal, viewer: Viewer) -> AsyncGenerator[str | bytes | Size, None]:
    """Yield text that draws the screen, and the bytes that are shown after it."""
    text, viewer.offset = await terminal.replay(HISTORY_BYTES)
    if viewer.sizes:
        yield terminal.drawn_size
    if text:
        yield text
    viewer.slow = False
    terminal.moved()
    resynced = 0.0
    journal = terminal.journal
    with Reader(journal) as reader:
        while True:
            items: list[Chunk | Gap] = []
            if journal.tail - viewer.offset <= BEHIND_BYTES:
                items = await read_batch(reader, viewer.offset, BLOCK_BYTES)
            if not items and viewer.offset >= journal.tail:
                if journal.sealed:
                    await terminal.over.wait()  # who asks how it ended when this ends finds it
                    break
                await journal.changed(PATIENCE_SECONDS, viewer.offset)
            elif not items or any(isinstance(item, Gap) for item in items):
                await asyncio.sleep(max(0.0, resynced + RESYNC_SECONDS - time.monotonic()))
                resynced = time.monotonic()
                viewer.slow = True
                text, viewer.offset = await terminal.replay(RESYNC_BYTES)
                viewer.slow = False
                if viewer.sizes:
                    yield terminal.drawn_size
                yield LEAVE_ALTERNATE + text
            else:
                viewer.offset = items[-1].end
                terminal.moved()
                for piece in _pieces(items, sizes=viewer.sizes):
                    yield piece


def _pieces(items: Sequence[Chunk | Gap], *, sizes: bool) -> Iterator[bytes | Size]:
    """Yield what is shown in as few pieces as sizes between them allow."""
    held: list[bytes] = []
    for item in items:
        if not isinstance(item, Chunk):
            continue
        if item.stream == STDOUT:
            held.append(item.data)
        elif sizes and item.stream == NOTICE:
            yield b"".join(held)
            held = []
            yield from sizes_in(item.data)
    yield b"".join(held)
