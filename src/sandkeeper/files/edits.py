"""Editing files by exact text: every edit finds its place or nothing is written.

The new content is computed from one state of the file and written only over that state. If
somebody else wrote meanwhile, the edits are tried on the new content, a few times.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sandkeeper.errors import PreconditionFailed, Unprocessable
from sandkeeper.files.conditions import Conditions
from sandkeeper.files.entries import etag
from sandkeeper.files.service import Files
from sandkeeper.pieces import split_at

__all__ = ["Edit", "EditRefused", "edit_file"]

ATTEMPTS = 5
PLACES = 10_000
COMPARED = 64 << 20

Reason = Literal["empty", "identical", "missing", "ambiguous", "count", "size", "contended"]


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old` by `new`: in the one place there is, in `every` one, or in `count` places."""

    old: bytes
    new: bytes
    every: bool = False
    count: int | None = None


class EditRefused(Exception):
    """Why nothing was changed.

    `number` of the edit, from 1 (0: all); `found` is how many places `old` fits or, for `size`,
    how many bytes the result may have.
    """

    def __init__(self, reason: Reason, number: int = 0, found: int = 0) -> None:
        super().__init__(reason, number, found)
        self.reason = reason
        self.number = number
        self.found = found


def edit_file(
    files: Files,
    path: str,
    edits: Sequence[Edit],
    check: Callable[[os.stat_result], None] = lambda _info: None,
) -> tuple[int, os.stat_result]:
    """Apply all edits in order, or none; returns how many places, and the new state. Blocking.

    `check` gets each state that is edited and may raise. Raises EditRefused, NotFound (no file),
    Unprocessable (cannot be read or written), StorageFull.
    """
    for number, edit in enumerate(edits, 1):
        if not edit.old or edit.old == edit.new:
            raise EditRefused("identical" if edit.old else "empty", number)
    for _attempt in range(ATTEMPTS):
        info = files.look(path, Unprocessable)
        check(info)
        content = files.content(path, info)
        data, replaced = content.data, 0
        most = max(files.settings.write_limit, len(data))
        for number, edit in enumerate(edits, 1):
            data, count = _applied(data, edit, number, most)
            replaced += count
        try:
            guard = Conditions(match=(etag(content.info),))
            return replaced, files.write(path, data, conditions=guard)
        except PreconditionFailed:
            continue
    raise EditRefused("contended")


def _applied(data: bytes, edit: Edit, number: int, most: int) -> tuple[bytes, int]:
    apart = sum(len(parts) - 1 for parts in split_at(data, edit.old))
    if not apart:
        raise EditRefused("missing", number)
    places = apart if edit.every else _places(data, edit.old, apart)
    if edit.count is not None and places != edit.count:
        raise EditRefused("count", number, places)
    if places > (1 if edit.count is None and not edit.every else apart):
        raise EditRefused("ambiguous", number, places)
    if len(data) + apart * (len(edit.new) - len(edit.old)) > most:
        raise EditRefused("size", number, most)
    return b"".join(edit.new.join(parts) for parts in split_at(data, edit.old)), apart


def _places(data: bytes, old: bytes, apart: int) -> int:
    """Count where `old` fits, overlapping or not.

    Each step may compare all of `old`, so they are bounded: what is behind the last counts apart.
    """
    count, at = 0, data.find(old)
    most = max(2, min(PLACES, COMPARED // len(old)))
    while at >= 0 and count < most:
        count += 1
        at = data.find(old, at + 1)
    return count if at < 0 else max(count, apart)
