"""Fuzzy scores of paths: the scoring of fzf's v2 algorithm with its scheme for paths.

A candidate matches when it holds the characters of the query in order. Its score is that of the
best alignment: +16 for each matched character, −3 for the first character of a gap and −1 for each
further one (never below 0), and a bonus for where a character stands:

====================================  =====
after `/`, or at the start                9
after another separator (`_`, `-`, …)     8
a separator itself                        8
upper after lower case, first digit       7
directly after the last match         ≥   4
====================================  =====

The first character's bonus counts twice; characters that follow each other directly have at least
the bonus of the first of them. Letters match in either case unless the query has an upper-case
letter; accents in a candidate are ignored.

The matrix of that algorithm is computed only where characters match: between two matches a row
only falls by the gap's cost, so its value there follows from the match before.
"""

import unicodedata
from functools import lru_cache
from typing import NamedTuple

__all__ = ["MAX_QUERY", "FuzzyPattern"]

MAX_QUERY = 256
MATCH = 16
GAP_START = 3
GAP_EXTENSION = 1
BOUNDARY = 8
AFTER_SLASH = 9
CAMEL = 7
CONSECUTIVE = 4

_SPACE, _OTHER, _SLASH, _LOWER, _UPPER, _LETTER, _DIGIT = range(7)


class _Cell(NamedTuple):
    """One match in a row: where, its score, the length of its run, whether a gap scored better."""

    at: int
    score: int
    run: int
    in_gap: bool

    def after(self, distance: int) -> int:
        """Return the row's value `distance` characters further on."""
        cost = (GAP_EXTENSION if self.in_gap else GAP_START) + (distance - 1) * GAP_EXTENSION
        return max(0, self.score - cost)


class FuzzyPattern:
    """A query to score candidates with."""

    def __init__(self, query: str) -> None:
        self._cased = any(char.isupper() for char in query)
        self._plain = query.isascii()
        self._query = query if self._cased else "".join(map(_lower, query))

    @property
    def best(self) -> int:
        """No candidate scores more than this."""
        return len(self._query) * (MATCH + AFTER_SLASH) + AFTER_SLASH

    def best_for(self, folded: str) -> int:
        """Return a bound of the score of a folded candidate, much cheaper than the score."""
        return self.best if self._query in folded else self.best - GAP_START

    def fold(self, text: str) -> str:
        """Give `text` the form in which it is compared; its length stays."""
        if text.isascii():
            return text if self._cased else text.lower()
        folded = "".join(map(_base, text)) if self._plain else text
        return folded if self._cased else "".join(map(_lower, folded))

    def firsts(self, folded: str) -> list[int] | None:
        """Return where each character of the query can match first; None without a match."""
        found: list[int] = []
        position = -1
        for char in self._query:
            position = folded.find(char, position + 1)
            if position < 0:
                return None
            found.append(position)
        return found

    def score(self, text: str) -> int | None:
        """Score one candidate; None when it does not match."""
        folded = self.fold(text)
        firsts = self.firsts(folded)
        return None if firsts is None else self.score_at(text, folded, firsts)

    def score_at(self, text: str, folded: str, firsts: list[int]) -> int:
        """Score a candidate of which `fold` and `firsts` are known already."""
        last = folded.rfind(self._query[-1])
        row: list[_Cell] = []
        for index, char in enumerate(self._query):
            places = _places(folded, char, firsts[index], last)
            row = _next_row(text, places, row) if index else _first_row(text, places)
        return max(cell.score for cell in row)


def _places(folded: str, char: str, first: int, last: int) -> list[int]:
    places = [first]
    while 0 <= (first := folded.find(char, first + 1)) <= last:
        places.append(first)
    return places


def _first_row(text: str, places: list[int]) -> list[_Cell]:
    """Score the query's first character; unlike in later rows, a match always counts."""
    return [_Cell(at, MATCH + 2 * _bonus(text, at), 1, False) for at in places]


def _next_row(text: str, places: list[int], above: list[_Cell]) -> list[_Cell]:
    row: list[_Cell] = []
    index = -1
    for at in places:
        while index + 1 < len(above) and above[index + 1].at < at:
            index += 1
        before = above[index] if index >= 0 else None
        row.append(_cell(text, at, before, row[-1] if row else None))
    return row


def _cell(text: str, at: int, before: _Cell | None, left: _Cell | None) -> _Cell:
    """Score a match at `at`: `before` is the last match above, `left` the last in this row."""
    gap = left.after(at - left.at) if left else 0
    diagonal, run = 0, 1
    if before is not None:
        adjacent = before.at == at - 1
        diagonal = before.score if adjacent else before.after(at - 1 - before.at)
        run = before.run + 1 if adjacent else 1
    own = bonus = _bonus(text, at)
    if run > 1:
        opening = _bonus(text, at - run + 1)
        if bonus >= BOUNDARY and bonus > opening:
            run = 1
        else:
            bonus = max(bonus, opening, CONSECUTIVE)
    score = diagonal + MATCH
    if score + bonus < gap:
        score, run = score + own, 0
    else:
        score += bonus
    return _Cell(at, max(score, gap), run, score < gap)


def _bonus(text: str, at: int) -> int:
    return _bonus_of(text[at - 1] if at else "/", text[at])


@lru_cache(maxsize=16384)
def _bonus_of(before: str, char: str) -> int:
    previous, kind = _kind(before), _kind(char)
    if kind > _OTHER and previous <= _SLASH:
        return AFTER_SLASH if previous == _SLASH else BOUNDARY
    if (previous == _LOWER and kind == _UPPER) or (previous != _DIGIT and kind == _DIGIT):
        return CAMEL
    return BOUNDARY if kind <= _SLASH else 0


def _kind(char: str) -> int:
    if char == "/":
        return _SLASH
    if char.isspace():
        return _SPACE
    if char.islower():
        return _LOWER
    if char.isupper():
        return _UPPER
    if char.isnumeric():
        return _DIGIT
    return _LETTER if char.isalpha() else _OTHER


@lru_cache(maxsize=4096)
def _lower(char: str) -> str:
    lowered = char.lower()
    return lowered if len(lowered) == 1 else char


@lru_cache(maxsize=4096)
def _base(char: str) -> str:
    """Return the ASCII letter under an accent, else the character itself."""
    base = unicodedata.normalize("NFD", char)[0]
    return base if base.isascii() else char
