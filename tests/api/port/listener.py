"""Servers behind ports, as small as a test needs them: a thread for each connection."""

import socket
import threading
from abc import ABC, abstractmethod

__all__ = ["Echo", "Listener"]


class Listener(ABC):
    """Listens on `port`; a subclass says in `take` what becomes of a connection."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=128)
        self.port = int(self.listener.getsockname()[1])
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock:
            self.take(sock)

    @abstractmethod
    def take(self, sock: socket.socket) -> None:
        """Serve one connection; it is closed afterwards."""

    def close(self) -> None:
        """Accept no more."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


class Echo(Listener):
    """Answers every request with the head it was sent, and with a status and fields of ours."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.status = b"200 OK"
        self.fields: list[bytes] = []
        super().__init__()

    def take(self, sock: socket.socket) -> None:
        """Read a head and send it back."""
        with sock.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n"))
        self.heads.append(head)
        lines = [b"HTTP/1.1 " + self.status, *self.fields, b"Content-Length: %d" % len(head)]
        sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + head)
