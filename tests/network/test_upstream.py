"""One exchange with a server, by its bytes alone: any cut, any rubbish."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.errors import Unprocessable
from sandkeeper.network import upstream
from sandkeeper.network.upstream import ClientGone, Upstream

BODY = bytes(range(256)) * 40
RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "end": b"HTTP/1.0 200 OK\r\nA: 1\r\n\r\n" + BODY,
    "chunks": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (500, BODY[n : n + 500]) for n in range(0, 10000, 500))
    + b"f0\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % BODY[10000:],
}


class Transport:
    """Counts what a transport is told."""

    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def writelines(self, parts: Any) -> None:
        pass


async def whole(one: Upstream) -> tuple[int, bytes]:
    status, _ = await one.response()
    data, more = await one.read()
    parts = [data]
    while more:
        data, more = await one.read()
        parts.append(data)
    return status, b"".join(parts)


def fed(pieces: list[bytes]) -> Upstream:
    one = Upstream(head_request=False)
    one.connection_made(Transport())  # type: ignore[arg-type]
    for piece in pieces:
        one.data_received(piece)
    one.connection_lost(None)
    return one


@given(st.sampled_from(sorted(RESPONSES)), st.lists(st.integers(1, 400), max_size=60))
def test_a_response_is_the_same_however_it_is_cut(kind: str, cuts: list[int]) -> None:
    data = RESPONSES[kind]
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data)

    async def run() -> tuple[int, bytes]:
        return await whole(fed(pieces))

    assert asyncio.run(run()) == (200, BODY)


@given(st.lists(st.binary(max_size=80), max_size=5), st.sampled_from(["", *RESPONSES]))
def test_rubbish_is_a_broken_server_and_nothing_else(rubbish: list[bytes], kind: str) -> None:
    head = RESPONSES.get(kind, b"")[:70]

    async def run() -> None:
        with suppress(Unprocessable):
            await whole(fed([head, *rubbish]))

    asyncio.run(run())


def test_reading_stops_at_the_mark_and_goes_on_below_it() -> None:
    async def run() -> None:
        one = Upstream(head_request=False)
        transport = Transport()
        one.connection_made(transport)  # type: ignore[arg-type]
        one.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n")
        block = bytes(1 << 18)
        while transport.reading:
            one.data_received(block)
        assert one._queued <= upstream.HIGH_WATER + len(block)
        while not transport.reading:
            await one.read()
        assert one._queued < upstream.LOW_WATER

    asyncio.run(run())


def test_a_client_that_has_gone_ends_every_wait() -> None:
    async def run() -> None:
        one = Upstream(head_request=False)
        waiting = asyncio.create_task(one.response())
        await asyncio.sleep(0)
        one.abandon()
        with pytest.raises(ClientGone):
            await waiting

    asyncio.run(run())


def test_a_server_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "STALL_SECONDS", 0.01)

    async def run() -> None:
        one = Upstream(head_request=False)
        one.connection_made(Transport())  # type: ignore[arg-type]
        one.pause_writing()
        assert not await one.write(b"x")
        with pytest.raises(Unprocessable, match="took no data"):
            await one.response()

    asyncio.run(run())


@pytest.mark.parametrize(
    "endless", [b"0\r\nA: " + b"x" * 4000, b"0\r\n" + b"a: b\r\n" * 700, b"1;"]
)
def test_trailers_and_extensions_without_end_are_a_broken_server(endless: bytes) -> None:
    async def run() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        one = fed([head + endless])
        block = endless[-6:] * 10_000
        for _ in range(10):
            one.data_received(block)
        async with asyncio.timeout(30):
            with pytest.raises(Unprocessable):
                await whole(one)

    asyncio.run(run())


def test_a_head_of_very_many_fields_is_a_broken_server() -> None:
    async def run() -> None:
        one = fed([b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 1001 + b"\r\n"])
        async with asyncio.timeout(30):
            with pytest.raises(Unprocessable):
                await one.response()
                await whole(one)

    asyncio.run(run())


def test_chunks_of_one_byte_are_parsed_in_turns_and_all_arrive() -> None:
    async def run() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        one = fed([head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"])
        one.connection_lost(None)
        assert one._intake.waits
        async with asyncio.timeout(30):
            assert await whole(one) == (200, b"x" * 100_000)

    asyncio.run(run())
