"""Connections to the servers of the sandbox: found by their port, wherever they listen."""

import asyncio
import errno
import socket

from sandkeeper.errors import Unprocessable
from sandkeeper.network.pacing import unpace
from sandkeeper.network.relay import reset_when_closed
from sandkeeper.network.sockets import listening_addresses

__all__ = ["NOT_LISTENING", "connect", "dial"]

NOT_LISTENING = "PORT_NOT_LISTENING"
CONNECT_SECONDS = 5.0
UNREACHABLE = {
    *(errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH),
    *(errno.EAFNOSUPPORT, errno.EINVAL),
}


async def connect(port: int) -> socket.socket:
    """Connect to whatever listens on `port`: on 127.0.0.1, on ::1, or where else it is bound.

    Raises Unprocessable (code PORT_NOT_LISTENING) when nothing does, or does not answer.
    """
    for address in ("127.0.0.1", "::1"):
        if connected := await dial(address, port):
            return connected
    for address in await asyncio.to_thread(listening_addresses, port):
        if connected := await dial(address, port):
            return connected
    raise Unprocessable(f"nothing listens on port {port}", code=NOT_LISTENING)


async def dial(address: str, port: int) -> socket.socket | None:
    """Connect to an address; None where nothing listens. Raises Unprocessable (as `connect`).

    To nobody there is a connection, too, once in tens of thousands of attempts: one whose own port
    is the one that was asked for meets itself (simultaneous open, RFC 9293 3.5; ports as in ip(7)).
    """
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    try:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    except OSError:
        return None
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        unpace(made)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(made, _target(address, port))
    except TimeoutError:
        made.close()
        text = f"port {port} did not accept the connection within {CONNECT_SECONDS:.0f} s"
        raise Unprocessable(text, code="PORT_NOT_ACCEPTING") from None
    except OSError as error:
        made.close()
        if error.errno in UNREACHABLE:
            return None
        text = f"cannot connect to port {port}: {error.strerror}"
        raise Unprocessable(text, code="PORT_NOT_ACCEPTING") from error
    except BaseException:
        made.close()
        raise
    if _has_met_itself(made):
        # An end that is not reset keeps the port from whoever wants to listen there, for a minute.
        reset_when_closed(made)
        made.close()
        return None
    return made


def _has_met_itself(made: socket.socket) -> bool:
    try:
        return bool(made.getsockname() == made.getpeername())
    except OSError:  # the other end has closed it already: there was one
        return False


def _target(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    bare, _, zone = address.partition("%")
    if ":" not in bare:
        return bare, port
    return bare, port, 0, socket.if_nametoindex(zone) if zone else 0
