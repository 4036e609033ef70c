"""A storage with presigned URLs for tests: it keeps what is PUT, and fails as told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Storage", "storage"]


@dataclass
class Storage:
    """What was asked and kept; `fault(method, path, attempt)` gives a status or one of these.

    `drop:N` takes N bytes of a body (or sends N of a download) and closes the connection,
    `early:N` does so with a good answer.
    """

    port: int = 0
    kept: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str, str, int], Any] = lambda _method, _path, _attempt: None
    arrived: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event | None = None

    def url(self, name: str) -> str:
        """Return a URL with a secret in it."""
        return f"http://127.0.0.1:{self.port}/{name}?X-Amz-Signature=s3cr3t"

    def attempts(self, method: str, name: str) -> int:
        """How often something was asked."""
        return sum(asked[:2] == (method, f"/{name}") for asked in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    storage: Storage

    def log_message(self, *_: Any) -> None:
        return

    def _any(self) -> None:
        path, method = urlsplit(self.path).path, self.command
        self.storage.asked.append((method, path, dict(self.headers)))
        fault = self.storage.fault(method, path, self.storage.attempts(method, path[1:]))
        length = int(self.headers.get("Content-Length") or 0)
        if isinstance(fault, str):
            self._drop(path, int(fault.partition(":")[2]))
            if fault.startswith("early"):
                self._reply(200, b"")
            return
        body = self._take(length)
        if fault:
            self._reply(fault, b"<Error><Code>SlowDown</Code></Error>")
        elif method == "PUT":
            self.storage.kept[path[1:]] = body
            self._reply(200, b"", {"ETag": f'"{path[1:]}-tag"'})
        elif method == "GET":
            self._send(path)
        else:
            self.storage.bodies[path[1:]] = body
            self._reply(200, b"")

    do_PUT = do_GET = do_POST = do_DELETE = _any

    def _take(self, length: int) -> bytes:
        parts = []
        while length:
            part = self.rfile.read(min(length, 1 << 20))
            self.storage.arrived.set()
            if self.storage.hold is not None:
                self.storage.hold.wait(20)
            if not part:
                break
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _drop(self, path: str, count: int) -> None:
        if self.command == "GET":
            data = self.storage.kept[path[1:]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:count])
        else:
            self._take(count)
        self.close_connection = True

    def _send(self, path: str) -> None:
        data = self.storage.kept.get(path[1:])
        if data is None:
            self._reply(404, b"")
            return
        given = self.headers.get("Range", "")
        start = int(given.removeprefix("bytes=").rstrip("-") or 0)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._reply(206 if start else 200, data[start:], headers)

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is part of the tests."""


@contextmanager
def storage() -> Iterator[Storage]:
    """Run a storage while inside."""
    made = Storage()
    handler = type("Handler", (_Handler,), {"storage": made})
    server = _Server(("127.0.0.1", 0), handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        if made.hold is not None:
            made.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
