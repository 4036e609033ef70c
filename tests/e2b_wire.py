"""E2B's wire without any SDK: frames and calls, as a client of one's own makes them."""

import base64
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

from tests.harness import Server

__all__ = [
    "STREAM",
    "OpenStream",
    "call",
    "decoded",
    "end_of",
    "events",
    "framed",
    "frames_of",
    "output",
    "shell",
    "start",
    "stream",
]

STREAM = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}


def framed(message: Any, flags: int = 0) -> bytes:
    """Return a frame of JSON."""
    payload = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(payload)) + payload


def frames_of(data: bytes) -> list[tuple[int, Any]]:
    """Return (flags, message) of every frame; fails for what is left over."""
    found, at = [], 0
    while at < len(data):
        flags, length = struct.unpack_from(">BI", data, at)
        payload = data[at + 5 : at + 5 + length]
        assert len(payload) == length
        found.append((flags, json.loads(payload)))
        at += 5 + length
    return found


def call(server: Server, method: str, message: Any, **headers: str) -> Any:
    """Make a unary call; returns the reply."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post(f"/{method}", json=message, headers=named)


def stream(server: Server, method: str, message: Any, **headers: str) -> list[tuple[int, Any]]:
    """Make a call that is answered by a stream; returns its frames once it is over."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = server.client.post(f"/{method}", content=framed(message), headers={**STREAM, **named})
    assert reply.status_code == 200, reply.text
    return frames_of(reply.content)


def shell(command: str, **fields: Any) -> dict[str, Any]:
    """Return the message that starts a command line."""
    process = {"cmd": "/bin/bash", "args": ["-c", command], **fields.pop("process", {})}
    return {"process": process, "stdin": False, **fields}


def start(server: Server, command: str, **headers: str) -> list[tuple[int, Any]]:
    """Run a command line to its end; returns the frames."""
    return stream(server, "process.Process/Start", shell(command), **headers)


def events(frames: list[tuple[int, Any]], kind: str) -> list[Any]:
    """Return all events of a kind."""
    return [one["event"][kind] for _, one in frames if kind in one.get("event", {})]


def decoded(data: dict[str, str], name: str) -> bytes:
    """Return the bytes of a data event."""
    return base64.b64decode(data.get(name, ""))


def output(frames: list[tuple[int, Any]], name: str = "stdout") -> bytes:
    """Return everything that one stream has carried."""
    return b"".join(decoded(data, name) for data in events(frames, "data"))


def end_of(frames: list[tuple[int, Any]]) -> Any:
    """Return the message of the last frame, which says how the stream ended."""
    flags, message = frames[-1]
    assert flags == 2
    assert all(flag == 0 for flag, _ in frames[:-1])
    return message


class OpenStream:
    """A stream that is read frame by frame, from a socket of its own."""

    def __init__(self, server: Server, method: str, message: Any) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        body = framed(message)
        head = f"POST /{method} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in STREAM.items())
        self._socket.sendall((head + fields + "\r\n").encode() + body)
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            continue
        self._rest = b""

    def __enter__(self) -> "OpenStream":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()
        self._socket.close()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while True:
            head = self._take(5)
            if not head:
                return
            flags, length = struct.unpack(">BI", head)
            yield flags, json.loads(self._take(length))
            if flags == 2:
                return

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            try:
                line = self._file.readline().strip()
            except ConnectionResetError:
                return b""
            if not line:
                return b""
            count = int(line, 16)
            if not count:
                return b""
            self._rest += self._file.read(count)
            self._file.readline()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
