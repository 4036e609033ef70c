"""Responses: JSON as the contract writes it, errors, plain texts."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from sandkeeper import errors
from sandkeeper.linebreaks import in_one_line
from sandkeeper.linux.fds import lacks_descriptors
from sandkeeper.linux.worker import NO_THREAD, lacks_threads

__all__ = [
    "JSON",
    "Say",
    "bare_error",
    "encode_json",
    "error_body",
    "error_fields",
    "error_response",
    "json_bytes",
    "json_response",
    "not_found",
    "plain_json",
    "status_of",
    "utf8",
    "want_of",
    "wrong_method",
]

JSON = b"application/json; charset=utf-8"
Say = Callable[[errors.SandkeeperError], str]
_encoder = msgspec.json.Encoder(decimal_format="number")

STATUS: dict[type[errors.SandkeeperError], int] = {
    errors.BadInput: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    errors.Misdirected: 421,
    errors.Unprocessable: 422,
    errors.TooMany: 429,
    errors.Internal: 500,
    errors.NotInstalled: 501,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.LoopDetected: 508,
}


def status_of(error: errors.SandkeeperError) -> int:
    """Return the HTTP status of an error: its class's, or its nearest ancestor's."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def utf8(text: str) -> str:
    """Replace what UTF-8 cannot carry (the surrogates of undecodable file names) by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


def encode_json(value: Any) -> bytes:
    """Encode as the reference does: compact, `< > &` and line breaks of Unicode as escapes.

    Those stand only inside strings, so replacing them in the finished text is exact.
    """
    data = in_one_line(_encoder.encode(value))
    if b"<" in data or b">" in data or b"&" in data:
        data = data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return data


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return json_bytes(encode_json(value), status, headers)


def plain_json(value: Any, status: int = 200) -> Response:
    """Answer with JSON as wires other than the contract's write it."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def json_bytes(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON that is made already."""
    return Response(data, status, headers, media_type=JSON.decode())


def error_fields(error: errors.SandkeeperError, say: Say = str) -> dict[str, Any]:
    """Return what is told of an error: `error`, and `code` and further fields where it has them.

    `say` puts it into the words of a wire.
    """
    code = {"code": error.code} if error.code else {}
    return {"error": utf8(say(error)), **code, **error.details}


def error_body(error: errors.SandkeeperError, say: Say = str) -> bytes:
    """Write `{"error": …}`, with `code` where the error carries one."""
    return encode_json(error_fields(error, say))


def error_response(error: errors.SandkeeperError, say: Say = str) -> Response:
    """Answer with an error."""
    return Response(error_body(error, say), status_of(error), media_type=JSON.decode())


def not_found() -> Response:
    """Answer as for any unknown route: plain text, by which clients tell an older server."""
    return Response(b"404 page not found", 404, {"Content-Type": "text/plain"})


def wrong_method(method: str, allowed: Iterable[str]) -> Response:
    """Answer a method that a path does not take."""
    body = encode_json({"error": f"{method} is not a method of this path"})
    headers = {"Allow": ", ".join(sorted(allowed))}
    return Response(body, 405, headers, media_type=JSON.decode())


def bare_error(status: int, text: str) -> bytes:
    """Write the whole answer to a request that no application sees; the connection ends with it."""
    body = encode_json({"error": text})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/json; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


def want_of(error: Exception) -> str:
    """Return what was lacking where something failed for want of it; empty: another reason."""
    if lacks_threads(error):
        return NO_THREAD
    return "no file descriptor is free: try again" if lacks_descriptors(error) else ""
