"""`POST /mcp`: what of streamable HTTP is decided before any tool is known.

Stateless, one JSON answer per request, no session. This module does not import the SDK: a request
that is refused costs nothing, and the first good one has it imported in a thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.bodies.weights import media_type
from sandkeeper.api.edge.connections.outgoing import Answer, answer_of
from sandkeeper.api.edge.request_body import LONG_BYTES, in_turn, parse_anything, read_body
from sandkeeper.api.edge.respond import json_response, plain_json
from sandkeeper.api.edge.rights import USER, standing_of
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.mcp.tool import Asker, apart
from sandkeeper.errors import BadInput, TooLarge
from sandkeeper.journal.turns import Turns
from sandkeeper.once import Once

if TYPE_CHECKING:
    from sandkeeper.api.mcp.server import ToolServer

__all__ = ["McpHandlers", "routes"]

BODY_BYTES = 4 << 20
BATCH_MOST = 100
BATCH_AT_ONCE = 8
BATCH_VERSIONS = frozenset({"2024-11-05", "2025-03-26"})
VERSIONS = BATCH_VERSIONS | {"2025-06-18", "2025-11-25"}
STATELESS = frozenset({"2026-07-28"})
"""Revisions without a handshake: each request says in `_meta` and in its head what it speaks."""

PARSE_ERROR, INVALID_REQUEST, UNSUPPORTED_VERSION = -32700, -32600, -32022
METHODS = frozenset(
    {
        *("initialize", "ping", "tools/list", "tools/call", "logging/setLevel"),
        *("prompts/list", "prompts/get", "resources/list", "resources/templates/list"),
        *("resources/read", "resources/subscribe", "resources/unsubscribe"),
        "completion/complete",
    }
)
"""Methods of the protocol; those we do not serve are answered as such by the SDK."""

Message = dict[str, Any]
_turns = Turns()


class McpHandlers:
    """Handlers of `/mcp`; `load` gives what answers, in a thread, at the first good request."""

    def __init__(self, load: "Callable[[], ToolServer]", stopping: asyncio.Event) -> None:
        self._server = Once(partial(asyncio.to_thread, load))
        self._stopping = stopping

    async def refuse_get(self, _request: Request) -> Response:
        """Tell clients that look for a stream that there is none: they rely on the 405."""
        text = "SSE streaming not supported. Please use POST for MCP communication."
        return json_response({"error": text}, 405, {"Allow": "POST"})

    async def post(self, request: Request) -> Response:
        """Answer one message or, in the older versions of the protocol, several."""
        try:
            version = _check_head(request)
            body = await read_body(request, BODY_BYTES)
            if version not in VERSIONS:
                return await self._post_stateless(request, version, body)
            if "last-event-id" in request.headers:
                raise BadInput("Last-Event-ID is not supported: there is nothing to resume")
            messages, batch = await in_turn(len(body), lambda: _messages(body, version))
        except _Unacceptable as error:
            return plain_json({"jsonrpc": "2.0", "id": None, "error": error.args[0]}, 400)
        except _Refused as refusal:
            return _text(refusal.status, str(refusal))
        except TooLarge as error:
            return _text(413, str(error))
        except BadInput as error:
            return _text(400, str(error))
        asked = [message for message in messages if _is_request(message)]
        if not asked:
            return Response(b"", 202)
        server = await self._server.get()
        who = Asker(caller(request), standing_of(request))
        holding = answer_of(request.scope)
        holding.is_managed = True
        work = _answer_all(server, asked, version, who, holding)
        answers = await until_disconnect(request, work, self._stopping)
        text = b"[" + b",".join(answers) + b"]" if batch else answers[0]
        return Response(text, 200, media_type="application/json")

    async def _post_stateless(self, request: Request, version: str, body: bytes) -> Response:
        """Answer one message of a revision without a handshake."""
        try:
            message = await in_turn(len(body), lambda: parse_anything(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadInput):
            return _error(None, PARSE_ERROR, "parse error")
        if not isinstance(message, dict) or not _is_sound(message):
            return _error(None, INVALID_REQUEST, "a body is one JSON-RPC request or notification")
        number = message.get("id")
        if version not in STATELESS:
            data = {"supported": sorted(VERSIONS | STATELESS), "requested": version[:64]}
            text = f"Bad Request: unsupported protocol version {version[:64]!r}"
            return _error(number, UNSUPPORTED_VERSION, text, data)
        if "id" not in message:
            return Response(b"", 202)
        server = await self._server.get()
        who = Asker(caller(request), standing_of(request))
        holding = answer_of(request.scope)
        holding.is_managed = True
        work = server.answer_stateless(message, dict(request.headers), who)
        status, answer = await until_disconnect(request, work, self._stopping)
        encoded = await _encoded(answer)
        holding.take(len(encoded))
        return Response(encoded, status, media_type="application/json")


class _Unacceptable(Exception):
    """What a message is refused for, as JSON-RPC's error object."""


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _check_head(request: Request) -> str:
    """Check the headers in the contract's order, of which `api.edge.hosts` has begun with Host.

    Returns the protocol version, which may be one that nobody knows.
    """
    headers = request.headers
    version = headers.get("mcp-protocol-version", "2025-03-26")
    if media_type(headers.get("content-type", "")) != "application/json":
        raise _Refused(415, "Content-Type must be 'application/json'")
    if not _accepts_both(headers.getlist("accept")):
        raise _Refused(400, "Accept must contain both 'application/json' and 'text/event-stream'")
    return version


def _accepts_both(values: Sequence[str]) -> bool:
    kinds = {media_type(part) for value in values for part in value.split(",")}
    if "*/*" in kinds:
        return True
    return bool(
        kinds & {"application/json", "application/*"} and kinds & {"text/event-stream", "text/*"}
    )


def _messages(body: bytes, version: str) -> tuple[list[Message], bool]:
    """Return the messages of a body and whether they came as a batch; raises BadInput."""
    if not body.strip():
        raise BadInput("POST requires a non-empty body")
    try:
        found = parse_anything(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"malformed payload: {error}") from None
    batch = isinstance(found, list)
    messages = found if batch else [found]
    if batch and version not in BATCH_VERSIONS:
        raise BadInput(f"JSON-RPC batching is not part of version {version}")
    if batch and not 1 <= len(messages) <= BATCH_MOST:
        text = f"a batch has 1 to {BATCH_MOST} messages"
        raise _Unacceptable({"code": -32600, "message": text})
    for message in messages:
        _check_message(message)
    return messages, batch


def _check_message(message: object) -> None:
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise BadInput("malformed payload: not a JSON-RPC 2.0 message")
    method = message.get("method")
    if method is None and "id" in message and ("result" in message or "error" in message):
        return  # a response to a request we never made
    if not isinstance(method, str):
        raise BadInput("malformed payload: a message needs a method")
    if "id" not in message:
        return
    if isinstance(message["id"], bool) or not isinstance(message["id"], str | int):
        raise BadInput("malformed payload: an id is a string or an integer")
    if method not in METHODS:
        raise BadInput(f"method not found: {method[:64]!r}")
    if not isinstance(message.get("params") or {}, dict):
        raise BadInput("malformed payload: params is an object")


def _is_request(message: Message) -> bool:
    return "method" in message and "id" in message


async def _answer_all(
    server: "ToolServer", messages: list[Message], version: str, who: Asker, holding: Answer
) -> list[bytes]:
    """Answer every message, each encoded in a turn of its own."""
    room = asyncio.Semaphore(BATCH_AT_ONCE)

    async def one(message: Message) -> bytes:
        async with room:
            await _turns.take()
            answer = await _encoded(await server.answer(message, version, who))
            holding.take(len(answer))
            return answer

    return await asyncio.gather(*map(one, messages))


async def _encoded(answer: Message) -> bytes:
    """Encode an answer, one with a long text in a thread."""
    result = answer.get("result")
    content = result.get("content") if isinstance(result, dict) else None
    if content and len(content[0].get("text", "")) > LONG_BYTES:
        return await apart(msgspec.json.encode, answer)
    return msgspec.json.encode(answer)


def _is_sound(message: Message) -> bool:
    """Say whether an object is a JSON-RPC request or notification."""
    number = message.get("id", "")
    is_number = isinstance(number, str | int) and not isinstance(number, bool)
    return message.get("jsonrpc") == "2.0" and isinstance(message.get("method"), str) and is_number


def _error(number: object, code: int, text: str, data: object = None) -> Response:
    error = {"code": code, "message": text} | ({} if data is None else {"data": data})
    return plain_json({"jsonrpc": "2.0", "id": number, "error": error}, 400)


def _text(status: int, text: str) -> Response:
    return Response(text.encode("utf-8", "replace"), status, media_type="text/plain; charset=utf-8")


def routes(handlers: McpHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/mcp", handlers.post, "POST", need=USER),
        route("/mcp", handlers.refuse_get, need=USER),
    ]
