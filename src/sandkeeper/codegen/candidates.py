"""Which files of a folder are worth ranking: pruned, bounded, cancelled. Runs in a thread."""

import posixpath
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sandkeeper.codegen.providers.base import Document
from sandkeeper.errors import Unprocessable
from sandkeeper.linux.paths import useros as os

__all__ = ["Found", "collect"]

PRUNED = frozenset(
    ("node_modules", "vendor", ".git", "dist", "build", "target", "__pycache__", ".venv")
)
KEPT_DOT_FOLDERS = frozenset((".github", ".gitlab", ".circleci"))
SYSTEM = frozenset(("/proc", "/sys", "/dev", "/run"))
FILE_BYTES = 1 << 20
TOTAL_BYTES = 16 << 20
FILES = 5000
ENTRIES = 200_000
SECONDS = 20.0
SNIFFED = 8192


@dataclass(frozen=True, slots=True)
class Found:
    """The documents; `truncated` when a limit ended the walk before its end."""

    documents: list[Document]
    truncated: bool


def collect(root: str, shown: str, pattern: str, stop: threading.Event) -> Found:
    """Read the text files below `root`, in the order of their paths; `shown` precedes their names.

    Raises Unprocessable when `pattern` (RE2 syntax, as Go's; unanchored, against path or name) is
    not an expression or when `root` cannot be listed. What else cannot be read is skipped.
    """
    wanted = _matcher(pattern)
    documents: list[Document] = []
    size = entries = 0
    deadline = time.monotonic() + SECONDS
    for relative, path in _walk(root):
        entries += 1
        full = len(documents) >= FILES or size >= TOTAL_BYTES or entries > ENTRIES
        if full or time.monotonic() > deadline or stop.is_set():
            return Found(documents, truncated=True)
        if relative is None or not wanted(posixpath.join(shown, relative), relative):
            continue
        text = _text(path, min(FILE_BYTES, TOTAL_BYTES - size))
        if text is not None:
            size += len(text)
            documents.append(Document(_utf8(posixpath.join(shown, relative)), text))
    return Found(documents, truncated=False)


def _matcher(pattern: str) -> Callable[[str, str], bool]:
    if not pattern:
        return lambda _path, _relative: True
    import re2  # linear time: a caller's pattern cannot hold the interpreter

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise Unprocessable(f"invalid file pattern: {_reason(error)}") from None

    def matches(path: str, relative: str) -> bool:
        return bool(
            compiled.search(_utf8(path)) or compiled.search(_utf8(posixpath.basename(relative)))
        )

    return matches


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace")


def _walk(root: str) -> Iterator[tuple[str | None, str]]:
    """Yield files as (path relative to `root`, path), and (None, path) for every other entry."""
    pending = [""]
    first = True
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(posixpath.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if first:
                reason = (error.strerror or str(error)).lower()
                raise Unprocessable(f"open {root}: {reason}") from None
            continue
        first = False
        below: list[str] = []
        for entry in entries:
            relative = posixpath.join(folder, entry.name)
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if _entered(entry):
                        below.append(relative)
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    yield relative, entry.path
                    continue
            yield None, entry.path
        pending += reversed(below)


def _entered(entry: "os.DirEntry[str]") -> bool:
    """Say whether a folder is looked into; folders like `.ssh` must not reach a provider."""
    if entry.name in PRUNED or os.path.abspath(entry.path) in SYSTEM:
        return False
    return not entry.name.startswith(".") or entry.name in KEPT_DOT_FOLDERS


def _text(path: str, limit: int) -> str | None:
    """Return a regular file's text, or None when it is binary, too large or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            return None
        with open(fd, "rb", closefd=False) as file:
            data = file.read(SNIFFED)
            if b"\0" in data:
                return None
            data += file.read(limit + 1 - len(data))
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(data) > limit or b"\0" in data:
        return None
    return data.decode("utf-8", "replace")
