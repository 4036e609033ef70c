"""Writing a run's record and other small things to disk, in order, on a thread of their own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future

import msgspec

from sandkeeper.log.lines import Log
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.runs import RunFolder

__all__ = ["Recorder", "Records"]

SAVE_SECONDS = 0.01
DONE_SECONDS = 2.0
"""A disk that stalls holds nobody up for longer."""


class Records:
    """One timer for the records of all runs; event loop's thread only.

    A thread that wakes beside a start holds it up by the interpreter's lock, so the writer's wakes
    once for all records that changed within SAVE_SECONDS.
    """

    def __init__(self, writer: Executor) -> None:
        self.writer = writer
        self._due: dict[Recorder, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def soon(self, recorder: "Recorder") -> None:
        """Have a record written within SAVE_SECONDS, as it is then."""
        self._due[recorder] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_SECONDS, self.flush)

    def take(self, recorder: "Recorder") -> bool:
        """Have a record wait no more; says whether it did."""
        waited = recorder in self._due
        self._due.pop(recorder, None)
        return waited

    def flush(self) -> None:
        """Write the records that wait to be written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._due = self._due, {}
        if due:
            self.submit(_run_all, [recorder.order() for recorder in due])

    def submit(self, call: Callable[..., object], *values: object) -> Future[object] | None:
        """Have a call made behind all others; None after the end: all there was is written."""
        try:
            return self.writer.submit(call, *values)
        except RuntimeError:  # shut down
            return None


class Recorder:
    """Saves one run's `meta`; event loop's thread only."""

    def __init__(self, folder: RunFolder, meta: RunMeta, records: Records, log: Log) -> None:
        self._folder = folder
        self._meta = meta
        self._records = records
        self._log = log
        self._then: Callable[[], None] | None = None

    def save(self, then: Callable[[], None] | None = None) -> None:
        """Write the record soon: what changes together is written once.

        `then` is done on the writer's thread behind it.
        """
        self._then = then or self._then
        self._records.soon(self)

    def save_pending(self) -> None:
        """Write the record now if it waits to be written."""
        if self._records.take(self):
            self._records.submit(self.order())

    def save_now(self) -> None:
        """Write the record, in order with earlier ones."""
        self._records.take(self)
        self._records.submit(self.order())

    def order(self) -> Callable[[], None]:
        """Return a call for the writer's thread that writes the record as it is now."""
        then, self._then = self._then, None
        data = msgspec.json.encode(self._meta)

        def write() -> None:
            try:
                self._folder.save(data)
                if then is not None:
                    then()
            except Exception as error:  # noqa: BLE001 - told; the next record must still be written
                self._told(error)

        return write

    def later(self, call: Callable[..., object], *values: object) -> None:
        """Have a blocking call made in order with the others, on the writer's thread."""
        future = self._records.submit(call, *values)
        if future is not None:
            future.add_done_callback(lambda done: self._told(done.exception()))

    async def done(self) -> None:
        """Return when all that was to be done until now has been, or after DONE_SECONDS."""
        future = self._records.submit(int)
        if future is not None:
            await asyncio.wait({asyncio.wrap_future(future)}, timeout=DONE_SECONDS)

    def _told(self, error: BaseException | None) -> None:
        if error is not None and self._folder.path.exists():
            self._log.error(f"cannot save {self._meta.id}: {error}")


def _run_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
