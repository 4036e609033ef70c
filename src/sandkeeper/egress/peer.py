"""One side of a proxied connection: bytes over a plain socket, or over TLS to the proxy."""

import asyncio
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sandkeeper.egress.head import check_lines
from sandkeeper.egress.token import Upstream
from sandkeeper.network.lingering import drop
from sandkeeper.network.pacing import LOOPBACK, unpace

__all__ = ["HeadTooLarge", "Peer", "PlainPeer", "TlsPeer", "connect", "keep_alive"]

HEAD_BYTES = 64 << 10
CHUNK = 64 << 10
CONNECT_SECONDS = 10.0


class HeadTooLarge(Exception):
    """No end of a head within 64 KiB."""


class Peer(ABC):
    """Reads heads and bytes; what was read behind a head is given out first."""

    def __init__(self) -> None:
        self.rest = b""
        self.received = 0

    async def head(self) -> bytes:
        """Read up to an empty line; raises EOFError, HeadTooLarge, BadHead, or OSError.

        Stray line feeds are refused as they come: a client that ends its lines so would wait.
        """
        data, seen = self.rest, 0
        while (end := data.find(b"\r\n\r\n", max(0, seen - 3))) < 0 and len(data) <= HEAD_BYTES:
            check_lines(data, max(0, seen - 1))
            seen = len(data)
            chunk = await self.receive()
            if not chunk:
                raise EOFError
            data += chunk
        if not 0 <= end <= HEAD_BYTES:
            raise HeadTooLarge
        self.rest = data[end + 4 :]
        return data[: end + 4]

    async def read(self) -> bytes:
        """Read some bytes, none at the end."""
        if self.rest:
            data, self.rest = self.rest, b""
            return data
        data = await self.receive()
        self.received += len(data)
        return data

    @abstractmethod
    async def receive(self) -> bytes:
        """Read from the other side, none at the end; raises OSError."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send all of `data`; raises OSError."""

    @abstractmethod
    def end(self) -> None:
        """Say that nothing more will be sent, where the transport can say so."""

    @abstractmethod
    def abandon(self) -> None:
        """End both directions; whoever reads here meets an end."""

    @abstractmethod
    def close(self) -> None:
        """Close; closing twice is harmless."""


class PlainPeer(Peer):
    """A TCP socket that does not block."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> bytes:
        """Read what has come, 64 KiB at most."""
        return await self._loop.sock_recv(self.sock, CHUNK)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._loop.sock_sendall(self.sock, data)

    def end(self) -> None:
        """End sending, where this transport has a way."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    async def part(self) -> None:
        """End sending so that the other side hears all that was sent, though it still sends."""
        self.end()
        await drop(self.sock)

    def abandon(self) -> None:
        """End both directions."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close at once."""
        self.sock.close()


class TlsPeer(Peer):
    """TLS to an `https://` proxy; TLS as Python speaks it has no half-close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        """Read what has come, 64 KiB at most."""
        return await self._reader.read(CHUNK)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        """End sending, where this transport has a way."""

    def abandon(self) -> None:
        """End both directions."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


async def connect(upstream: Upstream, tls: ssl.SSLContext | None) -> Peer:
    """Connect to the proxy; raises OSError (TLS failures and time-outs are such)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        found = await loop.getaddrinfo(upstream.host, upstream.port, type=socket.SOCK_STREAM)
        sock = await _first_that_answers(found)
        if tls is None:
            return PlainPeer(sock)
        try:
            streams = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=upstream.host
            )
        except BaseException:
            sock.close()
            raise
        return TlsPeer(*streams)


async def _first_that_answers(found: Sequence[Any]) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        if address[0] in LOOPBACK:
            unpace(sock)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            keep_alive(sock)
            return sock
    raise failure


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out about a dead other side within two minutes; send small data now."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
