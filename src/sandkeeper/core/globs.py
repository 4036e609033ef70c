"""Patterns on base names, by the rules of Go's path.Match: `*`, `?`, `[…]`, `\\`.

There are no `**`, braces or `[!…]`. A malformed pattern (an unclosed or empty class, a backslash at
the end) matches nothing.
"""

import os
import re
from collections.abc import Callable, Iterable

__all__ = ["Matcher", "any_of", "everything", "matcher", "simple"]

Matcher = Callable[[bytes], bool]
"""Says whether a base name, as the kernel gives it, matches."""

_PLAIN = re.compile(r"[^*?\[\]\\]+")
_STARRED = re.compile(r"(\*?)([^*?\[\]\\]+)(\*?)")


class _Malformed(Exception):
    pass


def matcher(pattern: str) -> Matcher:
    """Compile one pattern."""
    try:
        os.fsencode(pattern)
    except UnicodeEncodeError:  # half of a surrogate pair: no name has one
        return lambda _name: False
    if _PLAIN.fullmatch(pattern):
        whole = os.fsencode(pattern)
        return lambda name: name == whole
    if starred := _STARRED.fullmatch(pattern):
        part = os.fsencode(starred[2])
        if starred[1] and starred[3]:
            return lambda name: part in name
        return (
            (lambda name: name.endswith(part))
            if starred[1]
            else (lambda name: name.startswith(part))
        )
    try:
        match = re.compile(_translate(pattern), re.DOTALL).fullmatch
    except _Malformed:
        return lambda _name: False
    return lambda name: match(os.fsdecode(name)) is not None


def any_of(patterns: Iterable[str]) -> Matcher | None:
    """Compile patterns of which one must match; None when there are none."""
    made = [matcher(pattern) for pattern in patterns]
    if not made:
        return None
    if len(made) == 1:
        return made[0]
    return lambda name: any(match(name) for match in made)


def everything(patterns: Iterable[str]) -> bool:
    """Say whether one of the patterns matches any name."""
    return any(pattern and not pattern.strip("*") for pattern in patterns)


def simple(pattern: str) -> bool:
    """Say whether every glob dialect reads `pattern` as this one does."""
    return (
        re.fullmatch(r"[\w.*?-][\w.*? -]*", pattern, re.ASCII) is not None and "**" not in pattern
    )


def _translate(pattern: str) -> str:
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            if out[-1:] != [".*"]:  # a run of stars would only multiply backtracking
                out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[":
            position, part = _class(pattern, position)
            out.append(part)
        else:
            if char == "\\":
                position, char = _escaped(pattern, position - 1)
            out.append(re.escape(char))
    return "".join(out)


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
