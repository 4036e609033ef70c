"""WebSockets: frames are parsed in turns. Loaded with the first one."""

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from sandkeeper.network.intake import Intake
from sandkeeper.network.lingering import linger

__all__ = ["PacedSocket"]

FRAGMENTS_MOST = 16_384
"""Of one message; empty ones would otherwise add up without end."""

ANSWERS_BYTES = 1 << 20
"""A client that lets so many pongs stand is not read either."""


class PacedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, of which frames are parsed in turns."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection."""
        super().connection_made(transport)
        self._intake = Intake(self._parse, self._may_parse, self._stop, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was not parsed."""
        self._intake.drop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, or keep for later."""
        self._intake.take(data)

    def resume_writing(self) -> None:
        """Go on parsing: the client reads its answers."""
        super().resume_writing()
        self._intake.wake()

    async def receive(self) -> object:  # type: ignore[override]
        """Return the next message; reading goes on when there is no other."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self._intake.waits:
                self._intake.wake()
            elif not self.transport.is_closing():
                self.transport.resume_reading()
        return message

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment, of which there may not be any number."""
        if self.disconnected:
            return
        if len(self.frames) >= FRAGMENTS_MOST:
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_parser_exception(self) -> None:
        """Say what was wrong and close when the client has, or soon."""
        told = self.conn.close_sent
        assert told is not None
        self._intake.drop()
        self.stop_keepalive()
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": told.code, "reason": told.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self.disconnected = True
        linger(self.transport)

    def _parse(self, data: bytes) -> None:
        if not self.disconnected:
            super().data_received(data)

    def _may_parse(self) -> bool:
        return not self.read_paused and self.transport.get_write_buffer_size() < ANSWERS_BYTES

    def _stop(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _go_on(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()
