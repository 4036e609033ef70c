"""A person at a terminal, for tests: a real WebSocket client that reads all the time."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness import Server

__all__ = ["Person"]


class Person:
    """One connection; `shown` is all output so far. Use as a context manager."""

    def __init__(self, server: Server, *, headers: dict[str, str] | None = None, **query: Any):
        address = server.url.replace("http", "ws", 1) + "/terminal/ws"
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(
            connect(
                f"{address}?{urlencode(query)}",
                additional_headers=headers,
                max_size=None,
                compression=None,
                proxy=None,
            )
        )
        self._parts: list[str] = []
        self.errors: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.frames = 0
        self.close: tuple[int, str] | None = None

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the connection."""
        self._stack.close()

    def ready(self) -> None:
        """Wait for the first text, a redrawn screen maybe: what comes later is as it was written.

        What is typed before may have its echo and its output in that screen.
        """
        self.see(bool)

    def type(self, text: str) -> None:
        """Send input."""
        self.send({"type": "input", "data": text})

    def send(self, message: Any) -> None:
        """Send a frame; text and bytes go as they are."""
        raw = message if isinstance(message, (str, bytes)) else json.dumps(message)
        self.socket.send(raw)

    def read(self, timeout: float = 30.0) -> bool:
        """Take one frame; False when nothing came or the connection has closed."""
        try:
            message = json.loads(self.socket.recv(timeout))
        except TimeoutError:
            return False
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            self.close = (code, closed.rcvd.reason if closed.rcvd else "")
            return False
        self.frames += 1
        if message["type"] == "error":
            self.errors.append(message["data"])
        elif message["type"] == "resize":
            self.sizes.append((message["cols"], message["rows"]))
        else:
            self._parts.append(message["data"])
        return True

    @property
    def shown(self) -> str:
        """All output so far."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def forget(self) -> None:
        """Begin `shown` anew."""
        self._parts = []

    def see(self, wanted: str | Callable[[str], bool], timeout: float = 100.0) -> str:
        """Read until `wanted` was shown (or is true of the latest); returns all that was shown."""
        found = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + timeout
        latest = self.shown
        while not found(latest):
            left = max(0.01, deadline - time.monotonic())
            assert self.read(left), (wanted, self.shown[-2000:])
            latest = latest[-1000:] + self._parts[-1]
        return self.shown

    def to_the_end(self, timeout: float = 100.0) -> tuple[int, str]:
        """Read until the server closes; returns its code and reason."""
        deadline = time.monotonic() + timeout
        while self.close is None:
            assert time.monotonic() < deadline, self.shown[-2000:]
            self.read(1.0)
        return self.close
