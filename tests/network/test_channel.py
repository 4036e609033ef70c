"""Two connections that pass bytes to each other, when one of them is slow or gone."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sandkeeper.network import channel as module
from sandkeeper.network.channel import Channel, Side
from sandkeeper.network.frames import PING, goodbye

HALF = b"\x82\x05ab"
REST = b"cde"


@asynccontextmanager
async def joined(
    *, websocket: bool = True
) -> AsyncIterator[tuple[Channel, socket.socket, socket.socket]]:
    """Yield a channel with the sockets of a client and a server at its two ends."""
    made = Channel(websocket=websocket)
    loop = asyncio.get_running_loop()
    outer: list[socket.socket] = []
    for end in (made.client, made.server):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        outer.append(theirs)
        await loop.create_connection(plain(end), sock=ours)
    try:
        async with asyncio.timeout(60):
            yield made, outer[0], outer[1]
    finally:
        made.abort()
        for one in outer:
            one.close()


def plain(end: Side) -> Callable[[], Side]:
    return lambda: end


async def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := await asyncio.get_running_loop().sock_recv(sock, size)):
        data += more
    return data


def test_a_quiet_client_hears_a_ping_and_never_inside_of_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.02)

    async def run() -> None:
        async with joined() as (_, client, server):
            assert await read(client, 2) == PING
            await asyncio.get_running_loop().sock_sendall(server, HALF)
            while (data := await read(client, 1)) != HALF[:1]:
                assert data in PING
            assert await read(client, 3) == HALF[1:]
            looked = asyncio.create_task(read(client, 1))
            done, _ = await asyncio.wait({looked}, timeout=0.2)
            assert not done
            await asyncio.get_running_loop().sock_sendall(server, REST)
            assert await looked + await read(client, 2) == REST
            assert await read(client, 2) == PING

    asyncio.run(run())


def test_a_client_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.02)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)

    async def run() -> None:
        async with joined() as (made, _client, server):
            await made.over
            assert await read(server, 1) == b""

    asyncio.run(run())


@pytest.mark.parametrize("begun", [b"", HALF])
def test_a_client_is_told_of_a_vanished_server_where_a_frame_may_stand(begun: bytes) -> None:
    async def run() -> bytes:
        async with joined() as (_, client, server):
            await asyncio.get_running_loop().sock_sendall(server, HALF + REST + begun)
            server.close()
            return await read(client, 1 << 10)

    said = b"" if begun else goodbye(1014, "the server on this port went away")
    assert asyncio.run(run()) == HALF + REST + begun + said


def test_a_client_that_still_sends_is_told_of_a_vanished_server() -> None:
    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        async with joined() as (made, client, server):
            await loop.sock_sendall(server, HALF + REST)
            server.close()
            for _ in range(64):
                await loop.sock_sendall(client, bytes(1 << 16))
            client.shutdown(socket.SHUT_WR)
            await made.over
            return await read(client, 1 << 10)

    said = goodbye(1014, "the server on this port went away")
    assert asyncio.run(run()) == HALF + REST + said


@pytest.mark.parametrize("websocket", [True, False])
@pytest.mark.parametrize("from_server", [True, False])
def test_who_does_not_read_stops_the_other_and_no_memory_fills(
    websocket: bool, from_server: bool
) -> None:
    async def run() -> int:
        async with joined(websocket=websocket) as (_, client, server):
            source = server if from_server else client
            frame = b"\x82\x7f" + (1 << 40).to_bytes(8, "big") + bytes(1 << 16)
            sent = 0
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        await asyncio.get_running_loop().sock_sendall(source, frame[: 1 << 12])
                except TimeoutError:
                    return sent
                sent += 1 << 12
                assert sent < 64 << 20

    assert asyncio.run(run()) < 8 << 20
