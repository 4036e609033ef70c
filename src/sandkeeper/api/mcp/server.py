"""The SDK's server over our tools. Importing this module imports the SDK (half a second)."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import anyio
import mcp_types as types
import msgspec
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
)
from mcp.shared.transport_context import TransportContext
from pydantic import ValidationError

from sandkeeper import __version__
from sandkeeper.api.edge.frozen import READING_TOOLS
from sandkeeper.api.mcp.sentences import sentence
from sandkeeper.api.mcp.tool import Asker, Tool, apart, text_of
from sandkeeper.archive.freeze import Freeze
from sandkeeper.errors import SandkeeperError
from sandkeeper.log.lines import Log

__all__ = ["ToolServer"]

LONG_TEXT = 64 << 10
"""A result with such a text is encoded in a thread."""

INSTRUCTIONS = (
    "You work in a sandbox: a machine of its own with processes, files, terminals and ports. "
    "Run a command with processExecute: with waitForCompletion what ends, without it a server; "
    "processWaitFor then tells when a port, a line of output or the end has come. Output is kept: "
    "processGetLogs shows it, processQueryLogs searches it. Change a file with fsEditFile or "
    "fsApplyEdits, which touch only what you name; fsWriteFile replaces it whole. Look for text "
    "with codegenGrepSearch, for files by name with codegenFileSearch. Programs that need a "
    "terminal run in terminalOpen; terminalScreen tells what they show. Code whose variables are "
    "to stay (Python, Bash) runs with codeRun. Relative paths begin in the working directory."
)

LASTING: dict[str, Any] = {"ttlMs": 0, "cacheScope": "public"}
"""How long a list may be kept: it is asked for anew each time."""
COMPLETE: dict[str, Any] = {"resultType": "complete"}
LIST = LASTING | COMPLETE

TRANSPORT = TransportContext(kind="streamable-http", can_send_request=False)


class ToolServer:
    """Answers requests of the protocol; one for all clients, without sessions."""

    def __init__(self, tools: Iterable[Tool], *, log: Log, freeze: Freeze) -> None:
        self._log = log
        self._freeze = freeze
        self._tools = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        self._lists: dict[tuple[str, tuple[str, ...]], msgspec.Raw] = {}
        self._server = _Named(
            "sandkeeper",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        self._server.middleware.clear()  # spans for an exporter that nobody installs
        self._server.add_request_handler(
            "logging/setLevel", types.SetLevelRequestParams, _set_level
        )
        # Clients ask for these whatever a server says that it has.
        for method, nothing in NOTHING.items():
            self._server.add_request_handler(method, types.PaginatedRequestParams, nothing)

    async def answer_stateless(
        self, message: dict[str, Any], headers: Mapping[str, str], who: Asker
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to a request that carries all that is agreed.

        `headers` are by their names in lower case. Raises nothing but cancellation.
        """
        route = classify_inbound_request(message, headers=headers)
        if isinstance(route, InboundLadderRejection):
            error = {"code": route.code, "message": route.message, "data": route.data}
            told = {name: value for name, value in error.items() if value is not None}
            answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"], "error": told}
        else:
            said = route.client_info, route.client_capabilities
            answer = await self.answer(message, route.protocol_version, who, *said)
        code = answer["error"]["code"] if "error" in answer else 0
        return ERROR_CODE_HTTP_STATUS.get(code, 200), answer

    async def answer(
        self,
        message: dict[str, Any],
        version: str,
        who: Asker,
        client: Any = None,
        capabilities: Any = None,
    ) -> dict[str, Any]:
        """Return the JSON-RPC answer to one request; raises nothing but cancellation."""
        envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        lists = message["method"] == "tools/list" and not (message.get("params") or {}).keys() - {
            "_meta"
        }
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
                connection=Connection.from_envelope(version, client, capabilities),
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
            result = {**result, **LASTING}
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
        return LIST | {"tools": [one.listing for one in self._tools.values() if one.enabled()]}

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
            with writes:
                result = await tool.call(tool.parse(params.arguments), who.caller)
        except SandkeeperError as error:
            return _failure(sentence(tool, error))
        except Exception as error:  # noqa: BLE001 - told to the caller as a fault of ours
            self._log.error(f"mcp: {tool.name} failed: {error!r}")
            return _failure(f"{tool.prefix}internal error")
        long = any(
            isinstance(v, str) and len(v) > LONG_TEXT for v in msgspec.structs.astuple(result)
        )
        text = await apart(text_of, result) if long else text_of(result)
        return COMPLETE | {"content": [{"type": "text", "text": text}, *tool.blocks(result)]}


def _failure(text: str) -> dict[str, Any]:
    return COMPLETE | {"content": [{"type": "text", "text": text}], "isError": True}


async def _no_resources(_context: ServerRequestContext[Any], _params: Any) -> Any:
    return LIST | {"resources": []}


async def _no_templates(_context: ServerRequestContext[Any], _params: Any) -> Any:
    return LIST | {"resourceTemplates": []}


async def _no_prompts(_context: ServerRequestContext[Any], _params: Any) -> Any:
    return LIST | {"prompts": []}


NOTHING = {
    "resources/list": _no_resources,
    "resources/templates/list": _no_templates,
    "prompts/list": _no_prompts,
}


async def _set_level(
    _context: ServerRequestContext[Any], _params: types.SetLevelRequestParams
) -> types.EmptyResult:
    """Accept a level: without a stream no log message can ever be sent."""
    return types.EmptyResult()


class _Named(Server[Any]):
    """Says that the list of tools changes, for it follows the environment, and what else there is.

    That are no resources and no prompts: their lists are empty.
    """

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        made = super().get_capabilities(
            NotificationOptions(tools_changed=True),
            experimental_capabilities,
            extensions,
            protocol_version=protocol_version,
        )
        return made.model_copy(update={"prompts": None, "resources": None})


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
