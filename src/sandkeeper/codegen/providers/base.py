"""What a provider is, and what it may honestly say."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from sandkeeper.linux.children.children import Children
from sandkeeper.numerals import decimal
from sandkeeper.settings import Environment

__all__ = ["Document", "Host", "Provider", "Ranking", "scored", "timeout_of", "within_tokens"]

DEFAULT_SECONDS = 60.0
CHARACTERS_PER_TOKEN = 4
"""A common estimate; only Relace counts with a real tokeniser, on its side."""

Ranking = list[tuple[int, float]]
"""Positions in the list of documents with their scores, best first."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file to rank: its path as the caller will see it, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """What a provider may use: the live environment, and helper programs."""

    environment: Environment
    children: Children


class Provider(Protocol):
    """Computes edits and rankings; both raise Unprocessable with a text for the caller."""

    @property
    def name(self) -> str:
        """What the reply calls this provider."""

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when the environment has what this provider needs."""

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Return `original` with `edit` merged in."""

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank the documents; the ranked ones together have about `token_limit` tokens."""


def timeout_of(host: Host) -> float:
    """Read `SANDKEEPER_CODEGEN_TIMEOUT` (seconds, 60), the time one answer may take."""
    seconds = decimal(host.environment.get("SANDKEEPER_CODEGEN_TIMEOUT").strip()) or 0.0
    return seconds if 0 < seconds < math.inf else DEFAULT_SECONDS


def scored(pairs: Iterable[tuple[Any, Any]], count: int) -> Ranking:
    """Keep what a provider may honestly say: each of `count` documents once, a finite score."""
    seen: set[int] = set()
    kept: Ranking = []
    for index, score in pairs:
        if type(index) is not int or not 0 <= index < count or index in seen:
            continue
        if isinstance(score, bool) or not isinstance(score, int | float):
            continue
        if math.isfinite(score):
            seen.add(index)
            kept.append((index, float(score)))
    return kept


def within_tokens(ranking: Ranking, documents: Sequence[Document], token_limit: int) -> Ranking:
    """Keep the best that fit into about `token_limit` tokens together."""
    room = token_limit * CHARACTERS_PER_TOKEN
    kept: Ranking = []
    for index, score in ranking:
        size = len(documents[index].text)
        if size <= room:
            room -= size
            kept.append((index, score))
    return kept
