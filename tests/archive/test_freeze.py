"""Who was let in before a freeze is waited for, on whichever way it is answered."""

import asyncio
import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.connections.plain import PlainAnswer
from sandkeeper.api.edge.frozen import guard
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.archive.freeze import Freeze
from sandkeeper.errors import Unavailable


def test_a_request_that_was_let_in_goes_on_the_long_way_in_a_freeze(tmp_path: Path) -> None:
    async def play() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        freeze, made, done = _guarded(tmp_path, begun, go)
        scope = _scope()
        first = asyncio.ensure_future(made.plain(scope, b""))
        await begun.wait()

        freeze.enter("quiescing", "test")
        go.set()
        assert await first is None
        assert not await freeze.settled(0)
        await made.app(scope, _nothing, _ignored)
        assert done == ["long"]
        assert await freeze.settled(0)
        with pytest.raises(Unavailable, match="nothing may change"):
            await made.app(scope, _nothing, _ignored)

    asyncio.run(play())


def test_one_that_took_too_long_goes_no_further(tmp_path: Path) -> None:
    async def play() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        freeze, made, done = _guarded(tmp_path, begun, go)
        scope = _scope()
        go.set()
        assert await made.plain(scope, b"") is None

        freeze.enter("quiescing", "test")
        freeze.expel()
        assert await freeze.settled(0)
        with pytest.raises(Unavailable, match="too late"):
            await made.app(scope, _nothing, _ignored)
        assert done == []

    asyncio.run(play())


def test_one_that_a_freeze_forestalls_is_refused_and_has_begun_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        freeze, made, done = _guarded(tmp_path, begun, go)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            coming = made.plain(_scope(), b"")
            freeze.enter("quiescing", "test")
            with pytest.raises(Unavailable, match="nothing may change"):
                await coming
            del coming
            gc.collect()
        assert (begun.is_set(), done, told) == (False, [], [])

    asyncio.run(play())


def _scope() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/x", "headers": []}


def _guarded(
    folder: Path, begun: asyncio.Event, go: asyncio.Event
) -> tuple[Freeze, Any, list[str]]:
    """Return a freeze, a route that it guards, and what its long way has done."""

    async def later() -> PlainAnswer | None:
        begun.set()
        await go.wait()
        return None

    freeze, done = Freeze("/", folder), []
    made = route("/x", _handler(done), "POST", need=USER, plain=lambda _scope, _body: later())
    guard([made], freeze)
    return freeze, made, done


def _handler(done: list[str]) -> Any:
    async def handle(_request: Request) -> Response:
        done.append("long")
        return Response()

    return handle


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def _ignored(_message: Any) -> None: ...
