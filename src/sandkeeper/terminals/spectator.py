"""What a watcher of a terminal gets: the screen, then everything that is shown, as text.

A watcher that falls too far behind is not fed what it missed: it gets the screen as it is then.
"""

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.segment import STDOUT
from sandkeeper.terminals.mirror import HISTORY_BYTES, read_batch
from sandkeeper.terminals.terminal import Terminal, Viewer

__all__ = ["watch"]

BLOCK_BYTES = 64 << 10
BEHIND_BYTES = 4 << 20
PATIENCE_SECONDS = 60.0
RESYNC_SECONDS = 0.5
RESYNC_BYTES = 24 << 10
STATUS_SECONDS = 0.1
LEAVE_ALTERNATE = "\x1b[?1049l"


async def watch(terminal: Terminal, viewer: Viewer) -> AsyncGenerator[str, None]:
    """Yield text until the shell has ended and all it wrote is out; never an empty one."""
    text, viewer.offset = await terminal.replay(HISTORY_BYTES)
    if text:
        yield text
    viewer.slow = False
    terminal.moved()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    resynced = 0.0
    journal = terminal.journal
    with Reader(journal) as reader:
        while True:
            items: list[Chunk | Gap] = []
            if journal.tail - viewer.offset <= BEHIND_BYTES:
                items = await read_batch(reader, viewer.offset, BLOCK_BYTES)
            if not items and viewer.offset >= journal.tail:
                if journal.sealed:
                    await _status_known(terminal)
                    break
                await journal.changed(PATIENCE_SECONDS, viewer.offset)
            elif not items or any(isinstance(item, Gap) for item in items):
                await asyncio.sleep(max(0.0, resynced + RESYNC_SECONDS - time.monotonic()))
                resynced = time.monotonic()
                viewer.slow = True
                text, viewer.offset = await terminal.replay(RESYNC_BYTES)
                decoder.reset()
                viewer.slow = False
                yield LEAVE_ALTERNATE + text
            else:
                viewer.offset = items[-1].end
                terminal.moved()
                data = b"".join(
                    item.data for item in items if isinstance(item, Chunk) and item.stream == STDOUT
                )
                if text := decoder.decode(data):
                    yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


async def _status_known(terminal: Terminal) -> None:
    """Wait a moment for the exit status: who asks for it after the end should find it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STATUS_SECONDS):
            await terminal.over.wait()
