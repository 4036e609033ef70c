"""Requests that nobody in his senses sends, made of the API's own description, to search for costs.

`python -m tests.hostile_requests [SECONDS [SEED]]` sends them to a server of its own and prints
those that made another client's `/health` late or memory grow, the worst first. What could do harm
to this machine is left out: paths stay in the server's working directory, commands do nothing.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.harness import Server, resident

__all__ = ["Found", "Generator", "search"]

MOST_BYTES = 14 << 20
SPARED = (
    "/upgrade",
    "/archive",
    "/drives",
    "/network/tunnel",
    "/environment",
    "/port/",
    "/terminal",
)
SECONDS_EACH = 5.0
ATOMS = (
    *("a", " ", "\n", "*", "*a", "?", "[a", "{a,", "(a|", ".*", "\\", '"', "/", "../", ",", "a,"),
    *("\x01", "\x00", "é", "\U0001f600", "\ufffd", "%41", "%", "&a=", "0", "1e5,", "-", "<&>"),
)
RAW = (
    b"\\ud800",
    b"\\u0001",
    b"\\u4e00",
    b"\\\\",
    b'\\"',
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
)
JUNK = (b"[]", b"{}", b"1", b"-1e300", b"1.2345678901234567890e-300", b'"a"', b"null", b'{"a":[1]}')


@dataclass(frozen=True)
class Request:
    """One request: what it is for people, and its bytes."""

    what: str
    data: bytes


@dataclass(frozen=True)
class Found:
    """What one request cost another client (milliseconds) and the machine (bytes)."""

    late: float
    grown: int
    what: str


class Generator:
    """Makes requests of a description; the same seed makes the same ones."""

    def __init__(self, description: dict[str, Any], folder: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._schemas = description.get("components", {}).get("schemas", {})
        self._operations = [
            (path, method.upper(), operation)
            for path, item in description["paths"].items()
            for method, operation in item.items()
            if method in {"get", "post", "put", "head"} and not path.startswith(SPARED)
        ]

    def request(self) -> Request:
        """Make the next request."""
        path, method, operation = self._random.choice(self._operations)
        target, headers = (
            self._target(path, operation),
            {"Host": "localhost", "Connection": "close"},
        )
        body, kind = self._body(operation) if method in {"POST", "PUT"} else (b"", "")
        if kind:
            headers["Content-Type"] = kind
        if path == "/mcp":
            headers |= {"Accept": "application/json, text/event-stream"}
        for number in range(self._size(900) if self._random.random() < 0.1 else 0):
            headers[f"x-{number}"] = self._text(8)
        chunk = self._random.choice([0, 0, 0, 1, 7, 5000]) if body else 0
        if chunk:
            body = body[: 1_000_000 * chunk]
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line = f"{method} {target} HTTP/1.1\r\n{head}\r\n"
        what = f"{method} {target[:120]} ({len(target)}), {len(body)} bytes in chunks of {chunk}: "
        data = line.encode("latin-1", "replace") + (_chunked(body, chunk) if chunk else body)
        return Request(what + repr(body[:150]), data)

    def _size(self, most: int) -> int:
        return int(most ** self._random.random())

    def _text(self, most: int) -> str:
        atom = self._random.choice(ATOMS)
        text = atom * max(1, self._size(most) // len(atom))
        return "".join(c for c in text if c.isprintable()).encode("ascii", "ignore").decode() or "a"

    def _target(self, path: str, operation: dict[str, Any]) -> str:
        query: list[tuple[str, str]] = []
        for item in operation.get("parameters", []):
            if item.get("in") == "path":
                path = path.replace("{" + item["name"] + "}", self._segment(item["name"]))
            elif item.get("in") == "query" and self._random.random() < 0.6:
                query.append((item["name"], self._value_of(item.get("schema", {}))))
        while "{" in path:  # a parameter that the description does not name
            before, _, rest = path.partition("{")
            path = before + self._segment("path") + rest.partition("}")[2]
        if self._random.random() < 0.1:
            query += [("a", "b")] * self._size(10_000)
        return (path + ("?" + urlencode(query) if query else ""))[:60_000]

    def _segment(self, name: str) -> str:
        if "path" in name.lower():
            below = self._random.choice(["", "", "/many", "/long", "/deep", "/" + self._text(200)])
            return quote(self._folder + below.replace("..", "x"), safe="")
        return quote(self._random.choice(["talker", self._text(4000)]), safe="")

    def _value_of(self, schema: dict[str, Any]) -> str:
        if schema.get("type") == "boolean":
            return "true"
        if schema.get("type") == "integer":
            return self._random.choice(["0", "1", "1000000", "-1", "9" * self._size(5000)])
        return self._text(20_000)

    def _body(self, operation: dict[str, Any]) -> tuple[bytes, str]:
        content = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content and self._random.random() < 0.5:
            return self._form(), "multipart/form-data; boundary=b"
        schema = next((c.get("schema", {}) for c in content.values()), {})
        return self._bent(self._object(schema))[:MOST_BYTES], "application/json"

    def _form(self) -> bytes:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        filling = self._random.choice([b"a", b"\r", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--bX"])
        part = head + filling * self._size(MOST_BYTES // len(filling)) + b"\r\n"
        count = self._size(max(1, MOST_BYTES // len(part)))
        return part * count + b"--b--\r\n"

    def _object(self, schema: dict[str, Any]) -> bytes:
        schema = self._resolved(schema)
        names = list(schema.get("properties", {})) or ["a"]
        members = [(name, schema.get("properties", {}).get(name, {})) for name in names]
        share = MOST_BYTES // (1 + len(members))
        parts = [
            json.dumps(self._case(name)).encode() + b":" + self._member(name, inner, share)
            for name, inner in members
            if self._random.random() < 0.7
        ]
        return b"{" + b",".join(parts) + b"}"

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            found: dict[str, Any] = self._schemas.get(schema["$ref"].rpartition("/")[2], {})
            return found
        return schema

    def _case(self, name: str) -> str:
        return name.swapcase() if self._random.random() < 0.1 else name

    def _member(self, name: str, schema: dict[str, Any], most: int) -> bytes:
        if name in {"command", "shell"}:
            return b'"true"'
        if name in {"source", "destination", "path", "workingDir", "mountPath"}:
            return json.dumps(self._folder + "/" + self._text(50).replace("..", "x")).encode()
        return self._random.choice([self._string, self._array, self._map, self._deep])(
            self._size(most), schema
        )

    def _string(self, size: int, _schema: dict[str, Any]) -> bytes:
        if self._random.random() < 0.5:
            raw = self._random.choice(RAW)
            return b'"' + raw * (size // len(raw)) + b'"'
        return json.dumps(self._random.choice(ATOMS) * (size // 4)).encode()

    def _array(self, size: int, _schema: dict[str, Any]) -> bytes:
        item = self._random.choice(JUNK)
        return b"[" + b",".join([item] * max(1, size // (len(item) + 1))) + b"]"

    def _map(self, size: int, _schema: dict[str, Any]) -> bytes:
        return b"{" + b",".join(b'"%d":"a"' % n for n in range(max(1, size // 12))) + b"}"

    def _deep(self, size: int, _schema: dict[str, Any]) -> bytes:
        opening = self._random.choice([b"[", b'{"a":', b" ", b"9"])
        return opening * (size // len(opening)) + b"0"

    def _bent(self, body: bytes) -> bytes:
        bend = self._random.random()
        if bend < 0.1:
            return body + b" x"
        if bend < 0.2:
            return b" " * self._size(MOST_BYTES - len(body) if len(body) < MOST_BYTES else 1) + body
        if bend < 0.3:
            count = self._size(500)
            one = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
            return b"[" + b",".join([one] * count) + b"]"
        return body


def _chunked(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def search(server: Server, seed: int, requests: int, seconds: float) -> list[Found]:
    """Send up to so many requests, one after the other; returns their costs, the worst first."""
    _furnish(server)
    description = server.client.get("/openapi.json").json()
    generator = Generator(description, str(server.workdir), seed)
    until = time.monotonic() + seconds
    found: list[Found] = []
    for _ in range(requests):
        if time.monotonic() > until:
            break
        request = generator.request()
        before = resident(server.pid)
        late = asyncio.run(_cost(server.port, request))
        found.append(Found(late, resident(server.pid) - before, request.what))
    return sorted(found, key=lambda each: -each.late)


def _furnish(server: Server) -> None:
    """Make what there is to be found: many files, a long one, deep folders, a talker."""
    command = (
        'cd "${WORKDIR:?}"; mkdir -p many deep/$(seq -s/ 1 60); '
        "seq 1 3000 | sed 's,^,many/,' | xargs touch; "
        f"head -c {8 << 20} /dev/zero | tr '\\000' '\\001' > long; seq 1 300000"
    )
    server.run(command, name="talker")


async def _cost(port: int, request: Request) -> float:
    """Send a request while another client asks for its health; returns its longest wait in ms."""
    done = asyncio.Event()
    watching = asyncio.ensure_future(_watch(port, done))
    await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(SECONDS_EACH):
            await _send(port, request.data)
    except (TimeoutError, ConnectionError):
        pass
    done.set()
    return await watching


async def _watch(port: int, done: asyncio.Event) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    worst = 0.0
    while not done.is_set():
        began = time.perf_counter()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"}}")
        worst = max(worst, (time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)
    writer.close()
    return worst


async def _send(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.ensure_future(_drain(reader))
    try:
        for at in range(0, len(data), 1 << 18):
            writer.write(data[at : at + (1 << 18)])
            await writer.drain()
        await reading
    finally:
        reading.cancel()
        writer.transport.abort()


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 18):
        await asyncio.sleep(0)


def _worst(found: Sequence[Found]) -> Iterator[str]:
    for each in found[:15]:
        yield f"{each.late:7.0f} ms {each.grown >> 20:+5d} MiB  {each.what}"
    yield "memory:"
    for each in sorted(found, key=lambda one: -one.grown)[:5]:
        yield f"{each.late:7.0f} ms {each.grown >> 20:+5d} MiB  {each.what}"


def main() -> None:
    """Search for a while and print the worst."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        found = search(server, seed, 1_000_000, seconds)
        print(f"{len(found)} requests, seed {seed}, {resident(server.pid) >> 20} MiB at the end")
        print("\n".join(_worst(found)))


if __name__ == "__main__":
    main()
