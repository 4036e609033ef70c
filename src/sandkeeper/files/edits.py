"""Editing files by exact text: every edit finds its place or nothing is written.

The new content is computed from one state of the file and written only over that state. If
somebody else wrote meanwhile, the edits are tried on the new content, a few times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sandkeeper.errors import BadInput, Conflict, NotFound, PreconditionFailed, Unprocessable
from sandkeeper.files.conditions import Conditions
from sandkeeper.files.entries import etag
from sandkeeper.files.service import Files

__all__ = ["Edit", "Edited", "edit_file"]

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old`, which must be there once (or, with `every`, at least once), by `new`."""

    old: bytes
    new: bytes
    every: bool = False


@dataclass(frozen=True, slots=True)
class Edited:
    """How many places were changed, and the validator of the new state."""

    replaced: int
    etag: str


def edit_file(files: Files, path: str, edits: Sequence[Edit], expected: str = "") -> Edited:
    """Apply all edits in order, or none; blocking.

    `expected` is the ETag the file must have. Raises BadInput (an edit that cannot mean anything),
    NotFound (no file, or no match), Conflict (several matches, or written too often by others),
    PreconditionFailed, Unprocessable (cannot be read or written).
    """
    for edit in edits:
        if not edit.old:
            raise BadInput("oldString is empty")
        if edit.old == edit.new:
            raise BadInput("oldString and newString are identical")
    for _attempt in range(ATTEMPTS):
        info = files.look(path, Unprocessable)
        if expected and etag(info) != expected:
            raise PreconditionFailed(f"the file is now {etag(info)}, not {expected}")
        content = files.content(path, info)
        data, replaced = _applied(content.data, edits)
        if len(data) > files.settings.write_limit:
            raise Unprocessable(f"the result is larger than {files.settings.write_limit} bytes")
        try:
            written = files.write(path, data, conditions=Conditions(match=(etag(content.info),)))
        except PreconditionFailed:
            continue
        return Edited(replaced, etag(written))
    raise Conflict(f"{path} is being written by others; nothing was changed")


def _applied(data: bytes, edits: Sequence[Edit]) -> tuple[bytes, int]:
    total = 0
    for number, edit in enumerate(edits, 1):
        which = f"edit {number}: " if len(edits) > 1 else ""
        count = data.count(edit.old)
        if not count:
            raise NotFound(f"{which}oldString not found in the file")
        if count > 1 and not edit.every:
            raise Conflict(
                f"{which}oldString occurs {count} times; give more of its surroundings or set "
                "replaceAll"
            )
        data = data.replace(edit.old, edit.new)
        total += count
    return data, total
