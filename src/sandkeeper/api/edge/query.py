"""The query of a request, as Go's net/url reads it: the first value of a name counts.

A pair that holds `;` or an escape that is none is dropped, as if it were not there.
"""

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import HTTPConnection
from starlette.types import Scope

from sandkeeper.errors import BadInput
from sandkeeper.numerals import decimal
from sandkeeper.patterns import pattern

__all__ = ["Query", "query_of", "since_of"]

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_BAD = pattern(rb"%(?![0-9A-Fa-f]{2})|;")


class Query(ImmutableMultiDict[str, str]):
    """Names and values in their order."""

    def __init__(self, line: bytes) -> None:
        super().__init__(list(_pairs(line)))
        self._dict = dict(reversed(self._list))

    def flag(self, name: str, default: bool = False) -> bool:
        """Say whether a field is on, `default` where it is empty or not there.

        Raises BadInput for what is neither true nor false. Where the contract says that any other
        word is taken as false, its routes compare for themselves.
        """
        text = self.get(name, "")
        if text and text not in _FLAGS:
            raise BadInput(f"invalid {name}: {text[:64]!r} is neither true nor false")
        return _FLAGS.get(text, default)


def query_of(request: HTTPConnection | Scope) -> Query:
    """Return the query of a request or a WebSocket."""
    scope = request.scope if isinstance(request, HTTPConnection) else request
    return Query(scope["query_string"])


def since_of(request: HTTPConnection) -> float:
    """Return the time of `since` in Unix seconds, 0 without; raises BadInput."""
    text = query_of(request).get("since", "")
    since = decimal(text) if text else 0.0
    if since is None:
        raise BadInput("invalid since: give Unix seconds")
    return since


def _pairs(line: bytes) -> Iterator[tuple[str, str]]:
    for part in line.split(b"&"):
        if part and not _BAD.search(part):
            name, _, value = part.partition(b"=")
            yield _decoded(name), _decoded(value)


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")
