"""What makes others late, by globs, watchers, waits and files: each row attacks a running server.

A row gets the server's address and ends when its attack has; it cleans up behind itself. It makes
its files in a folder of this machine that the server sees as well. Who runs the rows measures what
another client's `GET /health` waits meanwhile, and the server's memory (`benchmarks.hostile`).
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote, urlsplit

import httpx

from benchmarks.share import some

__all__ = ["ROWS", "client_of", "finished", "started", "temporary_folder", "unread"]

SECONDS = 8.0
"""So long an attack lasts at most; what has not been answered then is given up."""


@asynccontextmanager
async def client_of(base: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with a connection for each request."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=base, timeout=120, limits=limits) as client:
        yield client


@asynccontextmanager
async def temporary_folder() -> AsyncIterator[str]:
    """Give a folder of this machine."""
    path = tempfile.mkdtemp(prefix="hostile-")
    try:
        yield path
    finally:
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


async def finished(requests: list[Awaitable[object]]) -> None:
    """Let the requests run for a while, then go away."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        await asyncio.wait(tasks, timeout=SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def started(client: httpx.AsyncClient, command: str) -> str:
    """Start a process; returns its pid."""
    reply = await client.post("/process", json={"command": command})
    reply.raise_for_status()
    return str(reply.json()["pid"])


async def _globs(base: str) -> None:
    """Patterns with a hundred stars on names of 200 characters, by every route that takes one."""
    pattern = quote("*a" * 100 + "*b")
    async with temporary_folder() as folder, client_of(base) as client:
        for number in range(200):
            with open(os.path.join(folder, "a" * 200 + f"{number:03}"), "w"):
                pass
        where = quote(folder, safe="")
        routes = [
            f"/filesystem-find/{where}?patterns={pattern}",
            f"/filesystem/tree/{where}?recursive=true&patterns={pattern}",
            f"/filesystem-content-search/{where}?query=x&filePattern={pattern}",
        ]
        await finished([client.get(route) for route in routes * 10])


async def _many_patterns(base: str) -> None:
    """Half of a question's characters in classes that match no name, on 20,000 names."""
    pattern = quote("*" + "[^b]" * 120 + "b*," + "*" + "[^c]" * 120 + "c*")
    async with temporary_folder() as folder, client_of(base) as client:
        for number in range(some(20_000)):
            with open(os.path.join(folder, "a" * 120 + f"{number:05}" + "a" * 120), "w"):
                pass
        where = quote(folder, safe="")
        await finished(
            [client.get(f"/filesystem-find/{where}?patterns={pattern}") for _ in range(8)]
        )


async def _watchers(base: str, ignore: Callable[[int], str]) -> None:
    async with temporary_folder() as folder:
        open_ones = []
        try:
            for number in range(60):
                query = f"?ignore={quote(ignore(number))}"
                open_ones.append(await unread(base, f"/watch/filesystem/{folder}/**{query}"))
            await asyncio.to_thread(_overwrite, folder, some(20_000))
            await asyncio.sleep(1)
        finally:
            for writer in open_ones:
                writer.close()


async def _same_watchers(base: str) -> None:
    """60 watchers of one folder that do not read, over 20,000 writes to 500 files."""
    await _watchers(base, lambda _: "")


async def _different_watchers(base: str) -> None:
    """60 watchers that differ in what they ignore, and do not read, over the same storm."""
    await _watchers(base, lambda number: f"/{number}/")


async def _inotify(base: str) -> None:
    """200 watchers of 200 folders: the user's inotify instances (128) must not be used up."""
    async with temporary_folder() as folder:
        open_ones = []
        try:
            for number in range(200):
                path = os.path.join(folder, str(number))
                os.mkdir(path)
                open_ones.append(await unread(base, f"/watch/filesystem/{path}"))
        finally:
            for writer in open_ones:
                writer.close()


async def _wait_for(base: str, command: str, conditions: list[list[dict[str, object]]]) -> None:
    async with client_of(base) as client:
        pid = await started(client, command)
        try:
            await finished(
                [
                    client.post(f"/process/{pid}/wait-for", json={"all": some, "timeout": 30})
                    for some in conditions
                ]
            )
        finally:
            await client.delete(f"/process/{pid}/kill")


async def _wait_ports(base: str) -> None:
    """200 waits for 16 ports each that nobody opens."""
    await _wait_for(
        base,
        "sleep 60",
        [[{"port": 20_000 + 16 * wait + port} for port in range(16)] for wait in range(some(200))],
    )


async def _wait_logs(base: str, different: bool) -> None:
    await _wait_for(
        base,
        "while :; do head -c 200000 /dev/zero | tr '\\0' x | fold -w 80; sleep 0.1; done",
        [
            [{"log": {"pattern": f"error {number} .*{wait * different}"}} for number in range(16)]
            for wait in range(some(50))
        ],
    )


async def _wait_same_logs(base: str) -> None:
    """50 waits for the same 16 patterns over a flood of 2 MB/s."""
    await _wait_logs(base, False)


async def _wait_different_logs(base: str) -> None:
    """50 waits for 800 different patterns over a flood of 2 MB/s."""
    await _wait_logs(base, True)


async def _wait_http(base: str) -> None:
    """50 waits for 16 HTTP answers each of the server itself, with a status it never gives."""
    port = urlsplit(base).port
    await _wait_for(
        base,
        "sleep 60",
        [
            [
                {"http": {"port": port, "path": f"/health?{wait}-{number}", "status": 418}}
                for number in range(16)
            ]
            for wait in range(some(50))
        ],
    )


async def _fifos(base: str) -> None:
    """40 FIFOs whose readers hardly read, each written 1 MB; a file of others is read meanwhile."""
    async with temporary_folder() as folder, client_of(base) as client:
        ends = []
        paths = [os.path.join(folder, str(number)) for number in range(40)]
        for path in paths:
            os.mkfifo(path)
            ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        target = os.path.join(folder, "plain")
        with open(target, "w") as file:
            file.write("x")

        async def drip() -> None:
            while True:
                for end in ends:
                    with suppress(BlockingIOError):
                        os.read(end, 4096)
                await asyncio.sleep(0.5)

        async def read() -> None:
            for _ in range(some(20)):
                reply = await client.get(f"/filesystem/{quote(target, safe='')}", timeout=5)
                reply.raise_for_status()
                await asyncio.sleep(0.2)

        body = b"x" * (1 << 20)
        puts = [
            client.put(f"/filesystem/{quote(path, safe='')}", files={"file": ("x", body)})
            for path in paths
        ]
        dripping = asyncio.ensure_future(drip())
        reading = asyncio.ensure_future(read())
        try:
            await finished(puts)
            await reading
        finally:
            reading.cancel()
            dripping.cancel()
            await asyncio.gather(dripping, reading, return_exceptions=True)
            for end in ends:
                os.close(end)


async def unread(
    base: str, target: str, fields: str = "", wanted: bytes = b" 200 "
) -> asyncio.StreamWriter:
    """Begin a stream and read nothing but its status."""
    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{fields}\r\n".encode())
    status = await reader.readline()
    if wanted not in status:
        writer.close()
        raise RuntimeError(f"{target}: {status!r}")
    return writer


def _overwrite(folder: str, count: int) -> None:
    for number in range(count):
        with open(os.path.join(folder, str(number % 500)), "w") as file:
            file.write("x")


ROWS: list[tuple[str, Callable[[str], Awaitable[None]]]] = [
    ("globs of a hundred stars", _globs),
    ("globs of many classes, 20,000 names", _many_patterns),
    ("60 unread watchers of one folder, 20,000 writes", _same_watchers),
    ("60 unread watchers that differ, 20,000 writes", _different_watchers),
    ("200 watchers of 200 folders", _inotify),
    ("200 wait-for with 16 ports", _wait_ports),
    ("50 wait-for with 16 log patterns, 2 MB/s", _wait_same_logs),
    ("50 wait-for with 800 log patterns, 2 MB/s", _wait_different_logs),
    ("50 wait-for with 16 HTTP conditions", _wait_http),
    ("40 FIFOs that are hardly read", _fifos),
]
"""What is done, and the coroutine that does it to the server at a base URL."""
