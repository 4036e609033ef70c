"""A client of a watch, reading in its own thread."""

import json
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from tests.harness import Server, until

__all__ = ["Watching"]


class Watching:
    """Opens `/watch/filesystem/{path}` and collects its lines; use as a context manager."""

    def __init__(self, server: Server, path: str, *, read: bool = True, **params: str) -> None:
        query = "&".join(f"{key}={quote(value)}" for key, value in params.items())
        self.sock = socket.socket()
        if not read:
            # Before the connection is made: a window that shrinks later is probed ever more rarely.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.sock.connect(("127.0.0.1", server.port))
        request = f"GET /watch/filesystem/{path}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        self.sock.sendall(request.encode())
        self.file = self.sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = dict(
            line.decode().strip().lower().split(": ", 1)
            for line in iter(self.file.readline, b"\r\n")
        )
        self.lines: list[str] = []
        self.ended = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        if read:
            self.read()

    def read(self) -> None:
        """Begin to read the lines."""
        self._thread.start()

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self._thread.ident:
            self._thread.join()
        self.file.close()
        self.sock.close()

    def _collect(self) -> None:
        rest = b""
        try:
            while size := int(self.file.readline(), 16):  # no number: the end is missing
                *lines, rest = (rest + self.file.read(size)).split(b"\n")
                self.file.readline()
                self.lines += [line.decode() for line in lines]
            self.ended = True
        except (OSError, ValueError):
            return

    @property
    def reading(self) -> bool:
        """Whether the connection is still there."""
        return self._thread.is_alive()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the changes so far."""
        return [json.loads(line) for line in list(self.lines) if not line.startswith("[")]

    def told(self) -> list[tuple[str, str]]:
        """Return operations and full paths so far."""
        return [
            (event["op"], f"{event['path'].rstrip('/')}/{event['name']}") for event in self.events
        ]

    def until(self, op: str, path: object, timeout: float = 100.0) -> None:
        """Wait until a change has been told."""
        where, _, name = str(path).rpartition("/")
        event = {"op": op, "name": name, "path": where or "/", "error": None}
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        seen = 0

        def told() -> bool:
            nonlocal seen
            fresh = self.lines[seen:]
            seen += len(fresh)
            return line in fresh

        until(told, timeout)
