"""A connection's part in the short way (`.plain`): a whole request, and a whole answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sandkeeper.api.edge.connections.reply import Reply

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["ShortWay"]

PLAIN_BODY_BYTES = 64 << 10


class ShortWay:
    """The part of the protocol that answers whole requests."""

    plain: Callable[[Any, bytes, Reply], bool | Coroutine[None, None, None]] | None = None
    """Answers a whole request, at once or in a while, if it is a plain one (`.plain`)."""

    begin_task: Callable[["RequestResponseCycle"], None]
    flow: "FlowControl"
    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[None]]
    transport: asyncio.Transport

    def _begin(self, cycle: "RequestResponseCycle", whole: bool) -> None:
        """Begin with a request; one that is not `whole` goes the long way."""
        if not (whole and self._is_answered(cycle)):
            self.begin_task(cycle)

    def _is_answered(self, cycle: "RequestResponseCycle") -> bool:
        """Answer a whole request, at once or in a while; False: it has to go the long way."""
        if self.plain is None or len(cycle.body) > PLAIN_BODY_BYTES or not self._is_free(cycle):
            return False
        answered = self.plain(cycle.scope, bytes(cycle.body), Reply(self, cycle))
        if isinstance(answered, bool):
            return answered
        task = self.loop.create_task(answered)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        return True

    def _is_free(self, cycle: "RequestResponseCycle") -> bool:
        """Say whether an answer can go out now, and the connection goes on behind it."""
        asked = cycle.keep_alive and not cycle.waiting_for_100_continue
        return asked and not self.flow.write_paused and not self.transport.is_closing()
