"""Looking for code below the working directory: by file name, by pattern, by relevance."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from sandkeeper.errors import BadInput, Unprocessable
from sandkeeper.files.globs import path_pattern
from sandkeeper.files.walk import Found, walk
from sandkeeper.files.work import Cancel
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.tool import Tool
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.mounts import pseudo_mounts
from sandkeeper.linux.paths import useros as os
from sandkeeper.search.bm25 import words
from sandkeeper.search.content import ripgrep_program
from sandkeeper.search.ripgrep import escape_glob

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
    children: Children,
    identity: Identity | None,
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
        ripgrep_program(),
        *("--json", "--no-config", "--no-messages", "--no-follow", "--max-filesize", "512M"),
        "--case-sensitive" if case_sensitive else "--ignore-case",
        # One argument each: whatever the text is, it cannot become an option of its own.
        *([f"--glob={include}"] if include else []),
        *([f"--glob=!{exclude}"] if exclude else []),
        *_without(mounts, root),
        *("-e", query, "--", "."),
    ]
    try:
        tool = await children.start_tool(argv, env={"LC_ALL": "C"}, cwd=root, identity=identity)
    except OSError as error:  # also one that the workload stopped before it began
        raise Unprocessable(f"the search cannot be started: {error.strerror}") from None
    errors = asyncio.ensure_future(tool.stderr.read(4096))
    try:
        async with asyncio.timeout(GREP_SECONDS):
            return await _collect(tool, errors)
    except TimeoutError:
        raise Unprocessable(f"the search took longer than {GREP_SECONDS:g} seconds") from None
    finally:
        errors.cancel()
        await tool.close()


def _without(mounts: Iterable[bytes], root: str) -> list[str]:
    base = os.path.realpath(root).rstrip("/") + "/"
    below = [mount for mount in map(os.fsdecode, mounts) if mount.startswith(base)]
    return [f"--glob=!/{escape_glob(mount[len(base) :])}/" for mount in below]


async def _collect(tool: Tool, errors: "asyncio.Future[bytes]") -> Grepped:
    chunks: list[bytes] = []
    size = 0
    while chunk := await tool.stdout.read(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > GREP_BYTES:
            whole = b"".join(chunks)[:GREP_BYTES].rpartition(b"\n")
            return Grepped((whole[0] + whole[1]).decode("utf-8", "replace"), True)
    status = await tool.wait()
    # 1 says that nothing was found, 2 that something went wrong, perhaps after matches.
    if status.code not in {0, 1} and not chunks:
        told = (await errors).decode("utf-8", "replace").strip()
        raise BadInput(f"grep search failed: {told[:1000] or status}")
    return Grepped(b"".join(chunks).decode("utf-8", "replace"), False)


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
