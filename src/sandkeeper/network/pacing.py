"""Connections within one machine, taken out of the kernel's pacing.

Where BBR is the machine's congestion control every connection is paced by timers. Over loopback
there is nothing to be gentle with, and the timers take half of the speed.
"""

import socket
from contextlib import suppress

__all__ = ["LOOPBACK", "unpace", "unpace_local"]

LOOPBACK = frozenset({"127.0.0.1", "::1"})
CONTROL = b"reno"
"""Always built in, never paces of its own accord, and allowed to everybody."""


def unpace(sock: socket.socket) -> None:
    """Never pace a connection that is still to be made, or those that a listener will accept."""
    with suppress(OSError):  # not TCP, or gone already: then nothing is lost
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONTROL)


def unpace_local(sock: socket.socket) -> None:
    """Pace an open connection less if its other end is here; one from elsewhere stays as it is."""
    with suppress(OSError):
        here, there = sock.getsockname(), sock.getpeername()
        if here and there and here[0] == there[0]:
            unpace(sock)
