"""Writing a run's record and other small things to disk, in order, on a thread of their own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future

import msgspec

from sandkeeper.log.lines import Log
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.runs import RunFolder

__all__ = ["Recorder"]

SAVE_SECONDS = 0.01
DONE_SECONDS = 2.0
"""A disk that stalls holds nobody up for longer."""


class Recorder:
    """Saves one run's `meta`; event loop's thread only."""

    def __init__(self, folder: RunFolder, meta: RunMeta, writer: Executor, log: Log) -> None:
        self._folder = folder
        self._meta = meta
        self._writer = writer
        self._log = log
        self._saving = False
        self._then: Callable[[], None] | None = None

    def save(self, then: Callable[[], None] | None = None) -> None:
        """Write the record soon: what changes together is written once.

        `then` is done on the writer's thread behind it.
        """
        self._then = then or self._then
        if not self._saving:
            self._saving = True
            asyncio.get_running_loop().call_later(SAVE_SECONDS, self.save_pending)

    def save_pending(self) -> None:
        """Write the record now if it waits to be written."""
        if self._saving:
            self.save_now()

    def save_now(self) -> None:
        """Write the record, in order with earlier ones."""
        self._saving = False
        then, self._then = self._then, None
        self.later(self._save, msgspec.json.encode(self._meta), then)

    def _save(self, data: bytes, then: Callable[[], None] | None) -> None:
        self._folder.save(data)
        if then is not None:
            then()

    def later(self, call: Callable[..., object], *values: object) -> None:
        """Have a blocking call made in order with the others, on the writer's thread."""
        try:
            future = self._writer.submit(call, *values)
        except RuntimeError:  # shut down: what there was to write has been written
            return
        future.add_done_callback(self._report)

    async def done(self) -> None:
        """Return when all that was to be done until now has been, or after DONE_SECONDS."""
        try:
            future = self._writer.submit(int)
        except RuntimeError:  # shut down
            return
        await asyncio.wait({asyncio.wrap_future(future)}, timeout=DONE_SECONDS)

    def _report(self, future: Future[object]) -> None:
        error = future.exception()
        if error is not None and self._folder.path.exists():
            self._log.error(f"cannot save {self._meta.id}: {error}")
