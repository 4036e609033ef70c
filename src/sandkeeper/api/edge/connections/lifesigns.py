"""Whether who is at the other end of a connection is still there (tcp(7)).

A client whose machine is gone says nothing, and a stream to it would be held for a quarter of an
hour. The kernel asks quiet ones in any case; after a standstill (`linux.clocks.WorkClock`), when
whole networks may have gone, it asks all at once and gives up soon. Who is there notices nothing,
who is not has a cursor to go on from.
"""

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["ask_now", "ask_quiet_ones"]

IDLE_SECONDS, PAUSE_SECONDS, TIMES = 60, 15, 4
NOW_SECONDS, NOW_PAUSE_SECONDS, NOW_TIMES = 1, 2, 5
GIVE_UP_SECONDS = 15
"""So long may what was sent remain without an answer, while all are asked."""
DOUBT_SECONDS = 60.0


def ask_quiet_ones(sock: socket.socket) -> None:
    """Have the kernel ask who is quiet for long; a listener's connections inherit it."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(sock, IDLE_SECONDS, PAUSE_SECONDS, TIMES, 0)


def ask_now(transports: Iterable[asyncio.BaseTransport]) -> None:
    """Have the kernel ask everybody now; those that do not answer are closed within seconds."""
    asked = list(transports)
    for transport in asked:
        _apply(transport, NOW_SECONDS, NOW_PAUSE_SECONDS, NOW_TIMES, GIVE_UP_SECONDS)
    asyncio.get_running_loop().call_later(DOUBT_SECONDS, _trust, asked)


def _trust(transports: list[asyncio.BaseTransport]) -> None:
    for transport in transports:
        if not transport.is_closing():
            _apply(transport, IDLE_SECONDS, PAUSE_SECONDS, TIMES, 0)


def _apply(transport: asyncio.BaseTransport, *values: int) -> None:
    found = transport.get_extra_info("socket")
    if found is None:  # so uvloop has it once it is closed
        return
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(found.fileno())) as sock:
        _set(sock, *values)


def _set(sock: socket.socket, idle: int, pause: int, times: int, give_up: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, give_up * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, times)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
