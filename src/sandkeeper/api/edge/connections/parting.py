"""A connection's end behind an answer that its client may still have to read.

A client that is answered before it has sent all of its request goes on sending; a plain closing
would reset the connection under it, and the answer could be lost (`network.lingering`).
"""

import asyncio
from collections import deque
from typing import Any

from sandkeeper.api.edge.connections.intake import BodyClock, Intake
from sandkeeper.network.lingering import linger

__all__ = ["Parting", "Patient"]


class Parting:
    """The part of the protocol that ends connections."""

    body_clock: BodyClock
    connections: set[Any]
    pipeline: deque[Any]
    transport: asyncio.Transport
    _begun = False
    _intake: Intake
    _is_parting = False

    def part(self) -> None:
        """End the connection behind what was answered last; all that comes now is dropped."""
        self._is_parting = True
        self._intake.drop()
        self.body_clock.stop()
        self.pipeline.clear()
        lingering = linger(self.transport, lambda: self.connections.discard(lingering))
        if lingering is not None:
            self.connections.discard(self)
            self.connections.add(lingering)

    def part_or_close(self) -> None:
        """End the connection, at once if all of the request is here."""
        if self._begun or self._intake.waits:
            self.part()
        else:
            self.transport.close()


class Patient:
    """The transport of a request of which the body is still to come."""

    def __init__(self, protocol: Parting) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """End the connection so that the answer is heard."""
        self._protocol.part_or_close()
