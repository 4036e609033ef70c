"""E2B's wire: its published Python client, and a bare one that only takes frames apart.

Output travels as base64 in JSON, a third more than it was; rates are of the program's own bytes.
What the client itself needs to decode is in the first rate and not in the second; both clients of
the first row stand on the same library.
"""

import json
import os
import socket
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from typing import Any

from e2b import Sandbox
from tests.harness import Server

from benchmarks.load import Poller, Request, rss, running, timed
from benchmarks.tables import Row, percentile

TITLE = "E2B's clients"

RUNS = 200
OUTPUT = 200_000_000
LINE = 100
FILE = 256 << 20
FLOOD_SECONDS = 8
START = "/process.Process/Start"
FIELDS = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}


def framed(command: str) -> bytes:
    """Return the frame that starts a command line."""
    wanted = {"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": False}
    payload = json.dumps(wanted).encode()
    return struct.pack(">BI", 0, len(payload)) + payload


def small(server: Server, box: Sandbox) -> Iterator[Row]:
    """Run `true` by the client and by `POST /process`, in turn, both on httpx."""
    theirs, ours, least = [], [], []
    wanted = {"command": "true", "waitForCompletion": True}
    plain = Request(server.port)
    for _ in range(RUNS):
        theirs.append(timed(partial(box.commands.run, "true"))[0])
        ours.append(timed(partial(server.client.post, "/process", json=wanted))[0])
        least.append(timed(partial(plain.post, "/process", wanted))[0])
    plain.close()
    their, our, bare = (percentile(times, 50) * 1000 for times in (theirs, ours, least))
    note = f"{our:.1f} ms; {bare:.1f} ms by a client that does nothing else"
    target = "≤ 1.5 × `POST /process`, waited"
    value = f"{their:.1f} ms, {their / our:.2f} ×"
    yield Row('`commands.run("true")`, p50', value, target, their <= 1.5 * our, note)


def bare(server: Server, command: str) -> bytearray:
    """Return the frames that a command is answered with, as they came."""
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", START, framed(command), FIELDS)
    reply = connection.getresponse()
    frames = bytearray()
    while block := reply.read1(1 << 20):
        frames += block
    connection.close()
    return frames


def printed(frames: bytearray) -> Iterator[bytes]:
    """Yield what the frames tell of a standard output."""
    at = 0
    while at < len(frames):
        length = struct.unpack_from(">BI", frames, at)[1]
        event = json.loads(frames[at + 5 : at + 5 + length]).get("event", {})
        if data := event.get("data", {}).get("stdout"):
            yield b64decode(data)
        at += 5 + length


def output(server: Server, box: Sandbox) -> Iterator[Row]:
    """Take numbered lines, by the client's own decoder and without it."""
    command = f"seq -f '%0{LINE - 1}.0f' 1 {OUTPUT // LINE}"
    expected = b"".join(b"%0*d\n" % (LINE - 1, number) for number in range(1, OUTPUT // LINE + 1))
    seconds, text = timed(lambda: box.commands.run(command, timeout=300).stdout)
    same = text.encode() == expected
    value = f"{OUTPUT / seconds / 1e6:.0f} MB/s, {'every byte' if same else 'NOT the same'}"
    yield Row("200 MB by the client's decoder", value, "every byte, in order", same)
    del text
    seconds, frames = timed(lambda: bare(server, command))
    rate, same = OUTPUT / seconds / 1e6, b"".join(printed(frames)) == expected
    value = f"{rate:.0f} MB/s, {'every byte' if same else 'NOT the same'}"
    yield Row("200 MB by a bare client", value, "≥ 100 MB/s, every byte", same and rate >= 100)


def flood(server: Server) -> Iterator[Row]:
    """Start a flood whose client never reads; its child goes on and others are answered."""
    written = server.folder / "written"
    command = f"for i in $(seq 100); do head -c 10000000 /dev/zero; echo $i > {written}; done"
    poller = Poller(server.port, "/health", 0.005)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        body = framed(f"{command}; echo over > {written}; sleep 60")
        fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
        head = f"POST {START} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(body)}"
        deaf.sendall(f"{head}\r\n\r\n".encode() + body)
        poller.start()
        over = 0.0
        while not over and time.perf_counter() - began < FLOOD_SECONDS * 5:
            if written.exists() and written.read_text().strip() == "over":
                over = time.perf_counter() - began
            time.sleep(0.02)
        times = poller.finish()
    value = f"1 GB in {over:.1f} s" if over else "held up"
    yield Row("a flood that nobody reads: its child", value, "never held up", bool(over))
    value = f"p99 {percentile(times, 99):.1f} ms, max {max(times):.1f} ms"
    yield Row("every other request meanwhile", value, "< 50 ms", max(times) < 50)


def files(server: Server, box: Sandbox) -> Iterator[Row]:
    """Write and read a large file; the server's memory is looked at after each."""
    data = os.urandom(1 << 20) * (FILE >> 20)
    path = server.folder / "large"
    url = f"/files?path={path}"
    octets = {"Content-Type": "application/octet-stream"}
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("`files.write`", lambda: box.files.write(str(path), data)),
        ("`files.read`", lambda: box.files.read(str(path), format="bytes")),
        ("`POST /files` by a bare client", lambda: asked(server, "POST", url, data, octets)),
        ("`GET /files` by a bare client", lambda: asked(server, "GET", url)),
    ]
    before = rss(server.process.pid)
    for what, call in calls:
        seconds, found = timed(call)
        same = found == data if "read" in what or "GET" in what else path.read_bytes() == data
        rate, more = FILE / seconds / 1e6, (rss(server.process.pid) - before) / 1e6
        value = f"{rate:.0f} MB/s{'' if same else ', NOT the same'}, + {more:.1f} MB"
        good = same and rate >= 300 and more <= 20
        yield Row(f"256 MiB, {what}", value, "≥ 300 MB/s, + 20 MB", good)


def asked(
    server: Server, method: str, url: str, data: bytes = b"", fields: dict[str, str] | None = None
) -> bytes:
    """Ask by a client that does nothing else; returns the body."""
    connection = HTTPConnection("127.0.0.1", server.port, blocksize=1 << 20)
    connection.request(method, url, data, fields or {})
    body = connection.getresponse().read()
    connection.close()
    return body


def run() -> list[Row]:
    """Measure all of it."""
    with running() as server:
        Request(server.port).post("/process", {"command": "true", "waitForCompletion": True})
        options = {"api_url": server.url, "sandbox_url": server.url, "api_key": "e2b_key"}
        box = Sandbox.create(timeout=3600, **options)
        return [
            *small(server, box),
            *output(server, box),
            *flood(server),
            *files(server, box),
        ]
