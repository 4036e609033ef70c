"""A watched list: what the cluster has of a kind, followed from event to event.

A list in pages, then a watch from where that was; bookmarks move that place on while nothing
changes. A watch that ends goes on from there, at once when it was a good one, else after a pause
that grows and is never the same for all replicas. Only where the API server does not remember the
place (410) is everything listed again.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from time import monotonic
from typing import Any, Generic, TypeVar

import msgspec

from sandkeeper.errors import SandkeeperError, Unavailable
from sandkeeper.fleet.cluster import Cluster, Expired, ObjectKind
from sandkeeper.fleet.objects import ListPage, Meta, WatchLine
from sandkeeper.journal.turns import Turns
from sandkeeper.log.lines import Log

__all__ = ["Watched"]

T = TypeVar("T")

PAGE = 500
WATCH_SECONDS = (240, 360)
SILENCE_SECONDS = 90.0
"""Bookmarks come once a minute: without one the connection is dead, whatever it says."""

SHORTEST, LONGEST = 0.1, 5.0
GOOD_SECONDS = 5.0
GONE = 410


class _Marked(msgspec.Struct):
    """What every object has, and an error instead of one."""

    metadata: Meta = Meta()
    code: int = 0
    message: str = ""


class Watched(Generic[T]):
    """One kind of objects in one namespace; `model` has their fields.

    `begin` is called before each list, `replace` gets what it has, piece by piece and then None,
    unless it breaks off; `change` and `remove` get what a watch tells. All on the event loop's
    thread.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: ObjectKind,
        namespace: str,
        model: type[T],
        log: Log,
        *,
        begin: Callable[[], None],
        replace: Callable[[list[T] | None], None],
        change: Callable[[T], None],
        remove: Callable[[T], None],
        selector: str = "",
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._namespace = namespace
        self._model = model
        self._page_model: Any = ListPage[model]  # type: ignore[valid-type]
        self._log = log
        self._begin = begin
        self._replace = replace
        self._change = change
        self._remove = remove
        self._selector = {"labelSelector": selector} if selector else {}
        self._turns = Turns()
        self._place = ""
        self._failing = False
        self.name = kind.plural
        self.listed = asyncio.Event()
        self.lists = 0
        self.watches = 0

    @property
    def follows(self) -> bool:
        """Whether what it knows is how it is, as far as the API server tells."""
        return self.listed.is_set() and not self._failing

    async def run(self) -> None:
        """Follow, until it is cancelled."""
        pause = SHORTEST
        while True:
            began = monotonic()
            try:
                if not self._place:
                    await self._list()
                await self._watch()
            except Expired:
                self._place = ""
            except SandkeeperError as error:
                self._told(error)
            except Exception as error:  # noqa: BLE001 - the last net: what is known is read again
                self._place = ""
                self._log.error(f"{self.name} are listed again after a fault: {error!r}")
            if monotonic() - began > GOOD_SECONDS:
                pause = SHORTEST
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(LONGEST, pause * 2)

    def _told(self, error: SandkeeperError) -> None:
        """Say once that it fails, and once that it does not any more."""
        if not self._failing:
            self._failing = True
            self._log.warning(f"{self.name} cannot be followed for now: {error}")

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            self._log.info(f"{self.name} are followed again")

    async def _list(self) -> None:
        self.lists += 1
        self._begin()
        query = {"limit": str(PAGE), **self._selector}
        while True:
            page = await self._cluster.page(self._kind, self._namespace, self._page_model, query)
            self._replace(page.items)
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        self._replace(None)
        self._place = page.metadata.resource_version
        self.listed.set()
        self._works()

    async def _watch(self) -> None:
        self.watches += 1
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._place,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),
            **self._selector,
        }
        events = msgspec.json.Decoder(WatchLine)
        async with (
            self._cluster.watch(self._kind, self._namespace, query, SILENCE_SECONDS) as lines,
            aclosing(lines),
        ):
            self._works()
            async for line in lines:
                await self._turns.take()
                self._take(line, events)

    def _take(self, line: bytes, events: "msgspec.json.Decoder[WatchLine]") -> None:
        try:
            event = events.decode(line)
            marked = msgspec.json.decode(event.object, type=_Marked)
            if event.type == "ERROR":
                raise _gone(marked)
            if event.type != "BOOKMARK":
                found = msgspec.json.decode(event.object, type=self._model)
                (self._remove if event.type == "DELETED" else self._change)(found)
        except msgspec.DecodeError as error:
            self._log.warning(f"one of {self.name} makes no sense and is passed over: {error}")
            return
        self._place = marked.metadata.resource_version or self._place


def _gone(marked: _Marked) -> Exception:
    if marked.code == GONE:
        return Expired(marked.message)
    return Unavailable(f"the watch ended: {marked.message or marked.code}")
