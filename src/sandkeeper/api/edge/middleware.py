"""What every request passes: gate, CORS, no-cache, timing, token, access log, the last net."""

import traceback
from asyncio import CancelledError, Future
from collections.abc import Coroutine
from time import perf_counter
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.edge import auth
from sandkeeper.api.edge.bodies.room import HELD, Held, Room
from sandkeeper.api.edge.connections.exchange import BARE, NO_CACHE, SWITCHING, Exchange
from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.connections.newline import ending_line
from sandkeeper.api.edge.connections.outgoing import ANSWER, Answer, Outgoing
from sandkeeper.api.edge.connections.plain import (
    Early,
    Heads,
    Later,
    PlainAnswer,
    PlainRoutes,
    answered,
    may_be_plain,
    plain_error,
)
from sandkeeper.api.edge.connections.reply import Reply
from sandkeeper.api.edge.connections.wire import CARRIED, closing_unasked, wire_of
from sandkeeper.api.edge.cors import Cors
from sandkeeper.api.edge.hosts import Gate, refusal
from sandkeeper.api.edge.respond import Say, error_response, want_of
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.tracing import Traces
from sandkeeper.api.edge.urls import PORT_NAME, is_for_port, lead_to_runtime, readdress
from sandkeeper.errors import BadInput, Forbidden, SandkeeperError, Unavailable
from sandkeeper.log.access import Access
from sandkeeper.log.lines import Log
from sandkeeper.observability.metrics import Requests
from sandkeeper.settings.port_names import PortNames

__all__ = ["Doors", "Edge"]

BEGUN = "sandkeeper.begun"
"""In the scope: when a request began that was counted on the short way, and goes the long one."""

LEFT = 499
"""What a request counts as that nobody has had an answer to."""


class Doors(Protocol):
    """What opens a part of the API by something else than a token (`api.port.pages`)."""

    def opens(self, scope: Scope, gate: Gate) -> bool:
        """Say whether a request may pass for that; raises BadInput or Forbidden as `Gate` does."""

    def shown(self, scope: Scope) -> str:
        """Return the path of a request as the log may show it: without what opens a part."""


class Edge:
    """The outermost ASGI layer.

    A response may bring its own `cache-control`; the other headers are the same everywhere. An
    exception that reaches this layer is logged and answered by an empty 500; after the headers
    have gone out the connection is closed instead.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        log: Log,
        doorkeeper: auth.Admission,
        processing_time: bool,
        requests: Requests,
        cors: Cors,
        doors: Doors,
        gate: Gate,
        port_names: PortNames,
        e2b: bool,
        runtime_port: int,
        gateways: Gateways,
        room: Room,
        outgoing: Outgoing,
        plain: PlainRoutes,
        say: Say,
        traces: Traces,
    ) -> None:
        self._app = app
        self._access = access
        self._log = log
        self._doorkeeper = doorkeeper
        self._processing_time = processing_time
        self._requests = requests
        self._cors = cors
        self._doors = doors
        self._gate = gate
        self._port_names = port_names
        self._known_names = port_names.known
        self._e2b = e2b
        self._runtime_port = runtime_port
        self._gateways = gateways
        self._room = room
        self._outgoing = outgoing
        self._traces = traces
        self._find_plain = plain.find
        self._say = say
        self._heads = Heads(cors, NO_CACHE, processing_time=processing_time)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] in ("http", "websocket"):
            self._gateways.strip(scope)
            self._mark(scope)
            if self._e2b:
                readdress(scope)
            if self._runtime_port:
                lead_to_runtime(scope, self._runtime_port)
        if scope["type"] == "http":
            send = ending_line(scope, closing_unasked(scope, send), bare=BARE)
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and not is_for_port(scope):
            headers = self._cors.preflight(scope)
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._http(scope, receive, send)

    def _mark(self, scope: Scope) -> None:
        """Note the port that is called by a host name of its own: such a request is not for us."""
        called = first_fields(scope).get(b"host")
        if called is None:
            return
        try:
            found = self._known_names[called]
        except KeyError:
            found = self._port_names.find(called)
        if found is not None:
            scope[PORT_NAME] = found

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if reason := self._refused(scope):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
            return
        self._requests.websockets += 1
        self._traces.enter(scope)
        started, status = perf_counter(), SWITCHING
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last net: log it, the server lives
            status = 500
            self._failed(scope, error)
            await send({"type": "websocket.close", "code": 1011, "reason": "internal error"})
        finally:
            self._requests.websockets -= 1
            path = self._doors.shown(scope)
            seconds = perf_counter() - started
            self._traces.ended(self._traces.told(scope, path, status, seconds, 0))

    def _refused(self, scope: Scope) -> str:
        """Return why a WebSocket may not be opened."""
        try:
            return "" if self._admits(scope) else "unauthorized"
        except (BadInput, Forbidden):
            return "host or origin not allowed"

    def _admits(self, scope: Scope) -> bool:
        """Say whether a request may go on; raises BadInput or Forbidden as the gate does."""
        return self._doors.opens(scope, self._gate) or self._doorkeeper.admits(scope)

    def plain(self, scope: Scope, body: bytes, reply: Reply) -> bool | Coroutine[None, None, None]:
        """Answer a request that is plain, at once or by what is returned; False: it is not.

        Nothing has been done then, and the request goes the long way, where it is also refused.
        Else counting and telling come behind the sending, so that no client waits for them; before
        the next request is read they are done.
        """
        handler = self._find_plain(scope)
        if handler is None:
            return False
        started = perf_counter()
        self._gateways.strip(scope)
        if not may_be_plain(first_fields(scope)):
            return False
        self._mark(scope)
        if PORT_NAME in scope or (self._e2b and readdress(scope)):
            return False
        if self._runtime_port and scope["path"] == "/":  # of its paths the one that is ours, too
            return False
        try:
            if not self._admits(scope):
                return False
        except (BadInput, Forbidden):
            return False
        answer = answered(handler, scope, body, self._say)
        if answer is None:
            return False
        if isinstance(answer, PlainAnswer):
            reply(self._heads.of(scope, answer, started))
            self._traces.begin(scope)
            seconds = perf_counter() - started
            self._requests.answered(scope["path"], answer.status, seconds)
            self._tell(scope, answer.status, seconds, len(answer.body))
            return True
        self._traces.begin(scope)
        self._requests.begun()
        if not callable(answer):
            return self._later(scope, answer, started, reply)
        self._early(scope, answer, started, reply)
        return True

    def _early(self, scope: Scope, begin: Early, started: float, reply: Reply) -> None:
        """Have a thread make an answer and give it; what follows is done when we know of it."""
        early = reply.from_thread()

        def done(made: "Future[PlainAnswer]") -> None:
            early.close()
            try:
                answer = made.result()
            except CancelledError:  # the server ends
                self._ended(scope, LEFT, started, 0.0, 0)
                return
            except Exception as error:  # noqa: BLE001 - the last net: told there
                answer = self._unmade(scope, error)
            self._give(scope, answer, started, reply)

        begin(lambda answer: early(self._heads.of(scope, answer, started))).add_done_callback(done)

    async def _later(self, scope: Scope, coming: Later, started: float, reply: Reply) -> None:
        """Wait for an answer and give it, whatever goes wrong; or have it go the long way."""
        self._traces.enter(scope)
        try:
            answer = await coming
        except Exception as error:  # noqa: BLE001 - the last net: told there, the server lives
            answer = self._unmade(scope, error)
        except BaseException:
            self._ended(scope, LEFT, started, 0.0, 0)
            raise
        if answer is None:
            scope[BEGUN] = started
            reply.pass_on()
            return
        self._give(scope, answer, started, reply)

    def _give(self, scope: Scope, answer: PlainAnswer, started: float, reply: Reply) -> None:
        if reply(self._heads.of(scope, answer, started)):
            self._ended(scope, answer.status, started, perf_counter(), len(answer.body))
        else:
            self._ended(scope, LEFT, started, 0.0, 0)

    def _unmade(self, scope: Scope, error: Exception) -> PlainAnswer:
        """Return the answer in the place of one that could not be made."""
        if isinstance(error, SandkeeperError):
            return plain_error(error, self._say)
        self._failed(scope, error)
        if want := want_of(error):
            return plain_error(Unavailable(want), self._say)
        return PlainAnswer(b"", 500)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = scope[ANSWER] = Answer(self._outgoing, wire_of(scope))
        exchange = Exchange(scope, send, self._cors, answer, self._requests)
        exchange.processing_time = self._processing_time
        if BEGUN in scope:
            exchange.started = scope[BEGUN]
        else:
            self._requests.begun()
        self._traces.enter(scope)
        held = scope[HELD] = Held(self._room)
        try:
            opened = self._doors.opens(scope, self._gate)
            if not opened and not self._doorkeeper.admits(scope):
                await auth.refuse(scope, receive, exchange.send)
            else:
                await self._app(scope, receive, exchange.send)
        except (BadInput, Forbidden) as error:
            await refusal(scope, error)(scope, receive, exchange.send)
        except Exception as error:
            want = want_of(error)
            if want and not exchange.status:
                await error_response(Unavailable(want))(scope, receive, exchange.send)
                return
            self._failed(scope, error)
            if exchange.status:
                raise
            await exchange.send({"type": "http.response.start", "status": 500, "headers": []})
            await exchange.send({"type": "http.response.body", "body": b""})
        finally:
            held.release()
            answer.finish()
            status, size = exchange.status or LEFT, exchange.size + scope.get(CARRIED, 0)
            self._requests.websockets -= status == SWITCHING
            self._ended(scope, status, exchange.started, exchange.began, size)

    def _ended(self, scope: Scope, status: int, started: float, began: float, size: int) -> None:
        """Count a request and write its line; `began` is when its answer did (0: never)."""
        ended = perf_counter()
        path = "/port/" if PORT_NAME in scope else scope["path"]
        self._requests.ended(path, status, (began or ended) - started)
        self._tell(scope, status, ended - started, size)

    def _tell(self, scope: Scope, status: int, seconds: float, size: int) -> None:
        """Write the line of a request that is over, and its span."""
        request = self._traces.told(scope, self._doors.shown(scope), status, seconds, size)
        self._access.request(request)
        self._traces.ended(request)

    def _failed(self, scope: Scope, error: Exception) -> None:
        path = self._doors.shown(scope)
        if want := want_of(error):
            self._log.warning(f"{scope.get('method', 'WS')} {path} was given up: {want}")
            return
        self._log.error(
            f"unhandled error in {scope.get('method', 'WS')} {path}: {error!r}",
            stack="".join(traceback.format_exception(error))[-8000:],
        )
