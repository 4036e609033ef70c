"""Calls of MCP tools over plain HTTP."""

import itertools
import json
from typing import Any

import httpx

from tests.harness import Server

__all__ = ["HEADERS", "Tools"]

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}


class Tools:
    """The tools of one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._ids = itertools.count(1)

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """POST a JSON value or bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.server.client.post("/mcp", content=data, headers={**HEADERS, **headers})

    def rpc(self, method: str, params: Any = None, **headers: str) -> dict[str, Any]:
        """Make one request and return the whole answer."""
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method}
        if params is not None:
            message["params"] = params
        reply = self.post(message, **headers)
        assert reply.status_code == 200, reply.text
        answer = reply.json()
        assert answer["id"] == number
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result, failed or not."""
        return self.rpc("tools/call", {"name": tool, "arguments": arguments})["result"]

    def value(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed; returns its structured content."""
        result = self.call(tool, **arguments)
        assert not result.get("isError"), result
        (block,) = result["content"]
        assert block["type"] == "text"
        content = result["structuredContent"]
        assert block["text"] == json.dumps(
            content, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return content

    def error(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must fail; returns its words."""
        result = self.call(tool, **arguments)
        assert result.get("isError") is True, result
        (block,) = result["content"]
        assert block["text"]
        return block["text"]

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return the tools by name."""
        return {tool["name"]: tool for tool in self.rpc("tools/list")["result"]["tools"]}
