"""Noticing the end of children that nobody waits for."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["orphans_reaped"]


@contextmanager
def orphans_reaped(reap: Callable[[], object]) -> Iterator[None]:
    """Call `reap` on the running loop: now, and whenever a child of this process has ended.

    uvloop keeps SIGCHLD from its own handlers; it wakes for the interpreter's. Such a handler may
    run while this thread is inside of a lock, so it must not take one. Main thread only.
    """
    loop = asyncio.get_running_loop()

    def look() -> None:
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            reap()  # else we stop, and this call was on its way to the loop already

    def ended(*_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(look)

    signal.signal(signal.SIGCHLD, ended)
    try:
        reap()
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
