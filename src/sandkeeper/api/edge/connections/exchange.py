"""One response of the application on its way out, the long way: its common fields, its bytes."""

from time import perf_counter

from starlette.types import Message, Scope, Send

from sandkeeper.api.edge.connections.outgoing import SMALL_BYTES, Answer
from sandkeeper.api.edge.connections.plain import timing
from sandkeeper.api.edge.connections.wire import SWITCHED
from sandkeeper.api.edge.cors import Cors
from sandkeeper.api.edge.respond import error_response
from sandkeeper.api.edge.subject import request_id
from sandkeeper.errors import Unavailable
from sandkeeper.observability.metrics import Requests

__all__ = ["BARE", "NO_CACHE", "SWITCHING", "Exchange"]

BARE = "sandkeeper.bare"
"""Set this key in the scope of a response that must reach the client as it is (a proxied one)."""

SWITCHING = 101
COUNTED_BYTES = 4096
"""What is shorter adds up to no more than a connection buffers anyway."""

NO_CACHE = [
    (b"cache-control", b"no-cache, no-store, must-revalidate"),
    (b"pragma", b"no-cache"),
    (b"expires", b"0"),
    (b"x-content-type-options", b"nosniff"),
]


class Exchange:
    """One response on its way out: adds the common headers, counts the bytes."""

    __slots__ = (
        "_answer",
        "_cors",
        "_head",
        "_refused",
        "_scope",
        "_send",
        "began",
        "processing_time",
        "requests",
        "size",
        "started",
        "status",
    )

    def __init__(
        self, scope: Scope, send: Send, cors: Cors, answer: Answer, requests: Requests
    ) -> None:
        self._answer = answer
        self._head: Message | None = None
        self._refused = False
        self._cors = cors
        self._scope = scope
        self._send = send
        self.requests = requests
        self.processing_time = False
        self.started = perf_counter()
        self.began = 0.0
        self.status = 0
        self.size = 0

    async def send(self, message: Message) -> None:
        """Pass one ASGI message on; a long answer for which there is no room becomes a 503."""
        if message["type"] == SWITCHED:
            self.status, self.began = SWITCHING, perf_counter()
            self.requests.websockets += 1
            return
        if self._refused:
            return
        head, self._head = self._head, None
        if message["type"] == "http.response.start":
            head = None  # of an answer that failed before its body
            if self._may_be_long(message):
                self._head = message  # until the body shows whether all of it is in memory
                return
        if head is not None:
            if not self._has_room(message):
                self._refused = True
                refusal = Unavailable("too many answers wait to be read: try again")
                await error_response(refusal)(self._scope, _nothing, self._pass)
                return
            await self._pass(head)
        await self._pass(message)

    def _may_be_long(self, message: Message) -> bool:
        if self._answer.is_managed or self._scope.get(BARE) or self._scope["method"] == "HEAD":
            return False
        length = next((v for k, v in message["headers"] if k.lower() == b"content-length"), b"")
        return len(length) > 4 and int(length) > SMALL_BYTES

    def _has_room(self, message: Message) -> bool:
        """Count a body that is in memory as a whole; who sends in blocks has counted itself."""
        if message.get("more_body", False):
            return True
        try:
            self._answer.take(len(message.get("body", b"")))
        except Unavailable:
            return False
        return True

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began = perf_counter()
            if not self._scope.get(BARE):
                message = {**message, "headers": self._with_common(list(message["headers"]))}
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)
        if len(message.get("body", b"")) > COUNTED_BYTES:
            self._answer.sent()

    def _with_common(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        own = any(name.lower() == b"cache-control" for name, _ in headers)
        headers += self._cors.response(self._scope)
        headers.append((b"x-request-id", request_id(self._scope).encode("latin-1")))
        headers += NO_CACHE[1:] if own else NO_CACHE
        if self.processing_time:
            ms = (perf_counter() - self.started) * 1000
            headers.append((b"server-timing", timing(ms)))
        return headers


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
