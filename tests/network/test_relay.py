"""The relay: bytes between sockets by the kernel, whole or a counted part of them."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from tests.harness import until

from sandkeeper.network.relay import Part, Relay

pytestmark = pytest.mark.anyio

Ends = tuple[socket.socket, socket.socket]
HALF_CLOSED = {4, 5}
"""FIN_WAIT1, FIN_WAIT2 (the kernel's tcp_states.h)."""


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay(failed=pytest.fail)
    yield made
    made.stop()


@pytest.fixture
def pair() -> Iterator[tuple[Ends, Ends]]:
    """Two connections; the second of each is the relay's."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:
        ends = []
        for _ in range(2):
            near = stack.enter_context(socket.create_connection(listener.getsockname()))
            far = stack.enter_context(listener.accept()[0])
            far.setblocking(False)
            near.settimeout(60)
            ends.append((near, far))
        yield ends[0], ends[1]


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


async def test_a_counted_part_is_carried_and_what_follows_it_stays(
    relay: Relay, pair: tuple[Ends, Ends]
) -> None:
    (sender, source), (receiver, target) = pair
    data = os.urandom(3 << 20)
    got = asyncio.create_task(asyncio.to_thread(read, receiver, len(data)))
    sent = asyncio.create_task(asyncio.to_thread(sender.sendall, data + b"the next request"))

    part = Part(len(data))
    await relay.carry(source, target, part)

    assert (part.taken, part.moved, part.left) == (len(data), len(data), 0)
    await sent
    assert await got == data
    assert source.recv(100) == b"the next request"
    target.send(b"still open")
    assert await asyncio.to_thread(receiver.recv, 100) == b"still open"


async def test_a_source_that_ends_early_is_told_by_the_count(
    relay: Relay, pair: tuple[Ends, Ends]
) -> None:
    (sender, source), (receiver, target) = pair
    sender.sendall(b"half")
    sender.close()

    part = Part(1000)
    await relay.carry(source, target, part)

    assert (part.moved, part.left) == (4, 996)
    target.send(b"!")
    assert await asyncio.to_thread(read, receiver, 5) == b"half!"


async def test_a_receiver_that_leaves_ends_the_carrying(
    relay: Relay, pair: tuple[Ends, Ends]
) -> None:
    (sender, source), (receiver, target) = pair
    receiver.close()
    sending = asyncio.create_task(asyncio.to_thread(sender.sendall, bytes(1 << 20)))

    part = Part(1 << 30)
    await relay.carry(source, target, part)

    assert part.moved < 1 << 30

    source.close()
    await asyncio.gather(sending, return_exceptions=True)


async def test_silence_and_cancelling_leave_both_sockets_usable(
    relay: Relay, pair: tuple[Ends, Ends]
) -> None:
    (sender, source), (receiver, target) = pair

    part = Part(5)

    await relay.carry(source, target, part, silence=0.05)
    carrying = asyncio.create_task(relay.carry(source, target, part))
    await asyncio.sleep(0)
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    sender.sendall(b"later")
    await relay.carry(source, target, part)
    assert read(receiver, 5) == b"later"


async def test_a_reset_takes_nothing_of_what_had_come_to_its_end(
    relay: Relay, pair: tuple[Ends, Ends]
) -> None:
    (client, left), (server, right) = pair
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    data = os.urandom(150_000)

    def has_ended() -> bool:
        return left.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in HALF_CLOSED

    joined = asyncio.create_task(relay.join(left, right, resets=True))
    await asyncio.to_thread(server.sendall, data)
    server.close()
    await asyncio.to_thread(until, has_ended)
    # Whoever still speaks then, as HTTP/2 does, meets a server that is gone.
    await asyncio.to_thread(until, lambda: client.send(b"x") and joined.done())
    await joined
    with suppress(BlockingIOError):
        while left.recv(100):
            pass
    left.close()

    assert await asyncio.to_thread(read, client, len(data)) == data
