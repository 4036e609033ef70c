"""What makes others late from inside: programs, servers behind `/port/`, folders, archives.

`ROWS` of (name, attack on a base URL), as in `hostile_files`.
"""

import asyncio
import base64
import gzip
import hashlib
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import httpx

from benchmarks import hostile_files
from benchmarks.hostile_files import client_of, finished, started, temporary_folder, unread
from benchmarks.share import some

__all__ = ["ROWS"]

MIB = 1 << 20
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ESCAPES = (
    "\\033[?1049h\\033[?1049l",
    "\\033[1;500r\\033[H\\033[999999L\\033[999999M",
    "\\033[999999@\\033[999999P\\033[2J",
    "a\\033[99999999b",
    "\\033#8\\033[999999S\\033[999999T",
    "a" + "\\314\\201" * 200,
    "\\033]0;" + "t" * 4000 + "\\007",
    "\\033[" + "1;" * 2000 + "m",
    "\\033P" + "q" * 4000,
)
"""For printf(1): screens changed over, lines moved, text repeated, marks, titles, lists."""

SLOW = r"[^\x00]{0,900}[ab]{0,%d}c"
"""RE2 needs seconds for a line of 64 KiB."""


@asynccontextmanager
async def _serving(peer: Peer) -> AsyncIterator[int]:
    """Serve on a port of this machine that the server sees as the sandbox's."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            await peer(reader, writer)
        writer.transport.abort()

    serving = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield serving.sockets[0].getsockname()[1]
    finally:
        serving.close()


async def _pour(writer: asyncio.StreamWriter, data: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(data)
        await writer.drain()


def _answers(head: bytes, piece: bytes, times: int) -> Peer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await _pour(writer, piece, times)

    return answer


async def _upstreams(base: str) -> None:
    """Heads that do not end, bodies a byte a chunk, trailers, interim answers; 10 of each."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    peers = [
        _answers(b"HTTP/1.1 200 OK\r\n", b"x-%s: v\r\n" % (b"y" * 60) * 100, some(1000)),
        _answers(chunked, b"1\r\na\r\n" * 10_000, some(50)),
        _answers(chunked + b"0\r\n", b"t: v\r\n" * 10_000, some(50)),
        _answers(b"", b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" * 1000, some(100)),
        _answers(chunked, b"1;%s\r\na\r\n" % (b"e" * 10_000), some(1000)),
    ]
    for peer in peers:
        async with _serving(peer) as port, client_of(base) as client:
            await finished([client.get(f"/port/{port}/") for _ in range(10)])


async def _upstream_sockets(base: str) -> None:
    """20 WebSockets on which the other side sends frames of a byte and pings, half a million."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b":", 1)[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key + guid).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await _pour(writer, b"\x81\x01a\x89\x00\x01\x00\x80\x01a" * 1000, some(250))

    handshake = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    )
    async with _serving(pour) as port:
        open_ones = [await unread(base, f"/port/{port}/", handshake, b" 101 ") for _ in range(20)]
        await asyncio.sleep(hostile_files.SECONDS / 2)
        for writer in open_ones:
            writer.transport.abort()


async def _terminal(
    client: httpx.AsyncClient, name: str, command: str, *, cols: int = 200, rows: int = 500
) -> str:
    wanted = {"sessionId": name, "shell": "/bin/sh", "cols": cols, "rows": rows}
    reply = await client.post("/terminals", json=wanted)
    reply.raise_for_status()
    identifier = str(reply.json()["id"])
    typed = {"data": command + "\n"}
    (await client.post(f"/terminals/{identifier}/input", json=typed)).raise_for_status()
    return identifier


async def _looked_at(client: httpx.AsyncClient, terminals: list[str]) -> None:
    async def look(identifier: str) -> None:
        while True:
            await client.get(f"/terminals/{identifier}/screen")

    try:
        await finished([look(one) for one in terminals])
    finally:
        for one in terminals:
            (await client.delete(f"/terminals/{one}")).raise_for_status()


async def _escapes(base: str) -> None:
    """A terminal for each kind of sequence that costs much, in a loop, and all are looked at."""
    async with client_of(base) as client:
        loops = [f"while :; do printf '{text}'; done" for text in ESCAPES]
        made = [await _terminal(client, f"e{n}", loop) for n, loop in enumerate(loops)]
        await _looked_at(client, made)


async def _screens(base: str) -> None:
    """60 terminals of the largest size, both screens and the scrollback full."""
    fill = (
        "s() { head -c 300000 /dev/zero | tr '\\0' x; }; s; s; printf '\\033[?1049h'; s; sleep 60"
    )
    async with client_of(base) as client:
        made = [
            await _terminal(client, f"s{number}", fill, cols=131, rows=1000)
            for number in range(some(60))
        ]
        await _looked_at(client, made)


async def _slow_patterns(base: str) -> None:
    """20 waits for patterns that need seconds for a line, and lines of 60,000 bytes."""
    command = "while :; do head -c 60000 /dev/urandom | base64 -w0 | tr -c 'ab\\n' 'ab'; echo; done"
    async with client_of(base) as client:
        pid = await started(client, command)
        try:
            await finished(
                [
                    client.post(
                        f"/process/{pid}/wait-for",
                        json={"all": [{"log": {"pattern": SLOW % (900 - wait)}}], "timeout": 30},
                    )
                    for wait in range(some(20))
                ]
            )
        finally:
            await client.delete(f"/process/{pid}/kill")


async def _wide_folder(base: str) -> None:
    """A folder of 200,000 names: listed, read as a tree, searched, removed."""
    async with temporary_folder() as folder, client_of(base) as client:
        for number in range(some(200_000)):
            name = f"{number * 7919 % 1_000_003}"
            os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY))
        where = quote(folder, safe="")
        await finished(
            [
                client.get(f"/filesystem/{where}"),
                client.get(f"/filesystem/tree/{where}?recursive=true&maxFiles=1000000"),
                client.get(f"/filesystem-find/{where}?patterns=*.x"),
                client.get(f"/filesystem-archive/{where}"),
            ]
        )
        await finished([client.delete(f"/filesystem/{where}?recursive=true")])


async def _many_members(base: str) -> None:
    """An archive of 100,000 folders, and one of folders with headers of half a MiB."""
    async with temporary_folder() as folder, client_of(base) as client:
        for count, record in ((some(100_000), ""), (some(500), "x" * (MIB // 2))):
            path = os.path.join(folder, "made.tar.gz")
            await asyncio.to_thread(_pack_folders, path, count, record)
            with open(path, "rb") as file:
                data = file.read()
            target = quote(os.path.join(folder, "out"), safe="")
            await finished([client.put(f"/filesystem-archive/{target}", content=data)])


def _pack_folders(path: str, count: int, record: str) -> None:
    member = tarfile.TarInfo()
    member.type = tarfile.DIRTYPE
    if record:
        member.pax_headers = {"comment": record}
    with gzip.open(path, "wb", 1) as file:
        for number in range(count):
            member.name = f"{number}"
            file.write(member.tobuf(tarfile.PAX_FORMAT))
        file.write(bytes(1024))


async def _edits(base: str) -> None:
    """Edits of 15 MiB in as many places, and of one that fits nearly everywhere."""
    async with temporary_folder() as folder, client_of(base) as client:
        path = os.path.join(folder, "e")
        with open(path, "wb") as file:
            file.write(b"a" * some(15 * MIB))
        where = quote(path, safe="")
        for old, every in (("a" * 5000, False), ("a", True)):
            wanted = {"oldString": old, "newString": "b", "replaceAll": every}
            await finished([client.post(f"/filesystem-edit/{where}", json=wanted)])


ROWS: list[tuple[str, Callable[[str], Awaitable[None]]]] = [
    ("servers behind /port: heads, chunks, trailers without end", _upstreams),
    ("20 WebSockets to a server that sends half a million frames", _upstream_sockets),
    ("9 terminals of costly sequences, looked at", _escapes),
    ("60 full terminals of the largest size", _screens),
    ("20 wait-for whose patterns need seconds a line", _slow_patterns),
    ("a folder of 200,000 names", _wide_folder),
    ("archives of 100,000 folders, of headers of half a MiB", _many_members),
    ("edits in 15 million places", _edits),
]
"""What is done, and the coroutine that does it to the server at a base URL."""
