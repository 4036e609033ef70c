"""The short way for plain requests: from the parsed head to the bytes of the answer in one pass.

Most requests of agents are small and can be answered at once: a look at a process, a list, a small
file. What makes them slow elsewhere is not the work but the way: a task, a chain of layers that
each wrap `send`, objects for request and response. So a route may bring, beside its handler, a
function that answers without waiting for anything. `Edge` asks the same gate and the same tokens
before it as for every other request, and the same counters and log lines follow.

Whatever is not plain goes the long way: that function returns None as soon as it sees something
that it does not know, and has done nothing until then.
"""

from asyncio import Future
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from sandkeeper.api.edge.connections.newline import SHELL_CLIENTS
from sandkeeper.api.edge.cors import Cors
from sandkeeper.api.edge.respond import JSON, Say, error_body, status_of
from sandkeeper.api.edge.subject import names_user, request_id
from sandkeeper.errors import SandkeeperError
from sandkeeper.patterns import pattern

__all__ = [
    "PLAIN_BYTES",
    "Early",
    "Heads",
    "Later",
    "Parts",
    "Plain",
    "PlainAnswer",
    "PlainRoutes",
    "answered",
    "may_be_plain",
    "plain_error",
    "plain_of",
    "timing",
]

Field = tuple[bytes, bytes]
Parts = tuple[bytes, bytes]
"""A whole answer: its first line, and all behind the fields that every server adds."""
_PRINTABLE = pattern(rb"[ -~]*")

PLAIN_BYTES = 64 << 10
"""An answer of this size fits into what a connection buffers anyway, and is made in no time."""


class PlainAnswer(msgspec.Struct):
    """An answer in JSON that is all there; `fields` are further lines of its head."""

    body: bytes
    status: int = 200
    fields: bytes = b""


Later = Coroutine[Any, Any, PlainAnswer | None]
"""None: after all it goes the long way, and how far it is stands in its scope."""
Early = Callable[[Callable[[PlainAnswer], None]], "Future[PlainAnswer]"]
"""Has a thread make the answer, which gives it as well: its client need not wait for the loop."""
Plain = Callable[[Scope, bytes], PlainAnswer | Later | Early | None]
"""Gets a request and its whole body; raises SandkeeperError; None: it goes the long way.

What it returns to be awaited goes on to its end, whether or not the client is still there.
"""


def plain_of(made: BaseRoute) -> Plain | None:
    """Return the plain function of a route, if it has one."""
    found: Plain | None = getattr(made, "plain", None)
    return found


class PlainRoutes:
    """Finds the plain function of a request by its method and the shape of its path.

    It is found only where no other route could match as well: paths with an escape or an empty
    segment are for the long way.
    """

    def __init__(self) -> None:
        self._exact: dict[tuple[str, int, bytes], Plain] = {}
        self._below: dict[tuple[str, bytes], tuple[Plain, tuple[bytes, ...]]] = {}

    def add(self, routes: Iterable[BaseRoute]) -> None:
        """Take up the routes of an area, in the order in which they are tried."""
        known = [made for made in routes if isinstance(made, Route)]
        for place, made in enumerate(known):
            plain = plain_of(made)
            if plain is None:
                continue
            for method in made.methods or ():
                if getattr(made, "below", False):
                    earlier = tuple(
                        one.path.encode()
                        for one in known[:place]
                        if method in (one.methods or ()) and one.path.startswith(made.path)
                    )
                    self._below[method, made.path[1:].encode()] = plain, earlier
                elif _is_alone(made, known, method):
                    first, count = made.path[1:].partition("/")[0], made.path.count("/")
                    self._exact[method, count, first.encode()] = plain

    def find(self, scope: Scope) -> Plain | None:
        """Return what may answer a request."""
        if scope["query_string"] and names_user(scope):
            return None
        raw: bytes = scope["raw_path"]
        first, slash, rest = raw[1:].partition(b"/")
        below = self._below.get((scope["method"], first))
        if below is not None and slash:
            return None if raw.startswith(below[1]) else below[0]
        if b"%" in raw or (slash and (not rest or b"//" in raw or rest.endswith(b"/"))):
            return None
        return self._exact.get((scope["method"], raw.count(b"/"), first))


def answered(
    plain: Plain, scope: Scope, body: bytes, say: Say
) -> PlainAnswer | Later | Early | None:
    """Return the answer of a plain function, or of its error; None: it goes the long way."""
    try:
        answer = plain(scope, body)
    except SandkeeperError as error:
        return plain_error(error, say)
    except Exception:  # noqa: BLE001 - the long way comes to it again, and tells it
        return None
    if isinstance(answer, PlainAnswer) and len(answer.body) > PLAIN_BYTES:
        return None
    return answer


def plain_error(error: SandkeeperError, say: Say) -> PlainAnswer:
    """Return what an error is answered with."""
    return PlainAnswer(error_body(error, say), status_of(error))


def may_be_plain(fields: Mapping[bytes, bytes]) -> bool:
    """Say whether the body of a request is as it came, and its answer has a head of `Heads`."""
    if b"content-encoding" in fields or b"origin" in fields:
        return False
    if fields.get(b"user-agent", b"").startswith(SHELL_CLIENTS):
        return False
    named = fields.get(b"x-request-id")
    return named is None or _PRINTABLE.fullmatch(named) is not None


class Heads:
    """Writes the heads of plain answers to whoever is no page of another origin."""

    def __init__(self, cors: Cors, common: Sequence[Field], *, processing_time: bool) -> None:
        nobody: Scope = {"headers": []}
        self._common = b"".join(map(_line, (*cors.response(nobody), *common)))
        self._processing_time = processing_time
        self._first: dict[int, bytes] = {}

    def of(self, scope: Scope, answer: PlainAnswer, started: float) -> Parts:
        """Return the whole answer in two parts: its first line, and all but what servers add."""
        extra = answer.fields
        if self._processing_time:
            extra += _line((b"server-timing", timing((perf_counter() - started) * 1000)))
        first = self._first.get(answer.status) or self._begin(answer.status)
        return first, b"%bcontent-length: %d\r\n%bx-request-id: %b\r\n%b\r\n%b" % (
            _TYPE,
            len(answer.body),
            extra,
            request_id(scope).encode("latin-1"),
            self._common,
            answer.body,
        )

    def _begin(self, status: int) -> bytes:
        words = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        made = self._first[status] = words.encode()
        return made


def _line(field: Field) -> bytes:
    return b"%b: %b\r\n" % field


_TYPE = _line((b"content-type", JSON))


def timing(milliseconds: float) -> bytes:
    """Return the value of Server-Timing."""
    text = f'total;dur={milliseconds:.2f};desc="Processing time of the Sandbox API request"'
    return text.encode()


def _is_alone(made: Route, routes: Iterable[Route], method: str) -> bool:
    """Say whether every path of a route's first segment and length is this route's."""
    first, _, rest = made.path[1:].partition("/")
    if any(not part.startswith("{") for part in rest.split("/") if part):
        return False
    same = [
        one
        for one in routes
        if method in (one.methods or ())
        and one.path.count("/") == made.path.count("/")
        and one.path[1:].partition("/")[0] == first
    ]
    return same == [made]
