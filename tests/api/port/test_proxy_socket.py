"""The /port proxy over WebSocket: messages, subprotocols, refusals, ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.harness import Server, free_port
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

Behaviour = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def proxied(
    server: Server,
    behaviour: Behaviour,
    client: Callable[[ClientConnection], Awaitable[Any]],
    *,
    path: str = "/",
    offer: Any = None,
    headers: Any = None,
    **options: Any,
) -> Any:
    """Run a WebSocket server and a client that reaches it through the proxy."""

    async def run() -> Any:
        async with serve(behaviour, "127.0.0.1", 0, **options) as upstream, asyncio.timeout(100):
            port = upstream.sockets[0].getsockname()[1]
            url = f"ws://127.0.0.1:{server.port}/port/{port}{path}"
            async with connect(
                url, subprotocols=offer, additional_headers=headers, max_size=None, proxy=None
            ) as connection:
                return await client(connection)

    return asyncio.run(run())


def test_text_and_binary_messages_pass_both_ways(server: Server) -> None:
    async def client(connection: ClientConnection) -> list[str | bytes]:
        answers = []
        for message in ("text \N{SNOWMAN}", b"\x00\xff binary", "", b"", "x" * 900_000):
            await connection.send(message)
            answers.append(await connection.recv())
        return answers

    assert proxied(server, echo, client) == [
        *("text \N{SNOWMAN}", b"\x00\xff binary", "", b"", "x" * 900_000)
    ]


def test_large_messages_of_the_server_arrive_whole(server: Server) -> None:
    async def behaviour(connection: ServerConnection) -> None:
        await connection.send(bytes(12 << 20))
        await connection.wait_closed()

    async def client(connection: ClientConnection) -> int:
        return len(await connection.recv())

    assert proxied(server, behaviour, client) == 12 << 20


def test_many_messages_keep_their_order(server: Server) -> None:
    async def client(connection: ClientConnection) -> list[str | bytes]:
        async def send() -> None:
            for number in range(2000):
                await connection.send(str(number))

        sending = asyncio.create_task(send())
        received = [await connection.recv() for _ in range(2000)]
        await sending
        return received

    assert proxied(server, echo, client) == [str(number) for number in range(2000)]


def test_pings_are_answered(server: Server) -> None:
    async def client(connection: ClientConnection) -> float:
        return await (await connection.ping(b"hello"))

    assert proxied(server, echo, client) >= 0


def test_the_server_chooses_the_subprotocol(server: Server) -> None:
    async def client(connection: ClientConnection) -> str | None:
        return connection.subprotocol

    def chosen(_connection: ServerConnection, offered: Any) -> str:
        assert list(offered) == ["one", "two"]
        return "two"

    options = {"subprotocols": ["two"], "select_subprotocol": chosen}
    assert proxied(server, echo, client, offer=["one", "two"], **options) == "two"
    assert proxied(server, echo, client, offer=["one"]) is None


def test_path_query_and_headers_reach_the_server(server: Server) -> None:
    async def behaviour(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen = connection.request.headers
        names = ("Host", "Cookie", "X-Forwarded-Prefix", "X-Forwarded-Proto")
        await connection.send(connection.request.path)
        for name in names:
            await connection.send(seen[name])
        await connection.send(str(seen.get_all("Sec-WebSocket-Version")))

    async def client(connection: ClientConnection) -> list[str | bytes]:
        return [await connection.recv() for _ in range(6)]

    path, host, *rest = proxied(
        server, behaviour, client, path="/a%2Fb//c?x=%20+&y", headers={"Cookie": "a=1"}
    )

    port = host.partition(":")[2]
    assert path == "/a%2Fb//c?x=%20+&y"
    assert rest == ["a=1", f"/port/{port}", "http", "['13']"]


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (4321, "theirs"), (1011, "")])
def test_the_servers_close_code_reaches_the_client(server: Server, code: int, reason: str) -> None:
    async def behaviour(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(code, reason)

    async def client(connection: ClientConnection) -> Any:
        assert await connection.recv() == "last"
        await connection.wait_closed()
        return connection.close_code, connection.close_reason

    assert proxied(server, behaviour, client) == (code, reason)


def test_a_server_that_dies_is_told_apart_from_one_that_closes(server: Server) -> None:
    async def behaviour(connection: ServerConnection) -> None:
        connection.transport.abort()
        await connection.wait_closed()

    async def client(connection: ClientConnection) -> Any:
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        return connection.close_code

    assert proxied(server, behaviour, client) == 1014


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4000, "mine")])
def test_the_clients_close_code_reaches_the_server(server: Server, code: int, reason: str) -> None:
    async def run() -> Any:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def behaviour(connection: ServerConnection) -> None:
            await connection.wait_closed()
            told.set_result((connection.close_code, connection.close_reason))

        async with serve(behaviour, "127.0.0.1", 0) as upstream, asyncio.timeout(100):
            port = upstream.sockets[0].getsockname()[1]
            url = f"ws://127.0.0.1:{server.port}/port/{port}/"
            async with connect(url, proxy=None) as connection:
                await connection.close(code, reason)
            return await told

    assert asyncio.run(run()) == (code, reason)


def test_a_client_that_vanishes_ends_the_servers_connection(server: Server) -> None:
    async def run() -> Any:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def behaviour(connection: ServerConnection) -> None:
            await connection.wait_closed()
            told.set_result(connection.close_code)

        async with serve(behaviour, "127.0.0.1", 0) as upstream, asyncio.timeout(100):
            port = upstream.sockets[0].getsockname()[1]
            connection = await connect(f"ws://127.0.0.1:{server.port}/port/{port}/", proxy=None)
            connection.transport.abort()
            return await told

    assert asyncio.run(run()) in {1000, 1006}


def test_a_refused_handshake_reaches_the_client_as_it_was(server: Server) -> None:
    def refuse(connection: ServerConnection, _request: Request) -> Response:
        response = connection.respond(403, "not you\n")
        response.headers["X-Why"] = "because"
        return response

    async def client(_connection: ClientConnection) -> None:
        raise AssertionError("the handshake must fail")

    with pytest.raises(InvalidStatus) as refused:
        proxied(server, echo, client, process_request=refuse)

    response = refused.value.response
    assert (response.status_code, response.body) == (403, b"not you\n")
    assert response.headers["X-Why"] == "because"


def test_a_redirect_of_a_handshake_is_passed_on_not_followed(server: Server) -> None:
    def redirect(connection: ServerConnection, _request: Request) -> Response:
        response = connection.respond(302, "")
        response.headers["Location"] = "ws://127.0.0.1:1/"
        return response

    async def run() -> int:
        async with serve(echo, "127.0.0.1", 0, process_request=redirect) as upstream:
            port = upstream.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /port/%d/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Version: 13\r\n\r\n" % port
            )
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return int(line.split()[1])

    assert asyncio.run(run()) == 302


@pytest.mark.parametrize("path", ["/port/{}/", "/port/abc/"])
def test_no_server_and_no_port_are_said_before_the_handshake(server: Server, path: str) -> None:
    async def run() -> None:
        url = f"ws://127.0.0.1:{server.port}{path.format(free_port())}"
        async with connect(url, proxy=None):
            raise AssertionError("the handshake must fail")

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(run())

    assert refused.value.response.status_code in {400, 422}
    assert b'"error"' in (refused.value.response.body or b"")


def test_a_server_that_sends_nothing_but_pings_delays_nobody(server: Server) -> None:
    async def flood(connection: ServerConnection) -> None:
        while True:
            connection.transport.write(b"\x89\x00" * 100_000)
            await asyncio.sleep(0.01)

    async def client(connection: ClientConnection) -> None:
        del connection
        for _ in range(4):
            reply = await asyncio.to_thread(server.client.get, "/health", timeout=60)
            assert reply.status_code == 200

    proxied(server, flood, client)
