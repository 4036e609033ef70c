"""uvicorn's HTTP protocol with the edge's limits on what comes in."""

import asyncio
from typing import TYPE_CHECKING, Any

import httptools

from sandkeeper.api.edge.connections.intake import (
    BodyClock,
    HeldFlow,
    Intake,
    check_codings,
    declared_length,
)
from sandkeeper.api.edge.connections.lean import LeanProtocol
from sandkeeper.api.edge.connections.parting import Parting, Patient
from sandkeeper.api.edge.connections.short_way import ShortWay
from sandkeeper.api.edge.connections.wire import WIRE, Wire
from sandkeeper.api.edge.respond import bare_error
from sandkeeper.api.edge.urls import Leads, called_by_target, is_for_port, is_for_tcp, leads_nowhere
from sandkeeper.linux.fds import Use, is_scarce
from sandkeeper.network.channel import Heir
from sandkeeper.network.isolation import Isolation
from sandkeeper.settings.port_names import PortNames

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["EdgeProtocol"]

HEADER_SECONDS = 30.0
HEADER_BYTES = 1 << 20
HEADER_FIELDS = 1000
FIELD_BYTES = 128 << 10
TARGET_BYTES = 32 << 10


class EdgeProtocol(LeanProtocol, ShortWay, Parting):
    """uvicorn's HTTP protocol with the contract's limits on request heads.

    A head must be complete within 30 s and may have 1 MiB in 1000 fields; uvicorn itself bounds
    none of these. What follows a body in chunks (trailers) has the same limit and is dropped:
    uvicorn would put it among the fields of a request that is being served. A body that is waited
    for must bring a KiB in each `body_seconds` (0: no limit).
    """

    body_seconds = 30.0
    port_names = PortNames((), "")
    leads: Leads = staticmethod(leads_nowhere)
    isolation: Isolation | None = None
    """Whose connections are not taken."""
    _held: "RequestResponseCycle | None" = None
    _holds = False
    _excess: tuple[int, str] | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _unwanted = 0
    _body_left = 0
    _declined = False
    _restarting = False
    _switching = False
    _ahead: bytes | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all that came has been answered, to the last byte: nothing of it is in here."""
        return self.is_at_rest and not self.transport.get_write_buffer_size()

    @property
    def is_at_rest(self) -> bool:
        """Whether all that came has been answered, and nothing of a request is here."""
        nothing = not self._begun and not self._head_bytes and not self._intake.waits
        return nothing and super().is_at_rest and not self.pipeline

    @property
    def is_asked(self) -> bool:
        """Whether the present request is here as a whole."""
        return not self._begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its time."""
        super().connection_made(transport)
        fd = transport.get_extra_info("socket").fileno()
        if self.isolation is not None and self._is_refused(self.isolation, transport):
            transport.abort()
        elif is_scarce(fd, Use.CONNECTION, held=len(self.connections)):
            transport.write(bare_error(503, "too many connections"))
            transport.close()
        self.flow = self.held_flow = HeldFlow(transport, self._resumed)
        self._intake = Intake(
            self._feed, self._may_feed, self.held_flow.hold, self.held_flow.let_go
        )
        self.body_clock = BodyClock(self.body_seconds, self._body_state, self.body_late)
        self._arm()

    def _is_refused(self, isolation: Isolation, transport: asyncio.Transport) -> bool:
        ours, theirs = (transport.get_extra_info(end) for end in ("sockname", "peername"))
        return not ours or not theirs or isolation.refuses(ours, theirs)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._disarm()
        self._intake.drop()
        self.body_clock.stop()
        super().connection_lost(exc)

    @property
    def is_behind(self) -> bool:
        """Whether bytes are here that are not parsed."""
        return self._intake.waits

    def data_received(self, data: bytes) -> None:
        """Parse what a turn suffices for."""
        if self._ahead is not None:
            self._ahead += data
            return
        if self._unwanted:
            passed = min(self._unwanted, len(data))
            self.body_clock.moved += passed
            self.pass_over(self._unwanted - passed)
            data = data[passed:]
            if not data:
                return
        if self._body_left >= len(data) and not self._intake.waits:
            self._parse(data)  # one callback, however long
        else:
            self._intake.take(data)
        if self._begun and not self._in_head:
            self.body_clock.run()

    def _feed(self, data: bytes) -> None:
        """Count what belongs to a head before the parser keeps it."""
        self._head_bytes += len(data)
        if self._head_bytes > HEADER_BYTES:
            self._refuse(431, "request header fields are too large")
            return
        self._parse(data)
        if self._in_head and (self._begun or self._head_bytes):
            self._arm()  # also for bytes before a request line, which the parser skips

    def _may_feed(self) -> bool:
        return not self.flow.read_paused and self._ahead is None

    def _resumed(self) -> None:
        """Go on when the application reads, and count its client's time from now."""
        self.body_clock.begin()
        self._intake.wake()

    def _parse(self, data: bytes) -> None:
        try:
            self._parse_all(data)
        finally:
            self._go(whole=False)

    def _parse_all(self, data: bytes) -> None:
        while data and self.parser is not None:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                status, text = self._excess or (400, "Invalid HTTP request received.")
                self._refuse(status, text)
            except httptools.HttpParserUpgrade as end:
                if self._switching:
                    self._ahead = data[end.args[0] :]
                    self.held_flow.hold()
                    return
                if self._declined:
                    data = self._decline() + data[end.args[0] :]
                    continue
                self._intake.drop()
                self.handle_websocket_upgrade()
            return

    def _decline(self) -> bytes:
        """Return a head to go on with, behind that of a request for an upgrade that is not made.

        The parser takes all that follows for another protocol, the request's own body included:
        a new one is led to the same place by a head that only says how the body ends.
        """
        framing = [
            name + b": " + value + b"\r\n"
            for name, value in self.headers
            if name in {b"content-length", b"transfer-encoding"}
        ]
        self._declined, self._restarting = False, True
        self._new_parser()
        return b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n"

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        if not self._restarting:
            self.url += url
            if len(self.url) > TARGET_BYTES:
                self._too_much(414, f"the request's target is longer than {TARGET_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start the time of the next head."""
        if self._restarting:
            return
        super().on_message_begin()
        self._in_head = self._begun = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head."""
        if self._in_head:
            name, headers = name.lower(), self.headers
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            headers.append((name, value))
            if len(headers) > HEADER_FIELDS or len(value) > FIELD_BYTES:
                self._too_much(431, "request header fields are too many or too large")

    def _too_much(self, status: int, text: str) -> None:
        """End the parsing of a head."""
        self._excess = status, text
        raise ValueError(text)

    def on_body(self, body: bytes) -> None:
        """Count anew: what was read was not all head or trailer."""
        self._head_bytes = 0
        self._body_left -= len(body)
        self.body_clock.moved += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Stop the time: the head is here."""
        if self._restarting:
            self._restarting = False
            return
        if not self.url.startswith(b"/"):
            self.headers[:] = called_by_target(self.url, self.headers)
        self._in_head = False
        if self._head_timer is not None:
            self._disarm()
        check_codings(self.headers)
        self.body_clock.begin()
        upgrade = self.parser.should_upgrade()
        self._switching = upgrade and self._may_switch()
        self._declined = upgrade and not self._should_upgrade()
        self._holds = self.plain is not None
        super().on_headers_complete()
        self._holds = False
        if self._switching:
            self.cycle.keep_alive = False  # whatever comes behind is not for this parser
        if self.scope["method"] not in {"GET", "HEAD"}:
            self._body_left = declared_length(self.headers)

    def on_message_complete(self) -> None:
        """Expect a new head from here on."""
        self._body_left = 0
        if self._declined:
            return
        super().on_message_complete()
        self._in_head, self._begun = True, False
        self._head_bytes = 0
        self._go(whole=True)

    def _start_asgi_task(self, cycle: "RequestResponseCycle", _app: Any) -> None:
        """Begin with a request behind the bytes that are read: one that is whole may need no task.

        One that waited behind another has its turn in the next round of the loop.
        """
        if self._holds:
            self._held = cycle
        else:
            self.loop.call_soon(self._begin, cycle, not cycle.more_body)

    def begin_task(self, cycle: "RequestResponseCycle") -> None:
        """Have the application handle a request."""
        cycle.scope[WIRE] = Wire(self, cycle)  # type: ignore[literal-required]
        if self._begun and cycle is self.cycle:
            cycle.transport = Patient(self)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        """Expect another request, unless the connection ends."""
        if not self._is_parting:
            super().on_response_complete()

    def _go(self, *, whole: bool) -> None:
        """Have a held request answered the short way, or begin with it."""
        held, self._held = self._held, None
        if held is not None:
            self._begin(held, whole)

    def pass_over(self, left: int) -> None:
        """Go on after a body that was not all parsed: `left` bytes of it are still to be dropped.

        The parser cannot be told of bytes that it never saw, so a new one begins behind them.
        """
        self._unwanted = left
        if self.transport.is_closing():
            return
        if not left:
            self._new_parser()
            self.on_message_complete()
        self.flow.resume_reading()

    def switch(self, end: Heir) -> bytes:
        """Leave the connection to another protocol; returns what it was sent already."""
        ahead = (self._ahead or b"") + self._intake.drop()
        self._disarm()
        self.body_clock.stop()
        self._unset_keepalive_if_required()
        self.cycle.disconnected = True  # nothing is to be sent from here any more
        self.connections.discard(self)
        end.connection_made(self.transport)
        if self.transport.is_closing():
            self.loop.call_soon(end.connection_lost, None)
        else:
            self.transport.set_protocol(end)
            self.connections.add(end)  # type: ignore[arg-type] # it only has to shut down
            end.left = lambda: self.connections.discard(end)
        return ahead

    def _may_switch(self) -> bool:
        """Say whether an upgrade is for a server of the sandbox; such have no body."""
        if self.parser.get_method() == b"CONNECT" or self._has_body():
            return False
        path = httptools.parse_url(self.url).path.decode("latin-1")
        named = any(
            name == b"host" and self.port_names.find(value) is not None
            for name, value in self.headers
        )
        named = named or self.leads(self.headers, int((self.server or ("", 0))[1] or 0))
        tcp = (b"upgrade", b"tcp") in self.headers and is_for_tcp(path)
        return named or tcp or is_for_port({"path": path})

    def _has_body(self) -> bool:
        fields = dict(self.headers)
        return b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"

    def _should_upgrade(self) -> bool:
        """Take only a whole handshake for one; anything else is a request like others."""
        if self._switching or self.parser.get_method() != b"GET" or not super()._should_upgrade():
            return False
        # A handshake with a body would be waited for without end by the WebSocket layer.
        if self._has_body():
            return False
        fields = dict(self.headers)
        return b"sec-websocket-key" in fields and fields.get(b"sec-websocket-version") == b"13"

    def _body_state(self) -> bool | None:
        """Say whether the client is waited for; what goes to a port is that server's matter."""
        if not self._begun or self._in_head or self.transport.is_closing():
            return None
        return not self.flow.read_paused and not is_for_port(self.scope)

    def body_late(self) -> None:
        """Answer 408 where there is no answer yet, and close."""
        self._cut_off(408, f"the request's body brought nothing for {self.body_seconds:g} seconds")

    def _cut_off(self, status: int, text: str) -> None:
        """Answer for the application, which still waits for its request's body, and close."""
        cycle = self.cycle
        if cycle.response_started or cycle.disconnected or self.pipeline:
            self.transport.close()
            return
        cycle.disconnected = True
        cycle.message_event.set()
        self._answer(status, text)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, as JSON like every other error."""
        self._refuse(400, msg)

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self._in_head and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, text: str) -> None:
        self._disarm()
        if self.cycle is None or self.cycle.response_complete:
            self._answer(status, text)
        elif self._begun and not self._in_head:
            self._cut_off(status, text)
        else:
            self.transport.close()  # another answer is on its way here

    def _answer(self, status: int, text: str) -> None:
        """Answer with an error past the application, and close."""
        self.transport.write(bare_error(status, text))
        self.part()
