"""The published Python SDK reaches servers of the sandbox through `network.fetch`."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.harness import Server


class Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(201)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{self.path} ".encode() + body)

    def log_message(self, *_args: object) -> None:
        pass


def test_fetch_returns_the_servers_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BL_API_KEY", "dummy")
    monkeypatch.setenv("BL_WORKSPACE", "local")
    from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec
    from blaxel.core.sandbox import SandboxInstance

    async def run(port: int) -> tuple[int, str, str]:
        local = Sandbox(metadata=Metadata(name="local"), spec=SandboxSpec())
        sandbox = SandboxInstance(local, force_url=server.url)
        reply = await sandbox.network.fetch(port, "a/b?c=1", method="POST", content=b"body")
        await sandbox.network.get_client().aclose()
        return reply.status_code, reply.headers["content-type"], reply.text

    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=upstream.serve_forever, args=(0.01,))
    thread.start()
    try:
        told = asyncio.run(run(upstream.server_address[1]))
    finally:
        upstream.shutdown()
        upstream.server_close()
        thread.join()

    assert told == (201, "text/plain", "/a/b?c=1 body")
