"""The loopback proxy: takes CONNECT and plain HTTP, adds the token, passes on to the real proxy.

One request per connection. A CONNECT becomes a tunnel with both directions on their own, so a
client may end its sending and still get its reply. A plain request is sent on with `Connection:
close`; its reply's head is read and stripped, its body passes through as it comes. Whatever can
be read in two ways is refused (`egress.head`): behind it goes the token.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import h11

from sandkeeper.egress.head import (
    BadHead,
    Fields,
    ProxyRequest,
    ReplyHead,
    parse_request,
    parse_response,
)
from sandkeeper.egress.peer import HeadTooLarge, Peer, PlainPeer, connect, keep_alive
from sandkeeper.egress.token import TokenFile, Upstream
from sandkeeper.network.hops import MAX_HOPS, Hops
from sandkeeper.network.relay import Relay, is_reset_when_closed, reset_when_closed

__all__ = ["EgressProxy", "EgressRoute"]

CONNECTIONS = 2000
HEAD_SECONDS = 30.0
REPLY_SECONDS = 300.0
SILENCE_SECONDS = 300.0
REFUSAL_BYTES = 256 << 10
CHUNKS_A_TURN = 100
REASONS = {
    400: "Bad ProxyRequest",
    405: "Method Not Allowed",
    408: "ProxyRequest Timeout",
    431: "ProxyRequest Header Fields Too Large",
    508: "Loop Detected",
}


@dataclass(frozen=True, slots=True)
class EgressRoute:
    """Where requests go now: the upstream, its token and, for `https://`, the TLS settings."""

    upstream: Upstream
    token: TokenFile
    tls: ssl.SSLContext | None


class _Refused(Exception):
    """What the client is told instead of what it wanted."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class EgressProxy:
    """Serves connections of a listening socket; `route()` is asked for every request.

    `failed` is told, on any thread, why something had to be given up.
    """

    def __init__(
        self, route: Callable[[], EgressRoute | None], failed: Callable[[str], None]
    ) -> None:
        self._route = route
        self._relay = Relay(failed=failed)
        self._hops = Hops()
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, listener: socket.socket) -> None:
        """Accept until cancelled; past the limit new ones wait in the kernel's queue."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                sock, _ = await loop.sock_accept(listener)
            except asyncio.CancelledError:
                self._room.release()
                raise
            except OSError:  # a client that left in the queue, or no descriptor for a moment
                self._room.release()
                await asyncio.sleep(0.05)
                continue
            task = asyncio.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._relay.stop)

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = PlainPeer(sock)
        try:
            keep_alive(sock)
            await self._request(client)
        except _Refused as refusal:
            with suppress(OSError):
                await _refuse(client, refusal.status, str(refusal))
        except (OSError, EOFError):
            pass  # either side went away: there is nobody left to tell
        finally:
            client.close()

    async def _request(self, client: PlainPeer) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                request = parse_request(await client.head())
        except TimeoutError:
            raise _Refused(408, "no request within 30 s") from None
        except HeadTooLarge:
            raise _Refused(431, "request head is larger than 64 KiB") from None
        except BadHead as error:
            raise _Refused(error.status, str(error)) from None
        if self._hops.repeated(request.fields) or self._hops.count(request.fields) >= MAX_HOPS:
            raise _Refused(508, "sandbox proxy: the way to the proxy leads back here")
        if request.method == b"CONNECT":
            await self._connect(client, request)
        else:
            await self._forward(client, request)

    async def _connect(self, client: PlainPeer, request: ProxyRequest) -> None:
        upstream, reply = await self._ask(request)
        try:
            if 200 <= reply.status < 300:
                await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._carry(client, upstream)
            else:
                await client.send(reply.encode())
                await _pass_refusal(upstream, client)
        finally:
            upstream.close()

    async def _ask(self, request: ProxyRequest) -> tuple[Peer, ReplyHead]:
        """Send a request without a body; a 407 has the token read again and is tried once more."""
        upstream, reply = await self._ask_once(request, fresh=False)
        if reply.status == 407:
            upstream.close()
            upstream, reply = await self._ask_once(request, fresh=True)
        return upstream, reply

    async def _ask_once(self, request: ProxyRequest, *, fresh: bool) -> tuple[Peer, ReplyHead]:
        upstream, extra = await self._open(request, fresh=fresh)
        try:
            encode = request.encode_connect if request.method == b"CONNECT" else request.encode
            await _send_upstream(upstream, encode(extra))
            return upstream, await _reply(upstream, REPLY_SECONDS)
        except BaseException:
            upstream.close()
            raise

    async def _open(self, request: ProxyRequest, *, fresh: bool) -> tuple[Peer, Fields]:
        """Connect to the proxy; returns the connection and our own fields, the token's among."""
        route = self._route()
        if route is None:
            raise _Refused(502, "sandbox proxy: no upstream is configured")
        token = await route.token.get(fresh=fresh)
        if not token:
            raise _Refused(502, "sandbox proxy: the token file is missing or empty")
        try:
            upstream = await connect(route.upstream, route.tls)
        except OSError as error:
            reason = str(error) or "no answer"
            raise _Refused(502, f"sandbox proxy: cannot reach the proxy: {reason}") from None
        authorization = route.upstream.authorization(token)
        return upstream, [
            (b"Via", self._hops.via(request.fields)),
            (b"Proxy-Authorization", authorization.encode("ascii")),
        ]

    async def _forward(self, client: PlainPeer, request: ProxyRequest) -> None:
        if request.size == 0:
            upstream, reply = await self._ask(request)
            try:
                await self._answer(client, upstream, reply, upgrade=request.upgrades)
            finally:
                upstream.close()
            return
        upstream, extra = await self._open(request, fresh=False)
        upload: asyncio.Task[None] | None = None
        try:
            await _send_upstream(upstream, request.encode(extra))
            upload = asyncio.create_task(_upload(client, upstream, request))
            try:
                reply = await _reply(upstream, REPLY_SECONDS, interim=client)
            except _Refused:
                if upload.done() and isinstance(upload.exception(), BadHead):
                    raise _Refused(400, str(upload.exception())) from None
                raise
            await self._answer(client, upstream, reply, upgrade=False)
            early = not upload.done()
        finally:
            if upload is not None:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
            upstream.close()
        if early:
            await _part(client)

    async def _answer(
        self, client: PlainPeer, upstream: Peer, reply: ReplyHead, *, upgrade: bool
    ) -> None:
        """Pass a reply on to its end."""
        if upgrade and reply.status == 101:
            await client.send(reply.encode(upgrade=True))
            await self._carry(client, upstream)
            return
        await client.send(reply.encode())
        if upstream.rest:
            await client.send(await upstream.read())
        if isinstance(upstream, PlainPeer):
            await self._relay.join(
                client.sock, upstream.sock, both=False, silence=SILENCE_SECONDS, resets=True
            )
        else:
            reset_when_closed(client.sock)
            if await _pump(upstream, client, silence=SILENCE_SECONDS):
                reset_when_closed(client.sock, wanted=False)

    async def _carry(self, client: PlainPeer, upstream: Peer) -> None:
        """Carry both directions until both have ended.

        What breaks off on one side is reset on the other: nobody takes it for an end. A client that
        still speaks when it was told all is heard out: what it has not taken would be lost.
        """
        await self._carry_both(client, upstream)
        await _part(client)

    async def _carry_both(self, client: PlainPeer, upstream: Peer) -> None:
        if upstream.rest:
            await client.send(await upstream.read())
        if client.rest:
            await upstream.send(await client.read())
        if isinstance(upstream, PlainPeer):
            await self._relay.join(client.sock, upstream.sock, resets=True)
            return
        reset_when_closed(client.sock)
        sending = asyncio.create_task(_pump(client, upstream))
        receiving = asyncio.create_task(_pump(upstream, client))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            # TLS cannot pass the client's end on, so the reply may never end: wait for silence.
            before = -1
            while not (receiving.done() or _has_failed(sending)) and upstream.received != before:
                before = upstream.received
                await asyncio.wait({receiving}, timeout=SILENCE_SECONDS)
        finally:
            sending.cancel()
            receiving.cancel()
            ends = await asyncio.gather(sending, receiving, return_exceptions=True)
            # A reset would drop the end of a whole reply that the client has not taken yet.
            if ends[1] is True or not any(isinstance(one, OSError) for one in ends):
                reset_when_closed(client.sock, wanted=False)


async def _send_upstream(upstream: Peer, data: bytes) -> None:
    try:
        await upstream.send(data)
    except OSError as error:
        raise _Refused(502, f"sandbox proxy: the proxy went away: {error}") from None


async def _reply(upstream: Peer, seconds: float, *, interim: Peer | None = None) -> ReplyHead:
    """Read the head of the final reply; interim ones go to `interim`. Raises _Refused."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                reply = parse_response(await upstream.head())
                if reply.status == 101 or reply.status >= 200:
                    return reply
                if interim is not None:
                    await interim.send(reply.encode())
    except TimeoutError:
        raise _Refused(502, f"sandbox proxy: no reply within {seconds:g} s") from None
    except (EOFError, OSError):
        raise _Refused(502, "sandbox proxy: the proxy closed the connection") from None
    except (BadHead, HeadTooLarge):
        raise _Refused(502, "sandbox proxy: the proxy's reply is not HTTP") from None


async def _upload(client: Peer, upstream: Peer, request: ProxyRequest) -> None:
    """Send a request's body, and nothing that may follow it."""
    if request.size is None:
        await _upload_chunks(client, upstream, request.reader)
        return
    left = request.size
    while left > 0:
        data = await client.read()
        if not data:
            return
        data = data[:left]
        left -= len(data)
        await upstream.send(data)


async def _upload_chunks(client: Peer, upstream: Peer, reader: h11.Connection) -> None:
    """Send a body in chunks of our own; its trailers stay here. Raises BadHead.

    A body that is not one ends the exchange: the other side must not take a part for the whole.
    """
    try:
        while True:
            data = await client.read()
            reader.receive_data(data)
            body, ended = await _cut_out(reader)
            if body:
                await upstream.send(b"%x\r\n%b\r\n" % (len(body), body))
            if ended:
                await upstream.send(b"0\r\n\r\n")
                return
    except h11.RemoteProtocolError as error:
        upstream.abandon()
        raise BadHead(str(error)) from None


async def _cut_out(reader: h11.Connection) -> tuple[bytes, bool]:
    """Return what came of a body in chunks, and whether that was the end; raises as h11 does."""
    parts: list[bytes] = []
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Data):
            parts.append(bytes(event.data))
            if len(parts) % CHUNKS_A_TURN == 0:
                await asyncio.sleep(0)  # many of one byte each are slow to read
        else:
            return b"".join(parts), isinstance(event, h11.EndOfMessage)


async def _pump(source: Peer, target: Peer, *, silence: float | None = None) -> bool:
    """Copy to the end; False when `silence` seconds without a byte came before it."""
    while True:
        try:
            async with asyncio.timeout(silence):
                data = await source.read()
        except TimeoutError:
            return False
        if not data:
            target.end()
            return True
        await target.send(data)


async def _part(client: PlainPeer) -> None:
    """Part from a client that may still be sending, unless it is to see that something broke."""
    if not is_reset_when_closed(client.sock):
        await client.part()


def _has_failed(task: "asyncio.Task[bool]") -> bool:
    return task.done() and task.exception() is not None


async def _pass_refusal(upstream: Peer, client: Peer) -> None:
    """Pass on the body of a refusal, within limits."""
    left = REFUSAL_BYTES
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(HEAD_SECONDS):
            while left > 0 and (data := await upstream.read()):
                await client.send(data[:left])
                left -= len(data)


async def _refuse(client: PlainPeer, status: int, text: str) -> None:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status} {REASONS.get(status, 'Bad Gateway')}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    await client.send(head.encode() + body)
    await client.part()
