"""The SDK's server over our tools. Importing this module imports the SDK (half a second)."""

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import anyio
import mcp_types as types
import msgspec
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.transport_context import TransportContext
from pydantic import ValidationError

from sandkeeper.api.edge.frozen import READING_TOOLS
from sandkeeper.api.edge.respond import utf8
from sandkeeper.api.mcp.tool import Asker, Tool, text_of
from sandkeeper.archive.freeze import Freeze
from sandkeeper.errors import SandkeeperError
from sandkeeper.log.lines import Log

__all__ = ["ToolServer"]

LONG_TEXT = 64 << 10
"""A result with such a text is encoded in a thread."""

TRANSPORT = TransportContext(kind="streamable-http", can_send_request=False)


class ToolServer:
    """Answers requests of the protocol; one for all clients, without sessions."""

    def __init__(self, tools: Iterable[Tool], *, log: Log, freeze: Freeze) -> None:
        self._log = log
        self._freeze = freeze
        self._tools = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        self._lists: dict[tuple[str, tuple[str, ...]], msgspec.Raw] = {}
        self._server = _Named(
            "Sandbox API Server",
            version="1.0.0",
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        self._server.middleware.clear()  # spans for an exporter that nobody installs
        self._server.add_request_handler(
            "logging/setLevel", types.SetLevelRequestParams, _set_level
        )

    async def answer(self, message: dict[str, Any], version: str, who: Asker) -> dict[str, Any]:
        """Return the JSON-RPC answer to one request; raises nothing but cancellation."""
        envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        lists = message["method"] == "tools/list" and not message.get("params")
        key = version, tuple(name for name, tool in self._tools.items() if tool.enabled())
        if lists and key in self._lists:
            return {**envelope, "result": self._lists[key]}
        context = _Exchange(message["id"])
        try:
            result = await serve_one(
                self._server,
                context,
                message["method"],
                message.get("params"),
                connection=Connection.from_envelope(version, None, None),
                lifespan_state=who,
            )
        except MCPError as error:
            return {**envelope, "error": error.error.model_dump(exclude_none=True)}
        except ValidationError:
            return {**envelope, "error": {"code": -32602, "message": "invalid request parameters"}}
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the connection
            self._log.error(f"mcp: {message['method']} failed: {error!r}")
            return {**envelope, "error": {"code": -32603, "message": "internal error"}}
        if message["method"] == "tools/list":
            # Fields of a later version of the protocol that the contract gives in all.
            result |= {"ttlMs": 0, "cacheScope": "public"}
        if lists:
            self._lists[key] = msgspec.Raw(msgspec.json.encode(result))
        if message["method"] == "tools/call" and not result.get("isError"):
            # The text again, as it is: the SDK would look at each value of it, twice.
            text = result["content"][0]["text"]
            result["structuredContent"] = msgspec.Raw(text.encode())
        return {**envelope, "result": result}

    async def _list(
        self, _context: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> Any:
        return {"tools": [tool.listing for tool in self._tools.values() if tool.enabled()]}

    async def _call(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> Any:
        tool = self._tools.get(params.name)
        if tool is None or not tool.enabled():
            raise MCPError(code=types.INVALID_PARAMS, message=f'unknown tool "{params.name}"')
        who: Asker = context.lifespan_context
        writes = nullcontext() if tool.name in READING_TOOLS else self._freeze.writing()
        try:
            who.standing.check(tool.need)
            async with writes:
                result = await tool.call(tool.parse(params.arguments), who.caller)
        except SandkeeperError as error:
            return _failure(_told(tool, error))
        except Exception as error:  # noqa: BLE001 - told to the caller as a fault of ours
            self._log.error(f"mcp: {tool.name} failed: {error!r}")
            return _failure(f"{tool.prefix}internal error")
        long = any(
            isinstance(v, str) and len(v) > LONG_TEXT for v in msgspec.structs.astuple(result)
        )
        text = await asyncio.to_thread(text_of, result) if long else text_of(result)
        return {"content": [{"type": "text", "text": text}]}


def _told(tool: Tool, error: SandkeeperError) -> str:
    text = utf8(str(error)) or type(error).__name__
    if text.startswith(('validating "arguments"', tool.prefix)):
        return text
    return tool.prefix + text


def _failure(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


async def _set_level(
    _context: ServerRequestContext[Any], _params: types.SetLevelRequestParams
) -> types.EmptyResult:
    """Accept a level: without a stream no log message can ever be sent."""
    return types.EmptyResult()


class _Named(Server[Any]):
    """Says that the list of tools changes: it follows the environment."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(
            notification_options or NotificationOptions(tools_changed=True),
            experimental_capabilities,
            extensions,
        )


class _Exchange:
    """One request and its one answer: there is no way back to the client meanwhile."""

    transport = TRANSPORT
    can_send_request = False
    message_metadata = None

    def __init__(self, request_id: str | int) -> None:
        self.request_id = request_id
        self.cancel_requested = anyio.Event()

    async def send_raw_request(
        self, method: str, params: Any, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Any, opts: CallOptions | None = None) -> None:
        """Leave out a notification: the answer is a single JSON document."""

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Leave out progress, for the same reason."""
