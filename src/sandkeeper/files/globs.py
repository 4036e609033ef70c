"""Globs, the one definition of them: patterns on base names, and patterns on paths.

On base names they are those of Go's path.Match: `*`, `?`, `[a-z]`, `[^a]`, `\\` before any
character. There are no `**`, braces or `[!…]`. A malformed pattern (an unclosed or empty class, a
`-` where a member should stand, a backslash at the end) matches nothing. Two things differ from
Go: a character that is more than one byte is never split by a `*` (Go's `*??` matches `é`), and a
byte that is not UTF-8 is a character of its own, unlike any other.

Any pattern costs at most as many steps as its length times the name's: each `*` stands for as
little as lets what follows it match, and that choice is never taken back, which is also how Go
reads it. Taking it back would not help: what a later part can match from here on it can match
from further left as well. Only the last part must reach the end.
"""

import os
import re
from collections.abc import Callable, Iterable
from functools import partial

from sandkeeper.errors import BadInput
from sandkeeper.linux.worker import Turn

__all__ = ["MAX_CHARACTERS", "Matcher", "any_of", "everything", "matcher", "path_pattern", "simple"]

Matcher = Callable[[bytes], bool]
"""Says whether a base name, as the kernel gives it, matches."""

MAX_CHARACTERS = 4096
"""Of all patterns of one question together: with names of 255 bytes that is a millisecond each."""

_LONG = 64
"""From so many characters on a match may take longer than to hand a turn on does."""

_turn = Turn()
"""Of the threads that match long patterns one does: each keeps the interpreter for a match."""

_PLAIN = re.compile(r"[^*?\[\]\\]+")
_STARRED = re.compile(r"(\*?)([^*?\[\]\\]+)(\*?)")


class _Malformed(Exception):
    pass


class _Any:
    """Patterns of which one must match: by far the most are a name, a beginning or an end."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: set[bytes] = set()
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        self._parts: list[bytes] = []
        self._others: list[str] = []
        for pattern in patterns:
            self._add(pattern)
        self._pattern = re.compile("|".join(self._others), re.DOTALL) if self._others else None

    def _add(self, pattern: str) -> None:
        try:
            os.fsencode(pattern)
        except UnicodeEncodeError:  # half of a surrogate pair: no name has one
            return
        if _PLAIN.fullmatch(pattern):
            self._names.add(os.fsencode(pattern))
        elif starred := _STARRED.fullmatch(pattern):
            behind = self._starts if not starred[1] else self._ends
            (self._parts if starred[1] and starred[3] else behind).append(os.fsencode(starred[2]))
        else:
            try:
                self._others.append(_translate(pattern))
            except _Malformed:
                return

    def tests(self) -> list[Matcher]:
        """Return one test for each kind there is."""
        tests: list[Matcher] = []
        if len(self._names) == 1:
            (whole,) = self._names
            tests.append(lambda name: name == whole)
        elif self._names:
            tests.append(self._names.__contains__)
        if self._ends:
            ends = self._ends[0] if len(self._ends) == 1 else tuple(self._ends)
            tests.append(lambda name: name.endswith(ends))
        if self._starts:
            starts = self._starts[0] if len(self._starts) == 1 else tuple(self._starts)
            tests.append(lambda name: name.startswith(starts))
        tests += map(_within, self._parts)
        if self._pattern is not None:
            match = self._pattern.fullmatch
            long = sum(map(len, self._others)) >= _LONG
            tests.append(
                partial(_in_turn, match)
                if long
                else lambda name: match(os.fsdecode(name)) is not None
            )
        return tests


def matcher(pattern: str) -> Matcher:
    """Compile one pattern; raises BadInput for one of more than MAX_CHARACTERS."""
    return any_of([pattern]) or _nothing


def any_of(patterns: Iterable[str]) -> Matcher | None:
    """Compile patterns of which one must match; None when there are none.

    Raises BadInput for more than MAX_CHARACTERS in all.
    """
    given = list(patterns)
    if not given:
        return None
    if sum(map(len, given)) > MAX_CHARACTERS:
        raise BadInput(f"patterns of more than {MAX_CHARACTERS} characters in all")
    tests = _Any(given).tests()
    if len(tests) <= 1:
        return tests[0] if tests else _nothing
    return lambda name: any(test(name) for test in tests)


def everything(patterns: Iterable[str]) -> bool:
    """Say whether one of the patterns matches any name."""
    return any(pattern and not pattern.strip("*") for pattern in patterns)


def simple(pattern: str) -> bool:
    """Say whether every glob dialect reads `pattern` as this one does."""
    return (
        re.fullmatch(r"[\w.*?-][\w.*? -]*", pattern, re.ASCII) is not None and "**" not in pattern
    )


def path_pattern(glob: str) -> str:
    """Return RE2 for a glob on whole paths: `**` crosses slashes, `*` and `?` do not.

    Everything else stands for itself. RE2 never goes back, whatever the pattern.
    """
    out = []
    for piece in re.split(r"(\*\*/?|\*|\?)", glob):
        if piece.startswith("**"):
            out.append(".*")
        elif piece in {"*", "?"}:
            out.append({"*": "[^/]*", "?": "[^/]"}[piece])
        else:
            out.append(re.escape(piece))
    return "".join(out)


def _nothing(_name: bytes) -> bool:
    return False


def _in_turn(match: Callable[[str], object], name: bytes) -> bool:
    with _turn:
        return match(os.fsdecode(name)) is not None


def _within(part: bytes) -> Matcher:
    return lambda name: part in name


def _translate(pattern: str) -> str:
    """Write a pattern for Python's `re`: what is between two stars is a group never reopened."""
    parts: list[list[str]] = [[]]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            if parts[-1] or len(parts) == 1:
                parts.append([])
        elif char == "?":
            parts[-1].append(".")
        elif char == "[":
            position, part = _class(pattern, position)
            parts[-1].append(part)
        else:
            if char == "\\":
                position, char = _escaped(pattern, position - 1)
            parts[-1].append(re.escape(char))
    first, *others = map("".join, parts)
    if not others:
        return first
    *between, last = others
    return first + "".join(f"(?>.*?{part})" for part in between) + ".*" + last


def _class(pattern: str, position: int) -> tuple[int, str]:
    """Translate what follows a `[`; returns the position after the closing bracket."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    count = 0
    while True:
        if pattern[position : position + 1] == "]" and count:
            break
        position, low = _member(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            position, high = _member(pattern, position + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        count += 1
    body = "".join(ranges)
    if not body:  # only ranges that run backwards
        return position + 1, "." if negated else r"(?!)"
    return position + 1, f"[{'^' if negated else ''}{body}]"


def _member(pattern: str, position: int) -> tuple[int, str]:
    if position >= len(pattern) or pattern[position] in "-]":
        raise _Malformed
    if pattern[position] == "\\":
        return _escaped(pattern, position)
    return position + 1, pattern[position]


def _escaped(pattern: str, position: int) -> tuple[int, str]:
    if position + 1 >= len(pattern):
        raise _Malformed
    return position + 2, pattern[position + 1]
