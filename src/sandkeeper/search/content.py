"""Content search: ripgrep does it, this module asks, bounds and orders.

The order of matches is that of the walk (names by their bytes, a directory's files where its name
stands) and then of lines, every time. ripgrep keeps that order only on one thread; so it first
searches on all cores, for matches that are few enough to be sorted here, and only if there are too
many it is asked again in order, where the first matches come soon.
"""

import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sandkeeper.errors import BadInput, Internal, Task
from sandkeeper.files.globs import matcher, simple
from sandkeeper.journal.lines import cut_end
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.mounts import pseudo_mounts
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.below import is_below, is_within
from sandkeeper.search.find import EXCLUDED, Workers
from sandkeeper.search.ripgrep import (
    TEXT_BYTES,
    FileEnd,
    Hit,
    Ripgrep,
    RipgrepFailed,
    RipgrepRecords,
    Summary,
    arguments,
)

__all__ = ["ContentQuery", "ContentSearch", "MatchingLine"]

SEARCH_SECONDS = 60.0
MAX_MATCHES = 10_000
MAX_KEPT_BYTES = 32 << 20
MAX_QUERY = 4096
CONTEXT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ContentQuery:
    """What to look for: a literal text, per line.

    `pattern` is one glob on base names (files.globs) or empty; a `limit` of 0 means MAX_MATCHES;
    `context` is how many lines before and after a match are wanted. What lies in folders below the
    root is looked at if `recursive`.
    """

    text: str
    root: str
    case_sensitive: bool = False
    limit: int = 100
    pattern: str = ""
    excluded: frozenset[str] = EXCLUDED
    context: int = 0
    recursive: bool = True

    @property
    def most(self) -> int:
        """How many matches are wanted at most."""
        return min(self.limit or MAX_MATCHES, MAX_MATCHES)

    @property
    def hopeless(self) -> bool:
        """Whether no line of a text file can hold the text."""
        return "\n" in self.text or "\0" in self.text


class MatchingLine(NamedTuple):
    """A matching line: its path below the root, the hit, and the lines around it if asked for."""

    path: bytes
    hit: Hit
    context: bytes | None


class _Kept:
    """Matches of whole files, up to a number or a size; the rest of a file decides over it."""

    def __init__(self, accepts: Callable[[bytes], bool], most: int) -> None:
        self._accepts = accepts
        self._most = most
        self._file: list[Hit] = []
        self._bytes = 0
        self.hits: list[Hit] = []
        self.complete = False

    def take(self, record: Hit | FileEnd | Summary) -> bool:
        """Take one record; False once there is enough."""
        if isinstance(record, Hit):
            self._file.append(record)
        elif isinstance(record, FileEnd):
            if self._file and not record.binary and self._accepts(self._file[0].path):
                self.hits += self._file
                self._bytes += sum(len(hit.text) for hit in self._file)
            self._file = []
        else:
            self.complete = True
        return len(self.hits) < self._most and self._bytes < MAX_KEPT_BYTES


class ContentSearch:
    """Searches contents."""

    def __init__(
        self, ripgrep: Ripgrep, workers: Workers, identity: Callable[[], Identity | None]
    ) -> None:
        self._ripgrep = ripgrep
        self._workers = workers
        self._identity = identity

    async def search(self, query: ContentQuery) -> list[MatchingLine]:
        """Return the first matches, in order.

        Raises BadInput when the root is missing or no directory, or the text is too long.
        """
        if len(query.text) > MAX_QUERY:
            raise BadInput(f"query is longer than {MAX_QUERY} characters")
        pruned = await self._workers.run(self._identity(), lambda: _pruned(query.root))
        if pruned is None or query.hopeless:
            return []
        hits = await self._hits(query, pruned)
        base = query.root.rstrip("/").encode("utf-8", "surrogateescape") + b"/"
        if not query.context:
            return [MatchingLine(hit.path.removeprefix(base), hit, None) for hit in hits]
        with self._workers.stoppable() as stopped:
            return await self._workers.run(
                self._identity(), lambda: _with_context(hits, base, query.context, stopped)
            )

    async def _hits(self, query: ContentQuery, pruned: list[str]) -> list[Hit]:
        match = matcher(query.pattern) if query.pattern else None

        def accepts(path: bytes) -> bool:
            return match is None or match(path.rpartition(b"/")[2])

        unordered = _Kept(accepts, max(20 * query.most, 5000))
        await self._run(query, pruned, unordered, ordered=False)
        if unordered.complete:
            ordered = sorted(unordered.hits, key=lambda hit: (hit.path.split(b"/"), hit.line))
            return _within(ordered, query.most)
        kept = _Kept(accepts, query.most)
        await self._run(query, pruned, kept, ordered=True)
        return _within(kept.hits, query.most)

    async def _run(
        self, query: ContentQuery, pruned: list[str], kept: _Kept, *, ordered: bool
    ) -> None:
        argv = arguments(
            query.text,
            query.root,
            case_sensitive=query.case_sensitive,
            ordered=ordered,
            per_file=query.most,
            excluded=sorted(filter(_possible_name, query.excluded)),
            pruned=pruned,
            pattern=query.pattern if simple(query.pattern) else "",
            recursive=query.recursive,
        )
        records = RipgrepRecords()

        def take(chunk: bytes) -> bool:
            return all(kept.take(record) for record in records.feed(chunk))

        try:
            enough = not await self._ripgrep.run(argv, "/", SEARCH_SECONDS, take)
        except RipgrepFailed as failed:
            raise Internal(str(failed), task=Task.SEARCH_CONTENT) from None
        if not enough and not kept.complete:
            raise Internal("it was ended", task=Task.SEARCH_CONTENT)


def _possible_name(name: str) -> bool:
    return not ("/" in name or "\0" in name or len(name) > 255)


def _pruned(root: str) -> list[str] | None:
    """Return what to leave out below `root`; None when the root itself holds no files."""
    try:
        is_directory = stat.S_ISDIR(os.stat(root).st_mode)
    except (OSError, ValueError):
        raise BadInput(f"specified directory does not exist: {root}") from None
    if not is_directory:
        raise BadInput(f"specified path is not a directory: {root}")
    here = os.path.realpath(root)
    pruned: list[str] = []
    for mount in map(os.fsdecode, pseudo_mounts()):
        if is_within(here, mount):
            return None
        if is_below(mount, here):
            pruned.append(os.path.join(root, os.path.relpath(mount, here)))
    return pruned


def _within(hits: list[Hit], most: int) -> list[Hit]:
    """Return the first `most` hits whose texts fit the budget together."""
    size = 0
    for count, hit in enumerate(hits[:most]):
        size += len(hit.text)
        if size > MAX_KEPT_BYTES:
            return hits[:count]
    return hits[:most]


def _with_context(
    hits: list[Hit], base: bytes, lines: int, stopped: Callable[[], bool]
) -> list[MatchingLine]:
    found: list[MatchingLine] = []
    budget = MAX_KEPT_BYTES
    for hit in hits:
        context: bytes | None = None
        if budget > 0 and not stopped():
            with suppress(OSError):
                context = _context(hit, lines)
        budget -= len(context or b"")
        found.append(MatchingLine(hit.path.removeprefix(base), hit, context))
    return found


def _context(hit: Hit, count: int) -> bytes | None:
    """Read the lines around a hit; None when the file is not any more what was searched."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(hit.path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        start = max(0, hit.offset - CONTEXT_BYTES)
        before = os.pread(fd, hit.offset - start, start)
        after = os.pread(fd, CONTEXT_BYTES, hit.offset)
    finally:
        os.close(fd)
    if not after.startswith(hit.text) or (before and not before.endswith(b"\n")):
        return None
    earlier = before[:-1].split(b"\n")[1 if start else 0 :] if before else []
    later = after.removesuffix(b"\n").split(b"\n")
    if len(after) == CONTEXT_BYTES and len(later) > 1:
        later.pop()  # it may be cut
    window = earlier[-count:] + later[: count + 1]
    return b"\n".join(cut_end(line, TEXT_BYTES) for line in window)
