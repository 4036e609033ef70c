"""An answer that a thread gives: once, whole, in its place, and not when it comes too late."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from types import SimpleNamespace

import uvloop
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sandkeeper.api.edge.connections.plain import Parts
from sandkeeper.api.edge.connections.reply import EarlyReply, Reply

ANSWER = b"HTTP/1.1 200 OK\r\n", b"content-length: 2\r\n\r\nok"
SENT = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\nok"
LATE = b"HTTP/1.1 503 \r\n", b"content-length: 0\r\n\r\n"
LONG = ANSWER[0], b"x" * (8 << 20)

Play = Callable[[Reply, asyncio.Transport, socket.socket], Awaitable[None]]


def played(play: Play) -> bytes:
    """Have a request answered on a connection; returns all that its client reads after that.

    It reads to the end, which comes when nobody has the other side open any more.
    """

    async def connected() -> bytes:
        ours, client = socket.socketpair()
        with client:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            await play(
                Reply(SimpleNamespace(transport=transport), _cycle(transport)), transport, client
            )
            transport.close()
            return await asyncio.to_thread(_rest, client)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(connected())


def _cycle(transport: asyncio.Transport) -> RequestResponseCycle:
    log = logging.getLogger("nobody")
    return RequestResponseCycle(
        scope={},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )


def _rest(client: socket.socket) -> bytes:
    with client.makefile("rb") as file:
        return file.read()


def test_a_thread_answers_before_the_loop_knows_and_nothing_is_sent_twice() -> None:
    async def play(reply: Reply, _transport: asyncio.Transport, client: socket.socket) -> None:
        def work(give: EarlyReply) -> bytes:
            give(ANSWER)
            return client.recv(len(SENT) + 1)

        with closing(reply.from_thread()) as give:
            assert await asyncio.to_thread(work, give) == SENT
        reply(ANSWER)

    assert played(play) == b""


def test_what_the_client_does_not_take_at_once_is_sent_by_the_loop() -> None:
    async def play(reply: Reply, transport: asyncio.Transport, _client: socket.socket) -> None:
        with closing(reply.from_thread()) as give:
            await asyncio.to_thread(give, LONG)
        reply(LONG)
        assert transport.get_write_buffer_size() > 0

    read = played(play)
    assert read == SENT[: -len(ANSWER[1])] + LONG[1]


def test_a_thread_that_is_late_says_nothing() -> None:
    async def play(reply: Reply, _transport: asyncio.Transport, _client: socket.socket) -> None:
        with closing(reply.from_thread()) as give:
            pass
        await asyncio.to_thread(give, ANSWER)
        reply(LATE)

    assert played(play) == _sent(LATE)


def test_who_was_not_told_that_the_connection_ends_may_ask_again() -> None:
    ended: list[bool] = []

    async def play(reply: Reply, transport: asyncio.Transport, _client: socket.socket) -> None:
        cycle = reply._cycle
        with closing(reply.from_thread()) as give:
            await asyncio.to_thread(give, ANSWER)
        cycle.keep_alive, cycle.default_headers = False, [(b"connection", b"close")]
        reply(ANSWER)
        ended.append(transport.is_closing())
        cycle.response_complete = False
        told = Reply(reply._connection, cycle)
        told(ANSWER)
        ended.append(transport.is_closing())

    assert played(play) == SENT + SENT.replace(b"date: now", b"connection: close")
    assert ended == [False, True]


def test_it_is_known_whether_a_client_that_left_had_any_of_the_answer() -> None:
    async def play(reply: Reply, _transport: asyncio.Transport, _client: socket.socket) -> None:
        reply._cycle.disconnected = True
        assert not reply(ANSWER)
        with closing(reply.from_thread()) as give:
            await asyncio.to_thread(give, ANSWER)
        assert reply(ANSWER)

    assert played(play) == SENT


def test_where_descriptors_are_scarce_a_thread_leaves_the_answer_to_the_loop() -> None:
    async def play(reply: Reply, _transport: asyncio.Transport, _client: socket.socket) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * free, hard))
        try:
            with closing(reply.from_thread()) as give:
                assert os.dup(0) == free
                os.close(free)
                await asyncio.to_thread(give, LATE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reply(ANSWER)

    assert played(play) == SENT


def test_a_thread_says_nothing_before_what_is_on_its_way() -> None:
    before = b"y" * (8 << 20)

    async def play(reply: Reply, transport: asyncio.Transport, _client: socket.socket) -> None:
        transport.write(before)
        with closing(reply.from_thread()) as give:
            await asyncio.to_thread(give, ANSWER)
        reply(ANSWER)

    assert played(play) == before + SENT


def _sent(answer: Parts) -> bytes:
    return answer[0] + b"date: now\r\n" + answer[1]
