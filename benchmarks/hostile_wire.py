"""Attacks by what is sent and by what is not read: `ROWS` of (name, attack on a base URL).

An attack is a coroutine that may be cancelled at any time; what it holds open goes with it.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import quote, urlsplit

from benchmarks.share import some

__all__ = ["ROWS", "exchange"]

MIB = 1 << 20
UNREAD_SECONDS = 3.0
MCP = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Mcp-Protocol-Version": "2025-03-26",
}
Attack = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _head(method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def exchange(
    url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Send one request and read its whole answer; the status is 0 when there is none."""
    given = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    return await _raw(url, _head(method, path, given), body)


async def _raw(url: str, *parts: bytes) -> tuple[int, bytes]:
    async with _connected(url) as (reader, writer):
        reading = asyncio.ensure_future(_read_all(reader))
        try:
            for part in parts:
                writer.write(part)
                with suppress(ConnectionError):  # it was refused before all of it was sent
                    await writer.drain()
            return await reading
        finally:
            reading.cancel()


async def _read_all(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    pieces: list[bytes] = []
    with suppress(ConnectionError):
        while piece := await reader.read(MIB):
            pieces.append(piece)
    answer = b"".join(pieces)
    status = answer[9:12]
    return int(status) if status.isdigit() else 0, answer.partition(b"\r\n\r\n")[2]


async def _unread(url: str, count: int, request: bytes) -> None:
    """Ask `count` times at once and read nothing."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = await stack.enter_async_context(_connected(url))
            transport = writer.transport
            transport.pause_reading()  # type: ignore[attr-defined]
            del reader
            writer.write(request)
        await asyncio.sleep(UNREAD_SECONDS)


async def _run(url: str, command: str) -> str:
    body = json.dumps({"command": command, "waitForCompletion": True}).encode()
    _, answer = await exchange(url, "POST", "/process", body)
    return str(json.loads(answer)["stdout"]).strip()


async def _file(url: str, megabytes: int, folder: str = "ones", name: str = "a") -> str:
    """Have a file of \\x01 made below the working directory; returns its path."""
    command = (
        f'cd "${{WORKDIR:?}}"; mkdir -p {folder}; f=$PWD/{folder}/{name}; test -s $f || '
        f"head -c {some(megabytes * MIB)} /dev/zero | tr '\\000' '\\001' > $f; echo $f"
    )
    return await _run(url, command)


# What comes in


async def _mcp_batches(url: str) -> None:
    for count in (100, 100, 500):
        batch = [{"jsonrpc": "2.0", "id": n, "method": "tools/list"} for n in range(count)]
        await exchange(url, "POST", "/mcp", json.dumps(batch).encode(), MCP)


async def _mcp_many_values(url: str) -> None:
    floats = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"x":[%s0]}}'
    await exchange(
        url, "POST", "/mcp", floats % (b"1.2345678901234567890e-300," * some(99_000)), MCP
    )
    await exchange(url, "POST", "/mcp", floats % (b"[]," * some(MIB)), MCP)


async def _empty_parts(url: str) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    await exchange(url, "PUT", "/filesystem/form", part * some(300_000) + b"--b--\r\n", form)
    lines = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    await exchange(url, "PUT", "/filesystem/form", lines + b"\r\n--bX" * some(2_000_000), form)


async def _one_byte_chunks(url: str) -> None:
    head = _head(
        "PUT", "/filesystem/chunks", {"Transfer-Encoding": "chunked", "Connection": "close"}
    )
    await _raw(url, head, b"1\r\na\r\n" * some(1_000_000) + b"0\r\n\r\n")


async def _surrogates(url: str) -> None:
    text = b"\\ud800" * some(2_600_000)
    await exchange(url, "PUT", "/filesystem/text", b'{"content":"%s"}' % text)
    await exchange(url, "POST", "/process", b'{"x":"%s"}' % text)


async def _small_values(url: str) -> None:
    for junk in (
        b"[]," * some(5 * MIB),
        b'{"a":1},' * some(MIB),
        b'"a",' * some(MIB),
        b"1e5," * some(3 * MIB),
    ):
        await exchange(url, "POST", "/process", b'{"command":"true","x":[%s0]}' % junk)
    await exchange(url, "POST", "/process", b'{"timeout":%s}' % (b"1" * some(15 * MIB)))


async def _large_bodies(url: str) -> None:
    body = b'{"content":"%s"}' % (b"\\u4e00" * some(15 * MIB // 6))
    await asyncio.gather(*(exchange(url, "PUT", f"/filesystem/large-{n}", body) for n in range(20)))


async def _fragments(url: str) -> None:
    """Begin a message and go on with it a byte at a time, and with nothing at a time."""
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    for frames in (
        b"\x00\x81\0\0\0\0a" * some(540_000),
        b"\x00\x80\0\0\0\0" * some(540_000),
        b"\x89\x80\0\0\0\0" * some(540_000),
    ):
        async with _connected(url) as (reader, writer):
            writer.write(_head("GET", "/terminal/ws?sessionId=hostile", handshake))
            await reader.read(1000)
            writer.write(b"\x01\x81\0\0\0\0a" + frames)
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(3):
                    await writer.drain()
                    await _read_all(reader)


async def _pipelined(url: str) -> None:
    last = _head("GET", "/health", {"Connection": "close"})
    await _raw(url, _head("GET", "/health") * some(10_000), last)


async def _heads(url: str) -> None:
    closing = {"Connection": "close"}
    fields = {f"x-{n}": "v" for n in range(some(60_000))}
    await _raw(url, _head("GET", "/process", closing | fields))
    await _raw(url, _head("GET", "/process", closing | {"Cookie": "a=b;" * some(200_000)}))
    await _raw(url, _head("GET", "/filesystem-find/?" + "a=b&" * some(100_000), closing))
    await _raw(url, _head("GET", "/filesystem/" + "%41" * some(300_000), closing))
    trailers = b"".join(b"t-%d: v\r\n" % n for n in range(some(60_000)))
    head = _head("PUT", "/filesystem/t", {"Transfer-Encoding": "chunked", "Connection": "close"})
    await _raw(url, head, b"0\r\n" + trailers + b"\r\n")


async def _half_sent(url: str) -> None:
    head = _head("PUT", "/filesystem/half", {"Content-Length": "1000000"})
    await _unread(url, some(1_200), head + b'{"content":"')


# What goes out


async def _files_as_json(url: str) -> None:
    path = await _file(url, 32)
    await _unread(url, 25, _head("GET", "/filesystem/" + quote(path, safe="")))


async def _trees(url: str) -> None:
    for number in range(6):
        path = await _file(url, 50, "tree", f"f{number}")
    query = "?recursive=true&content=true&maxBytes=1000000000"
    await _unread(url, 10, _head("GET", "/filesystem/tree" + os.path.dirname(path) + query))


async def _logs(url: str) -> None:
    await _run(url, "true")
    body = {"command": f"head -c {some(8_000_000)} /dev/zero | tr '\\000' '\\001'", "name": "ones"}
    await exchange(url, "POST", "/process", json.dumps(body).encode())
    await exchange(url, "GET", "/process/ones/wait")
    await _unread(url, 100, _head("GET", "/process/ones/logs"))


async def _waited(url: str) -> None:
    body = {
        "command": f"head -c {some(6_000_000)} /dev/zero | tr '\\000' '\\001'",
        "waitForCompletion": True,
    }
    data = json.dumps(body).encode()
    await _unread(url, 25, _head("POST", "/process", {"Content-Length": str(len(data))}) + data)


async def _mcp_reads(url: str) -> None:
    # As much as is read, and costs: of a larger file the tool reads nothing.
    make = "f=$(mktemp); head -c 1048576 /dev/zero | tr '\\000' '\\001' > $f; echo $f"
    params = {"name": "fsReadFile", "arguments": {"path": await _run(url, make)}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    data = json.dumps(call).encode()
    request = _head("POST", "/mcp", {**MCP, "Content-Length": str(len(data))}) + data
    await _unread(url, 16, request)


async def _descriptions(url: str) -> None:
    await _unread(url, 50, _head("GET", "/swagger/doc.json") * 20)


ROWS: list[tuple[str, Attack]] = [
    ("MCP batches of tools/list", _mcp_batches),
    ("MCP: 99,000 long floats, a million arrays", _mcp_many_values),
    ("form of 300,000 empty parts, 2 million near boundaries", _empty_parts),
    ("body in a million one-byte chunks", _one_byte_chunks),
    ("JSON of 2.6 million lone surrogates", _surrogates),
    ("JSON of millions of small values", _small_values),
    ("20 JSON bodies of 15 MiB at once", _large_bodies),
    ("WebSocket: 540,000 fragments, empty ones, pings", _fragments),
    ("10,000 pipelined requests", _pipelined),
    ("60,000 header fields, cookies, query pairs, trailers", _heads),
    ("1,200 half-sent bodies", _half_sent),
    ("25 files of 32 MiB as JSON, not read", _files_as_json),
    ("10 trees of 300 MiB, not read", _trees),
    ("100 logs of 4 MiB, not read", _logs),
    ("25 waited starts of 4 MiB, not read", _waited),
    ("16 MCP reads of a MiB of control characters, not read", _mcp_reads),
    ("1,000 descriptions, not read", _descriptions),
]
