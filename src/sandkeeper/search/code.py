"""Looking for code below the working directory: by file name, by pattern, by relevance."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from sandkeeper.errors import BadInput, Task, Unprocessable
from sandkeeper.files.globs import path_pattern
from sandkeeper.files.walk import Found, walk
from sandkeeper.files.work import Cancel
from sandkeeper.linux.mounts import pseudo_mounts
from sandkeeper.linux.paths import useros as os
from sandkeeper.search.bm25 import words
from sandkeeper.search.ripgrep import Ripgrep, RipgrepFailed, escape_glob

__all__ = ["Grepped", "file_search", "folder_pattern", "grep", "snippet"]

FILES_MOST = 10
GREP_BYTES = 1 << 20
GREP_SECONDS = 30.0
QUERY_CHARACTERS = 4096
SNIPPET_LINES = 40
SNIPPET_BYTES = 4096


def file_search(root: str, query: str, cancel: Cancel) -> list[str]:
    """Return the first files below `root` whose names have the query's characters in order.

    Case does not count. A folder's own files come before what is deeper, both in byte order; not
    into links or file systems like /proc. Blocking.
    """
    wanted = query.lower()
    pruned = {os.fsdecode(mount) for mount in pseudo_mounts()}

    def enter(found: Found) -> bool:
        return found.path not in pruned

    matching = (
        found.path
        for found in walk(root, enter=enter, files_first=True, check=cancel.check)
        if not found.is_directory and _in_order(wanted, found.name.lower())
    )
    with suppress(OSError):  # the root cannot be read
        return list(islice(matching, FILES_MOST))
    return []


def _in_order(wanted: str, text: str) -> bool:
    rest = iter(text)
    return all(char in rest for char in wanted)


@dataclass(frozen=True, slots=True)
class Grepped:
    """ripgrep's JSON lines, whole ones; `truncated` when there were more."""

    text: str
    truncated: bool


async def grep(
    ripgrep: Ripgrep,
    root: str,
    query: str,
    *,
    case_sensitive: bool,
    include: str,
    exclude: str,
) -> Grepped:
    """Search `root` for a pattern in ripgrep's syntax; at most 1 MiB and 30 s.

    Raises BadInput for a pattern or glob that ripgrep refuses, Unprocessable when time is up or the
    search cannot be started.
    """
    if len(query) > QUERY_CHARACTERS:
        raise BadInput(f"query is longer than {QUERY_CHARACTERS} characters")
    if any("\0" in text for text in (query, include, exclude)):
        raise BadInput("NUL cannot be searched for")
    mounts = await asyncio.to_thread(pseudo_mounts)
    argv = [
        *("--json", "--no-config", "--no-messages", "--no-follow", "--max-filesize", "512M"),
        "--case-sensitive" if case_sensitive else "--ignore-case",
        # One argument each: whatever the text is, it cannot become an option of its own.
        *([f"--glob={include}"] if include else []),
        *([f"--glob=!{exclude}"] if exclude else []),
        *_without(mounts, root),
        *("-e", query, "--", "."),
    ]
    output = bytearray()

    def take(chunk: bytes) -> bool:
        output.extend(chunk)
        return len(output) <= GREP_BYTES

    try:
        whole = await ripgrep.run(argv, root, GREP_SECONDS, take)
    except RipgrepFailed as failed:
        if failed.how == "start":
            raise Unprocessable(f"the search cannot be started: {failed}") from None
        if failed.how == "slow":
            late = f"the search took longer than {GREP_SECONDS:g} seconds"
            raise Unprocessable(late) from None
        raise BadInput(str(failed), task=Task.GREP) from None
    end = len(output) if whole else output.rfind(b"\n", 0, GREP_BYTES) + 1
    return Grepped(output[:end].decode("utf-8", "replace"), not whole)


def _without(mounts: Iterable[bytes], root: str) -> list[str]:
    base = os.path.realpath(root).rstrip("/") + "/"
    below = [mount for mount in map(os.fsdecode, mounts) if mount.startswith(base)]
    return [f"--glob=!/{escape_glob(mount[len(base) :])}/" for mount in below]


def folder_pattern(folders: Sequence[str], workdir: str) -> str:
    """Return an RE2 pattern for paths below any of the folders, which may be globs.

    No folder, or the working directory itself, means everything.
    """
    parts = []
    for folder in folders:
        relative = folder.removeprefix(workdir.rstrip("/") + "/").strip("/")
        while relative.startswith("./"):
            relative = relative[2:].lstrip("/")
        if relative in {"", "."} or folder == workdir:
            return ""
        parts.append(path_pattern(relative))
    return f"^(?:{'|'.join(parts)})(?:/|$)" if parts else ""


def snippet(text: str, query: str) -> tuple[int, str]:
    """Return the part of a text that has most of the query's words, and its first line's number."""
    wanted = set(words(query))
    lines = text.split("\n")
    hits = [len(wanted.intersection(words(line[:1000]))) for line in lines]
    best, best_sum, running = 0, -1, sum(hits[:SNIPPET_LINES])
    for start in range(max(1, len(lines) - SNIPPET_LINES + 1)):
        if start:
            running += hits[start + SNIPPET_LINES - 1] - hits[start - 1]
        if running > best_sum:
            best, best_sum = start, running
    return best + 1, "\n".join(lines[best : best + SNIPPET_LINES])[:SNIPPET_BYTES]
