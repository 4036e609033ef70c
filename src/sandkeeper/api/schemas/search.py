"""Wire structs of the searches; `total` is how many matches the reply has."""

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "ContentMatch",
    "ContentSearchResponse",
    "FindMatch",
    "FindResponse",
    "FuzzyMatch",
    "FuzzySearchResponse",
]


class FindMatch(Struct):
    """A path below the searched directory; `type` is `file` or `directory`."""

    path: str
    type: str


class FindResponse(Struct):
    """Answer of /filesystem-find."""

    matches: list[FindMatch]
    total: int


class FuzzyMatch(Struct):
    """A path and how well it matches."""

    path: str
    score: int
    type: str


class FuzzySearchResponse(Struct):
    """Answer of /filesystem-search, best first."""

    matches: list[FuzzyMatch]
    total: int


class ContentMatch(Struct):
    """The first hit of a line; `line` and the byte `column` count from 1."""

    path: str
    line: int
    column: int
    text: str
    context: str | UnsetType = UNSET


class ContentSearchResponse(Struct):
    """Answer of /filesystem-content-search."""

    query: str
    matches: list[ContentMatch]
    total: int
