"""Connect over HTTP/1.1 with the JSON codec (connectrpc.com/docs/protocol): calls in, answers out.

A unary call is answered by JSON and a status; a stream by frames, of which the last says how it
ended. Whatever a call raises becomes a code here, and nowhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sandkeeper import errors
from sandkeeper.api.e2b.framing import END, HEAD_BYTES, BadFrame, Frames, TooLong, frame
from sandkeeper.api.e2b.sentences import sentence
from sandkeeper.api.edge.bodies.weights import media_type
from sandkeeper.api.edge.request_body import in_turn, parse_anything, read_body
from sandkeeper.api.edge.respond import utf8
from sandkeeper.api.edge.streaming import StreamResponse
from sandkeeper.journal.cursor import Abandoned
from sandkeeper.linux.users import UnknownUser
from sandkeeper.numerals import natural

__all__ = [
    "MESSAGE_BYTES",
    "STREAM_TYPE",
    "UNARY_TYPE",
    "Failure",
    "deadline_of",
    "failed_stream",
    "failure_of",
    "first_message",
    "messages",
    "ping_of",
    "read_unary",
    "refused",
    "stream",
    "unary",
    "unsupported",
    "within",
]

T = TypeVar("T")

UNARY_TYPE, STREAM_TYPE = "application/json", "application/connect+json"
STREAM_CODING = "connect-content-encoding"
MESSAGE_BYTES = 4 << 20
DIGITS_MOST = 10
PING_SECONDS, PING_MOST = 90, 3600
_encode = msgspec.json.Encoder().encode

STATUS = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}

CODES: dict[type[Exception], str] = {
    UnknownUser: "unauthenticated",
    errors.BadInput: "invalid_argument",
    errors.Forbidden: "permission_denied",
    errors.NotFound: "not_found",
    errors.Conflict: "failed_precondition",
    errors.TooLarge: "resource_exhausted",
    errors.Unprocessable: "invalid_argument",
    errors.StorageFull: "resource_exhausted",
    errors.Unavailable: "unavailable",
}


class Failure(Exception):
    """A call failed, with a code of Connect's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def json(self) -> dict[str, str]:
        """Return it as the wire has it."""
        return {"code": self.code, "message": utf8(str(self))}


def failure_of(error: Exception) -> Failure:
    """Return what the wire says of whatever a call raised; raises what is nobody's fault."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, BadFrame):
        return Failure("invalid_argument", str(error))
    if isinstance(error, TooLong):
        return Failure("resource_exhausted", str(error))
    if isinstance(error, TimeoutError):
        return Failure("deadline_exceeded", "the deadline of the call is over")
    if isinstance(error, Abandoned):
        return Failure("unavailable", "the server is stopping")
    if not isinstance(error, errors.SandkeeperError):
        raise error
    for kind in type(error).__mro__:
        if kind in CODES:
            return Failure(CODES[kind], sentence(error))
    return Failure("internal", sentence(error))


def unsupported(request: Request, accepted: str) -> Response | None:
    """Return the refusal of another codec or protocol than ours; None: it is ours."""
    kind = media_type(request.headers.get("content-type", ""))
    if kind == accepted:
        return None
    body = {
        "code": "unimplemented",
        "message": f"the content type {kind[:80]!r} is not served here: send {accepted}",
    }
    return Response(_encode(body), 415, {"Accept-Post": accepted}, media_type=UNARY_TYPE)


def deadline_of(request: Request) -> float | None:
    """Return the seconds a call may take, None without a deadline.

    Raises Failure, also for what is said in another version of the protocol.
    """
    version = request.headers.get("connect-protocol-version", "")
    if version not in {"", "1"}:
        raise Failure(
            "invalid_argument", f"Connect-Protocol-Version: {version[:32]!r} is not spoken here: 1"
        )
    text = request.headers.get("connect-timeout-ms")
    if text is None:
        return None
    milliseconds = natural(text) if len(text) <= DIGITS_MOST else None
    if milliseconds is None:
        raise Failure("invalid_argument", f"Connect-Timeout-Ms: {text[:32]!r} is no duration")
    if milliseconds == 0:
        raise Failure("deadline_exceeded", "the deadline of the call is over")
    return milliseconds / 1000


def ping_of(request: Request) -> float:
    """Return after how many seconds of silence a stream is to show that it lives."""
    wanted = natural(request.headers.get("keepalive-ping-interval", ""))
    return min(wanted or PING_SECONDS, PING_MOST)


def _decoded(payload: bytes, model: type[T]) -> T:
    """Read a message as protobuf's JSON is read: numbers may be texts, null is nothing."""
    try:
        given = parse_anything(payload) if payload.strip() else {}
        return msgspec.convert(_without_nulls(given), model, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, errors.BadInput) as error:
        raise Failure("invalid_argument", f"the message cannot be read: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value


async def read_unary(request: Request, model: type[T]) -> T:
    """Read the message of a unary call; raises Failure, TooLarge."""
    _is_gzip(request, "content-encoding")
    body = await read_body(request, MESSAGE_BYTES)
    return await in_turn(len(body), lambda: _decoded(body, model))


async def first_message(request: Request, model: type[T]) -> T:
    """Read the one message of a call that is answered by a stream; raises Failure, BadFrame."""
    frames = Frames(MESSAGE_BYTES, gzip=_is_gzip(request, STREAM_CODING))
    body = await read_body(request, MESSAGE_BYTES + HEAD_BYTES)
    found = list(frames.feed(body))
    frames.finish()
    if len(found) != 1:
        raise Failure("invalid_argument", f"one message is expected, not {len(found)}")
    return _decoded(found[0], model)


async def messages(request: Request, model: type[T]) -> AsyncIterator[T]:
    """Yield the messages of a client's stream as they come; raises as `first_message`."""
    frames = Frames(MESSAGE_BYTES, gzip=_is_gzip(request, STREAM_CODING))
    try:
        async for block in request.stream():
            for payload in frames.feed(block):
                yield _decoded(payload, model)
    except ClientDisconnect:
        raise Failure("canceled", "the client has gone") from None
    frames.finish()


def _is_gzip(request: Request, field: str) -> bool:
    """Say whether messages may be compressed; raises Failure for what is not gzip."""
    wanted = request.headers.get(field, "identity")
    if wanted not in {"identity", "gzip"}:
        raise Failure(
            "unimplemented",
            f"the compression {wanted[:32]!r} is not supported: use gzip or identity",
        )
    return wanted == "gzip"


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Await `work`; raises TimeoutError after so many seconds."""
    async with asyncio.timeout(seconds):
        return await work


def unary(value: Any) -> Response:
    """Answer a unary call."""
    return Response(_encode(value), 200, media_type=UNARY_TYPE)


def refused(failure: Failure) -> Response:
    """Answer a unary call that failed."""
    return Response(_encode(failure.json()), STATUS[failure.code], media_type=UNARY_TYPE)


def _end(failure: Failure | None) -> bytes:
    return frame(_encode({} if failure is None else {"error": failure.json()}), END)


def failed_stream(failure: Failure | None, *, before: bytes = b"") -> Response:
    """Answer a stream that is over at once; `before` are frames of its messages."""
    return Response(before + _end(failure), 200, media_type=STREAM_TYPE)


def stream(blocks: AsyncIterator[bytes], seconds: float | None) -> Response:
    """Answer by the frames that `blocks` yields, then by their end.

    After so many `seconds` the end is that the deadline is over.
    """
    return StreamResponse(_ended(blocks, seconds), STREAM_TYPE)


async def _ended(blocks: AsyncIterator[bytes], seconds: float | None) -> AsyncIterator[bytes]:
    failure: Failure | None = None
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    async with aclosing(blocks):  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout_at(until):
                    block = await anext(blocks)
            except StopAsyncIteration:
                break
            except Exception as error:  # noqa: BLE001 - `failure_of` raises what is none of these
                failure = failure_of(error)
                break
            yield block
    yield _end(failure)
