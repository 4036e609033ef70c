"""Globs on base names, as Go's path.Match has them: `*`, `?`, `[a-z]`, `[^a]`, `\\` escapes."""

import re
from collections.abc import Callable, Iterable

__all__ = ["name_matcher"]

_CLASS = re.compile(r"\[(\^?)((?:\\.|[^]\\])+)\]", re.DOTALL)


def name_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Make a test for names; no pattern lets all pass, a malformed one lets none."""
    given = list(patterns)
    if not given:
        return lambda _name: True
    compiled = [made for pattern in given if (made := _compile(pattern)) is not None]
    return lambda name: any(pattern.fullmatch(name) for pattern in compiled)


def _compile(pattern: str) -> re.Pattern[str] | None:
    text = ""
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            text += "" if text.endswith(".*") else ".*"
        elif char == "?":
            text += "."
        elif char == "[":
            found = re.compile(r"\[(\^?)((?:\\.|[^]\\])+)\]", re.DOTALL).match(
                pattern, position - 1
            )
            if found is None:
                return None
            inside = re.sub(r"\\(.)|([\[&~|])", lambda m: re.escape(m[1] or m[2]), found[2])
            text += f"[{found[1]}{inside}]"
            position = found.end()
        elif char == "\\":
            if position == len(pattern):
                return None
            text += re.escape(pattern[position])
            position += 1
        else:
            text += re.escape(char)
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        return None
