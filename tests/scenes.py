"""A scene played on a rig of a test's own, with the sink of a log in a file."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sandkeeper.log.sink import Sink

__all__ = ["play"]


class Closed(Protocol):
    """A rig: what a test puts together, to be closed at its end."""

    async def close(self) -> None:
        """Close all of it."""


Rig = TypeVar("Rig", bound=Closed)


@contextlib.asynccontextmanager
async def _built(folder: Path, build: Callable[[Path, Sink], Rig]) -> AsyncIterator[Rig]:
    sink = Sink(os.open(folder / "log", os.O_WRONLY | os.O_CREAT), dropped_line=lambda _: b"")
    sink.start()
    made = build(folder, sink)
    try:
        yield made
    finally:
        await made.close()
        sink.close()


def play(
    folder: Path,
    build: Callable[[Path, Sink], Rig],
    scene: Callable[[Rig], Coroutine[Any, Any, None]],
    seconds: float,
) -> None:
    """Build a rig in a loop of its own and play a scene on it, for so many seconds at most."""

    async def whole() -> None:
        async with asyncio.timeout(seconds), _built(folder, build) as made:
            await scene(made)

    asyncio.run(whole())
