"""Merging an edit with `... existing code ...` markers into a file by rule. Pure functions.

An edit is made of fragments between markers. A marker stands for all lines of the file between
what the neighbouring fragments are anchored to, and those lines stay. A fragment is anchored by
lines it shares with the file: from its first line on (its head), from its last line backwards (its
tail), or both; what lies between head and tail in the file is replaced by what lies between them
in the fragment. A fragment anchored on one side only adds lines there.

Where more than one place fits, or where it is open whether old lines should stay, the edit is
refused: the caller adds a line of context, and nothing was guessed.

- A head or tail is lengthened until one place is left.
- Of several tails, the one counts that closes the block which the head opens (the same
  indentation, only deeper lines between).
- One line that old and new code may share by chance (a bracket, a `return`) is no tail.
- Lines added below a head that is less indented than they are might replace the block's body: they
  need a tail, or a marker indented like them that says the body stays.
- Without a marker in front, the fragment must begin where the file begins; without one behind, it
  must end where the file ends. Lines that share nothing with the file are put there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sandkeeper.errors import Unprocessable

__all__ = ["merge"]

_MARKER = re.compile(
    r"[^\w.…]*+(?:rem\s++|dnl\s++)?(?:\.{3,}+|…)\s*+(?:the\s++)?(?:existing|unchanged)\s++code\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w")
MAX_MARKERS = 500
MAX_LINES = 1_000_000
MAX_COMPARED = 50_000_000
INDENT = 4096
MARKER_TEXT = "... existing code ..."


@dataclass(slots=True)
class _Fragment:
    """Lines between two markers; `before` and `after` are the markers' lines, if there are any."""

    lines: list[str]
    before: str | None
    after: str | None
    number: int
    keys: list[str]
    """The lines as they are compared: blanks at the end of a line mean nothing."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Lines `start` to `end` (exclusive) of the file become `lines`."""

    start: int
    end: int
    lines: list[str]


def merge(original: str, edit: str) -> str:
    """Return `original` with `edit` merged in; raises Unprocessable when it is ambiguous.

    A file without content takes an edit without markers as it is.
    """
    if not original.strip():
        if any(_MARKER.match(line) for line in edit.splitlines()):
            raise Unprocessable(f"the file is empty, so '{MARKER_TEXT}' stands for nothing")
        return edit
    if max(original.count("\n"), edit.count("\n")) > MAX_LINES:
        raise Unprocessable(f"the file or the edit has more than {MAX_LINES} lines")
    newline = "\r\n" if "\r\n" in original else "\n"
    lines = original.replace("\r\n", "\n").split("\n")
    ends_with_newline = lines[-1] == ""
    if ends_with_newline:
        lines.pop()
    keys = [line.rstrip() for line in lines]
    fragments = _fragments(edit)
    if len(keys) * len(fragments) > MAX_COMPARED:
        raise Unprocessable("the file has too many lines for an edit of so many fragments")
    for change in reversed(_changes(keys, fragments)):
        lines[change.start : change.end] = change.lines
    merged = newline.join(lines)
    return merged + newline if ends_with_newline else merged


def _fragments(edit: str) -> list[_Fragment]:
    pieces: list[list[str]] = [[]]
    markers: list[str] = []
    for line in edit.replace("\r\n", "\n").split("\n"):
        if _MARKER.match(line):
            markers.append(line)
            pieces.append([])
        else:
            pieces[-1].append(line.rstrip("\r"))
    if not markers:
        raise Unprocessable(
            f"the edit has no '{MARKER_TEXT}' line: it would replace the whole file; write the "
            "file instead, or mark what stays"
        )
    if len(markers) > MAX_MARKERS:
        raise Unprocessable(f"the edit has more than {MAX_MARKERS} markers")
    bounds: list[str | None] = [None, *markers, None]
    return [
        _Fragment(
            trimmed,
            bounds[index],
            bounds[index + 1],
            index + 1,
            [line.rstrip() for line in trimmed],
        )
        for index, piece in enumerate(pieces)
        if (trimmed := _trimmed(piece))
    ]


def _trimmed(lines: list[str]) -> list[str]:
    """Drop blank lines at both ends: next to a marker they are decoration."""
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _changes(lines: list[str], fragments: Sequence[_Fragment]) -> list[_Change]:
    changes: list[_Change] = []
    cursor = 0
    for fragment in fragments:
        change = _place(lines, fragment, cursor)
        cursor = change.end
        changes.append(change)
    return changes


def _place(lines: list[str], fragment: _Fragment, cursor: int) -> _Change:
    wanted = fragment.lines
    head = _head(lines, fragment, cursor)
    tail = _tail(lines, fragment, cursor, head)
    if fragment.before is None:
        return _at_the_start(lines, fragment, head, tail)
    if fragment.after is None:
        return _at_the_end(lines, fragment, head, tail)
    if head is None and tail is None:
        raise _refused(fragment, "none of its outer lines occurs in the file once")
    if head is None:
        assert tail is not None
        return _Change(tail[0], tail[1], wanted)
    if tail is None:
        _refuse_open_block(fragment, head)
        return _Change(head[0], head[1], wanted)
    _refuse_chance_match(lines, fragment, head, tail)
    return _Change(head[0], tail[1], wanted)


Span = tuple[int, int]
"""Lines of the file, start and end (exclusive), that equal the head or the tail of a fragment."""


def _head(lines: list[str], fragment: _Fragment, cursor: int) -> Span | None:
    """Find where the fragment begins, or None when its first line is a new one."""
    wanted = fragment.keys
    places = [at for at in range(cursor, len(lines)) if lines[at] == wanted[0]]
    if fragment.before is None:
        places = [at for at in places if at == _first_line(lines)] or places
    length = 1
    while len(places) > 1 and length < len(wanted):
        longer = [
            at for at in places if at + length < len(lines) and lines[at + length] == wanted[length]
        ]
        if not longer:
            break
        places, length = longer, length + 1
    if len(places) > 1:
        raise _refused(fragment, f"its first line {wanted[0].strip()!r} fits more than one place")
    return _grown(lines, wanted, places[0]) if places else None


def _grown(lines: list[str], wanted: list[str], at: int) -> Span:
    end = at
    while end < len(lines) and end - at < len(wanted) and lines[end] == wanted[end - at]:
        end += 1
    return at, end


def _tail(lines: list[str], fragment: _Fragment, cursor: int, head: Span | None) -> Span | None:
    """Find where the fragment ends, or None when its last line is a new one."""
    wanted = fragment.keys
    if head is not None and head[1] - head[0] == len(wanted):
        return head
    first = head[1] if head else cursor
    room = len(wanted) - (head[1] - head[0] if head else 0)
    places = [at for at in range(first, len(lines)) if lines[at] == wanted[-1]]
    length = 1
    while len(places) > 1 and length < room:
        longer = [
            at
            for at in places
            if at - length >= first and lines[at - length] == wanted[-1 - length]
        ]
        if not longer:
            break
        places, length = longer, length + 1
    if fragment.after is None:
        places = [at for at in places if at == _last_line(lines)] or places
    if len(places) > 1 and head is not None:
        places = _closing(lines, head, places) or places
    if len(places) > 1:
        raise _refused(fragment, f"its last line {wanted[-1].strip()!r} fits more than one place")
    return (max(first, places[0] - length + 1), places[0] + 1) if places else None


def _closing(lines: list[str], head: Span, places: list[int]) -> list[int]:
    """Keep the place that closes the block opened by the head's first line."""
    depth = _indent(lines[head[0]])
    nearest = places[0]
    between = lines[head[0] + 1 : nearest]
    closes = _indent(lines[nearest]) == depth
    if closes and all(_indent(line) > depth for line in between if line.strip()):
        return [nearest]
    return []


def _refuse_open_block(fragment: _Fragment, head: Span) -> None:
    """Refuse lines added into the block under the head unless a marker says the body stays."""
    added = fragment.lines[head[1] - head[0] :]
    anchor = fragment.lines[head[1] - head[0] - 1]
    depths = [_indent(line) for line in added if line.strip()]
    marker = _indent(fragment.after or "")
    if depths and depths[0] > _indent(anchor) and marker < depths[0]:
        raise _refused(
            fragment,
            f"it is open whether the old lines below {anchor.strip()!r} stay; add the line that "
            "follows the change, or indent the marker like the lines that stay",
        )


def _refuse_chance_match(lines: list[str], fragment: _Fragment, head: Span, tail: Span) -> None:
    """Refuse to drop lines because of one line that new code may share with old by chance.

    A lone bracket must close the head's block; another single line must not lie in a block that
    begins between the two.
    """
    between = [line for line in lines[head[1] : tail[0]] if line.strip()]
    if not between:
        return
    last = lines[tail[1] - 1]
    if tail[1] - tail[0] == 1:
        inside = any(_indent(line) < _indent(last) for line in between)
        lone = not _WORD.search(last) and not _closing(lines, head, [tail[1] - 1])
        if inside or lone:
            raise _refused(
                fragment,
                f"its last line {last.strip()!r} may be an old or a new one; add a line of context",
            )
    first = lines[head[0]]
    if head[1] - head[0] == 1 and not _WORD.search(first):
        raise _refused(fragment, f"its first line {first.strip()!r} is too little context")


def _at_the_start(
    lines: list[str], fragment: _Fragment, head: Span | None, tail: Span | None
) -> _Change:
    first = _first_line(lines)
    if head is None and tail is None:
        return _Change(0, 0, fragment.lines)
    if head is not None and head[0] == first:
        if tail is None:
            _refuse_open_block(fragment, head)
        else:
            _refuse_chance_match(lines, fragment, head, tail)
        return _Change(head[0], (tail or head)[1], fragment.lines)
    if head is None and tail is not None and tail[0] == first:
        return _Change(tail[0], tail[1], fragment.lines)
    raise _refused(
        fragment, f"it does not begin where the file begins; put '{MARKER_TEXT}' in front of it"
    )


def _at_the_end(
    lines: list[str], fragment: _Fragment, head: Span | None, tail: Span | None
) -> _Change:
    end = _last_line(lines) + 1
    if head is None and tail is None:
        return _Change(len(lines), len(lines), fragment.lines)
    if tail is not None and tail[1] == end:
        if head is not None:
            _refuse_chance_match(lines, fragment, head, tail)
        return _Change((head or tail)[0], end, fragment.lines)
    if tail is None and head is not None and head[1] == end:
        return _Change(head[0], end, fragment.lines)
    raise _refused(fragment, f"it does not end where the file ends; put '{MARKER_TEXT}' behind it")


def _first_line(lines: list[str]) -> int:
    return next((at for at, line in enumerate(lines) if line.strip()), 0)


def _last_line(lines: list[str]) -> int:
    return next((at for at in range(len(lines) - 1, -1, -1) if lines[at].strip()), 0)


def _indent(line: str) -> int:
    expanded = line[:INDENT].expandtabs(4)
    return len(expanded) - len(expanded.lstrip())


def _refused(fragment: _Fragment, why: str) -> Unprocessable:
    return Unprocessable(f"fragment {fragment.number} of the edit is ambiguous: {why}")
