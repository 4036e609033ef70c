"""The WebSocket client of `/port`, of which frames are parsed in turns: servers are no better
than clients, and a read full of pings is a hundred thousand answers.
"""

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection

from sandkeeper.api.edge.connections.frames import ANSWERS_BYTES
from sandkeeper.network.intake import Intake

__all__ = ["PacedClient"]

SLICE_BYTES = 1024
"""Five hundred pings, each of which is answered."""


class PacedClient(ClientConnection):
    """A connection to a server that may send what it likes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._intake = Intake(
            super().data_received, self._may_parse, self._stop, self._go_on, SLICE_BYTES
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection; who reads messages again has what waits be parsed first."""
        super().connection_made(transport)
        self.recv_messages.resume = self._read_on

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was not parsed."""
        self._intake.drop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, or keep for later."""
        self._intake.take(data)

    def resume_writing(self) -> None:
        """Go on parsing: the server reads its answers."""
        super().resume_writing()
        self._intake.wake()

    def _may_parse(self) -> bool:
        return (
            not self.recv_messages.paused and self.transport.get_write_buffer_size() < ANSWERS_BYTES
        )

    def _stop(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _go_on(self) -> None:
        if not self.recv_messages.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _read_on(self) -> None:
        if self._intake.waits:
            self._intake.wake()
        else:
            self._go_on()
