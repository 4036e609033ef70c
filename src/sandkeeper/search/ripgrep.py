"""What ripgrep is asked and what it answers: arguments, and records of its `--json` output.

The format is described in ripgrep's `grep_printer::JSON`. A record holds its whole line, and a
line may be as long as its file; `Records` therefore keeps at most `HEAD_BYTES` of a record and,
of a longer one, what stands behind the line's text.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from sandkeeper.files.paths import TEMPORARY_PREFIX

__all__ = ["TEXT_BYTES", "FileEnd", "Hit", "Records", "Summary", "arguments", "escape_glob"]

TEXT_BYTES = 8192
HEAD_BYTES = 128 * 1024
TAIL_BYTES = 64 * 1024
MAX_FILE_SIZE = "512M"

_AFTER_TEXT = b'"},"line_number":'
_AFTER_PATH = b'},"lines":{"'
_MATCH = b'{"type":"match","data":{"path":'
_NUMBERS = re.compile(
    rb'(\d+),"absolute_offset":(\d+),"submatches":\[\{"match":\{.*?\},"start":(\d+)', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A line with a match. `line` and `column` count from 1, the column and `offset` in bytes.

    `text` is the line without its newline, at most `TEXT_BYTES` of it; `offset` is where the line
    begins in its file.
    """

    path: bytes
    line: int
    column: int
    offset: int
    text: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """A file has been searched; `binary` when a NUL byte was met."""

    binary: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """The search went through to its end."""


class _Data(msgspec.Struct):
    text: str | None = None
    base64: str = msgspec.field(default="", name="bytes")

    def raw(self) -> bytes:
        return b64decode(self.base64) if self.text is None else self.text.encode()


class _Submatch(msgspec.Struct):
    start: int


class _Body(msgspec.Struct):
    path: _Data | None = None
    lines: _Data | None = None
    line_number: int | None = None
    absolute_offset: int = 0
    submatches: list[_Submatch] = []
    binary_offset: int | None = None


class _Record(msgspec.Struct):
    type: str
    data: _Body


_decode = msgspec.json.Decoder(_Record).decode


def escape_glob(name: str) -> str:
    """Write a name so that ripgrep's globs take it literally."""
    return re.sub(r"([\\*?\[\]{}!])", r"\\\1", name)


def arguments(
    query: str,
    directory: str,
    *,
    case_sensitive: bool,
    ordered: bool,
    per_file: int,
    excluded: Iterable[str],
    pruned: Iterable[str],
    pattern: str,
) -> list[str]:
    """Return ripgrep's arguments for a search of `directory` (absolute) from `/`.

    `excluded` are directory names, `pruned` absolute paths, `pattern` one plain glob on base names
    or empty. `ordered` walks in byte order on one thread. The query and the directory stand behind
    `-e` and `--`, so neither is ever taken for an option.
    """
    argv = ["--json", "--no-config", "--no-messages", "--hidden", "--no-ignore", "--no-follow"]
    argv += ["--encoding", "none", "--fixed-strings", "--max-filesize", MAX_FILE_SIZE]
    argv += ["--case-sensitive" if case_sensitive else "--ignore-case"]
    if ordered:
        argv += ["--sort", "path"]
    argv += ["--max-count", str(per_file)]
    if pattern:
        argv += ["--glob", f"**/{pattern}"]
    argv += ["--glob", f"!**/{TEMPORARY_PREFIX}*"]  # the last glob that matches decides
    for name in excluded:
        argv += ["--glob", f"!**/{escape_glob(name)}/"]
    for path in pruned:
        argv += ["--glob", f"!{escape_glob(path)}"]
    return [*argv, "-e", query, "--", directory]


class Records:
    """Cuts ripgrep's output into records; memory is bounded whatever the lines' length."""

    def __init__(self) -> None:
        self._pending = b""
        self._head = b""
        self._tail: bytes | None = None

    def feed(self, chunk: bytes) -> Iterator[Hit | FileEnd | Summary]:
        """Yield the records that `chunk` completes."""
        *lines, rest = (self._pending + chunk).split(b"\n")
        for line in lines:
            record = self._oversize_end(line) if self._head else _parse(line)
            if record is not None:
                yield record
        self._pending = rest
        if self._head:
            self._oversize_more()
        elif len(rest) > HEAD_BYTES:
            self._head, self._tail = rest[:HEAD_BYTES], None
            self._oversize_more()

    def _oversize_more(self) -> None:
        """Take what is needed of a record that is too long to keep."""
        if self._tail is None:
            _, found, after = self._pending.partition(_AFTER_TEXT)
            if found:
                self._tail, self._pending = after[:TAIL_BYTES], b""
            else:
                self._pending = self._pending[-len(_AFTER_TEXT) :]
        else:
            self._tail = (self._tail + self._pending)[:TAIL_BYTES]
            self._pending = b""

    def _oversize_end(self, rest: bytes) -> Hit | None:
        self._pending = rest
        self._oversize_more()
        head, tail = self._head, self._tail or b""
        self._head, self._tail, self._pending = b"", None, b""
        numbers = _NUMBERS.match(tail)
        if not head.startswith(_MATCH) or not numbers:
            return None
        path, _, text = head[len(_MATCH) :].partition(_AFTER_PATH)
        where = msgspec.json.decode(path + b"}", type=_Data).raw()
        kind, _, value = text.partition(b'":"')
        line, offset, start = (int(number) for number in numbers.groups())
        return Hit(where, line, start + 1, offset, _beginning(kind, value))


def _parse(line: bytes) -> Hit | FileEnd | Summary | None:
    record = _decode(line)
    data = record.data
    if record.type == "match" and data.path and data.lines and data.submatches:
        text = data.lines.raw().removesuffix(b"\n")[:TEXT_BYTES]
        column = data.submatches[0].start + 1
        return Hit(data.path.raw(), data.line_number or 1, column, data.absolute_offset, text)
    if record.type == "end":
        return FileEnd(data.binary_offset is not None)
    return Summary() if record.type == "summary" else None


def _beginning(kind: bytes, value: bytes) -> bytes:
    """Decode the beginning of a JSON string that is cut somewhere."""
    if kind == b"bytes":
        whole = value[: TEXT_BYTES * 4 // 3 // 4 * 4]
        try:
            return b64decode(whole)[:TEXT_BYTES]
        except Base64Error:
            return b""
    value = value[: TEXT_BYTES * 6]
    for cut in range(8):  # an escape or a character has at most six bytes
        try:
            text = msgspec.json.decode(b'"' + value[: len(value) - cut] + b'"', type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        return text.encode()[:TEXT_BYTES]
    return b""
