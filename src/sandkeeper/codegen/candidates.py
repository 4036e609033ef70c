"""Which files of a folder are worth ranking: pruned, bounded, cancelled. Runs in a thread."""

import posixpath
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandkeeper.codegen.providers.base import Document
from sandkeeper.errors import Unprocessable, reason_of
from sandkeeper.files.walk import Found, walk
from sandkeeper.journal.matching import wrong_with
from sandkeeper.linux.paths import useros as os

__all__ = ["Candidates", "collect"]

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
class Candidates:
    """The documents; `truncated` when a limit ended the walk before its end."""

    documents: list[Document]
    truncated: bool


def collect(root: str, shown: str, pattern: str, stop: threading.Event) -> Candidates:
    """Read the text files below `root`, in the order of their paths; `shown` precedes their names.

    Raises Unprocessable when `pattern` (RE2 syntax, as Go's; unanchored, against path or name) is
    not an expression or when `root` cannot be listed. What else cannot be read is skipped.
    """
    wanted = _matcher(pattern)
    documents: list[Document] = []
    size = entries = 0
    deadline = time.monotonic() + SECONDS
    for found in _walk(root):
        entries += 1
        full = len(documents) >= FILES or size >= TOTAL_BYTES or entries > ENTRIES
        if full or time.monotonic() > deadline or stop.is_set():
            return Candidates(documents, truncated=True)
        name = posixpath.join(shown, found.relative)
        if found.is_directory or found.name.startswith(".") or not wanted(name, found.name):
            continue
        text = _text(found.path, min(FILE_BYTES, TOTAL_BYTES - size))
        if text is not None:
            size += len(text)
            documents.append(Document(_utf8(name), text))
    return Candidates(documents, truncated=False)


def _matcher(pattern: str) -> Callable[[str, str], bool]:
    if not pattern:
        return lambda _path, _name: True
    import re2  # linear time: a caller's pattern cannot hold the interpreter

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise Unprocessable(f"invalid file pattern: {wrong_with(error)}") from None

    def matches(path: str, name: str) -> bool:
        return bool(compiled.search(_utf8(path)) or compiled.search(_utf8(name)))

    return matches


def _utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace")


def _walk(root: str) -> Iterator[Found]:
    try:
        yield from walk(root, enter=_entered, files_first=True)
    except OSError as error:
        raise Unprocessable(f"open {root}: {reason_of(error)}") from None


def _entered(found: Found) -> bool:
    """Say whether a folder is looked into; folders like `.ssh` must not reach a provider."""
    if found.name in PRUNED or os.path.abspath(found.path) in SYSTEM:
        return False
    return not found.name.startswith(".") or found.name in KEPT_DOT_FOLDERS


def _text(path: str, limit: int) -> str | None:
    """Return a regular file's text, or None when it is binary, too large or cannot be read."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # to open a FIFO or a device is to use it
            return None
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
