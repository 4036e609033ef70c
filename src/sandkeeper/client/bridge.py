"""`mcp`: the server's tools for programs that only start programs (MCP's stdio transport).

A message is a line on either side. Each request travels by itself, so a slow tool holds up none
of the others; a cancelled one has its connection cut, which ends it at the server.
"""

import json
import os
import socket
import threading
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

from sandkeeper.client.connection import Server
from sandkeeper.client.context import verb
from sandkeeper.client.failures import ClientError, NoServer
from sandkeeper.client.output import write_all

__all__: list[str] = []

TOOL_SECONDS = 24 * 3600.0
READ_BYTES = 1 << 20
MESSAGE_BYTES = 64 << 20
FAILED = -32603
UNREADABLE = -32700
UNASKABLE = -32600
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"


@verb("mcp", group="Server")
def mcp(server: Server) -> None:
    """Serve the sandbox's tools on standard input and output (MCP), until its end."""
    _Bridge(server).run()


class _Bridge:
    """Lines from standard input become requests of `/mcp`; answers become lines."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._version = ""
        self._lock = threading.Lock()
        self._open: dict[Any, HTTPConnection] = {}
        self._cancelled: set[Any] = set()
        self._threads: set[threading.Thread] = set()

    def run(self) -> None:
        rest = b""
        while data := os.read(0, READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MESSAGE_BYTES:
                raise ClientError("a message of more than 64 MiB")
            for line in filter(bytes.strip, lines):
                self._take(line)
        for thread in list(self._threads):
            thread.join()

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._say({"id": None, "error": {"code": UNREADABLE, "message": "no JSON"}})
            return
        if not isinstance(message, dict):
            self._exchange(line, {})
        elif not isinstance(message.get("id"), str | int | float | None):
            self._say({"id": None, "error": {"code": UNASKABLE, "message": "no id"}})
        elif message.get("method") == "notifications/cancelled":
            params = message.get("params")
            self._cancel(params.get("requestId") if isinstance(params, dict) else None)
        elif message.get("method") == "initialize":
            self._exchange(line, message)  # what comes behind it needs what it agrees on
        else:
            thread = threading.Thread(target=self._exchange, args=(line, message), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _cancel(self, number: Any) -> None:
        if not isinstance(number, str | int | float):
            return
        with self._lock:
            connection = self._open.pop(number, None)
            if connection is not None:
                self._cancelled.add(number)
        if connection is not None:
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _exchange(self, line: bytes, message: dict[str, Any]) -> None:
        number = message.get("id")

        def opened(connection: HTTPConnection) -> None:
            with self._lock:
                self._open[number] = connection

        try:
            with self._server.open(
                "POST",
                "/mcp",
                body=line,
                headers=self._headers(message),
                seconds=TOOL_SECONDS,
                opened=opened,
            ) as answer:
                raw = answer.read()
            self._tell(number, message, raw)
        except ClientError as error:
            if self._is_wanted(number):
                self._refuse(number, error)
        finally:
            self._threads.discard(threading.current_thread())

    def _is_wanted(self, number: Any) -> bool:
        """Say whether nobody has cancelled it; it is over in either case."""
        with self._lock:
            self._open.pop(number, None)
            cancelled = number in self._cancelled
            self._cancelled.discard(number)
        return not cancelled

    def _headers(self, message: dict[str, Any]) -> dict[str, str]:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = (meta.get(VERSION_KEY) if isinstance(meta, dict) else "") or self._version
        found = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": version,
            "Mcp-Method": message.get("method"),
            "Mcp-Name": params.get("name"),
        }
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, str) and value and value.isascii() and value.isprintable()
        }

    def _tell(self, number: Any, message: dict[str, Any], raw: bytes) -> None:
        if not self._is_wanted(number) or not raw.strip():
            return
        answer = _answer(raw)
        if message.get("method") == "initialize":
            result = answer.get("result")
            self._version = str(result.get("protocolVersion", "")) if result else ""
        self._write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))

    def _refuse(self, number: Any, error: ClientError) -> None:
        details = getattr(error, "details", None)
        if isinstance(details, dict) and "jsonrpc" in details:
            self._write(json.dumps(details).encode())
        elif number is not None:
            self._say({"id": number, "error": {"code": FAILED, "message": str(error)}})

    def _say(self, fields: dict[str, Any]) -> None:
        self._write(json.dumps({"jsonrpc": "2.0", **fields}).encode())

    def _write(self, line: bytes) -> None:
        # Whoever started this and reads no more closes standard input as well, which is the end.
        with self._lock, suppress(OSError):
            write_all(1, line + b"\n")


def _answer(raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("result", {}), dict):
        raise NoServer("what answers is no server of this API")
    return answer
