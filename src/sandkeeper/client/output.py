"""What is printed: plain columns into a pipe, colours on a terminal, JSON for scripts."""

import json
import os
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = [
    "Column",
    "age",
    "close_output",
    "complain",
    "is_terminal",
    "moment",
    "print_json",
    "print_table",
    "progress",
    "rich_table",
    "safe",
    "say",
    "since",
    "size",
    "write_all",
]

STYLES = {"running": "green", "completed": "dim", "failed": "red", "killed": "yellow"}
UNITS = "BkMGTPE"
GAP, EDGES = 3, 2
"""What a table has between its columns, and around them."""
LEAST_WIDTH = 10
"""To less nothing is shortened."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and whether it holds numbers.

    Where a terminal is too narrow, one that `cuts` is shortened, and then those with the highest
    `spare` are left out; 0 stays.
    """

    title: str
    right: bool = False
    spare: int = 0
    cuts: bool = False


def is_terminal(fd: int) -> bool:
    """Say whether a descriptor is a terminal; one that is closed is none."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def say(text: str) -> None:
    """Print a line on standard output; names that are no text reach a pipe byte for byte."""
    write_all(1, (_for_output(text) + "\n").encode("utf-8", "surrogateescape"))


def _for_output(text: str) -> str:
    return _without_bytes(safe(text)) if is_terminal(1) else safe(text)


def _without_bytes(text: str) -> str:
    """Spell bytes that are no text: some terminals obey those, too (C1, ECMA-48)."""
    return "".join(c if c < "\udc80" or c > "\udcff" else f"\\x{ord(c) - 0xDC00:02x}" for c in text)


def complain(text: str) -> None:
    """Print a sentence on standard error, where nothing else gets in its way."""
    data = f"sandkeeper: {safe(text)}\n".encode("utf-8", "replace")
    try:
        write_all(2, data)
    except OSError:
        return  # there is nobody to tell


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; raises OSError, BrokenPipeError when nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # whoever shares it has made it so
            select.select([], [fd], [])


def close_output() -> None:
    """Have whatever the interpreter still writes at its end go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def safe(text: str) -> str:
    """Replace what a terminal would obey: names and commands are somebody else's words."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else _shown(c) for c in text)


def _shown(character: str) -> str:
    return {"\t": " ", "\n": "\\n", "\r": "\\r"}.get(character, f"\\x{ord(character):02x}")


def print_json(value: Any, *, on_a_line: bool = False) -> None:
    """Print a value for scripts: indented on a terminal, else, or when it has to be, on a line."""
    indent = 2 if is_terminal(1) and not on_a_line else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    write_all(1, (_UNPRINTED.sub(_escaped, text) + "\n").encode())


_UNPRINTED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON may hold and a terminal would obey, or UTF-8 cannot carry."""


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the titles only where a person or a script would expect them: always."""
    lines = [[_for_output(cell) for cell in row] for row in rows]
    if is_terminal(1):
        _print_rich(columns, lines)
        return
    table = [[column.title for column in columns], *lines]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        write_all(1, ("   ".join(cells).rstrip() + "\n").encode("utf-8", "surrogateescape"))


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(rich_table(columns, rows, console.width), crop=False)


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> Any:
    """Return a table of `rich`, for a terminal of `room` columns or a live view of one."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    widths = _fitted(columns, rows, room)
    for index, width in widths.items():
        column = columns[index]
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis" if column.cuts else "crop",
            width=width,
        )
    for row in rows:
        cells = (row[index] for index in widths)
        table.add_row(*(Text(cell, style=STYLES.get(cell.partition(" ")[0], "")) for cell in cells))
    return table


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> dict[int, int]:
    """Return the indices of the columns there is room for, with their widths."""
    from rich.cells import cell_len

    cells = zip(*([column.title for column in columns], *rows), strict=True)
    whole = [max(map(cell_len, column)) for column in cells]
    left = list(range(len(columns)))
    while True:
        widths = {index: whole[index] for index in left}
        over = sum(widths.values()) + GAP * (len(left) - 1) + EDGES - room
        for index in sorted(left, key=lambda each: -whole[each]):
            if columns[index].cuts:
                least = min(whole[index], max(LEAST_WIDTH, len(columns[index].title)))
                widths[index] = max(least, whole[index] - max(0, over))
                over -= whole[index] - widths[index]
        spare = max(left, key=lambda each: columns[each].spare)
        if over <= 0 or not columns[spare].spare:
            return widths
        left.remove(spare)


@contextmanager
def progress(
    total: Callable[[], int | None], *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Give a function that is told of bytes as they go over the line, and show them on a terminal.

    `total` says how many there will be, None where nobody knows; it is asked only then.
    """
    if quiet or not is_terminal(2):
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    whole = total()
    rest = [TimeElapsedColumn()] if whole is None else [BarColumn(), TimeRemainingColumn()]
    columns = (DownloadColumn(binary_units=True), TransferSpeedColumn(), *rest)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=whole)
        yield lambda count: bar.advance(task, count)


def size(count: float | None) -> str:
    """Write a number of bytes in at most five places: `0B`, `1.5k`, `23M` (powers of 1024)."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value /= 1024
        unit += 1
    text = f"{value:.0f}" if unit == 0 or value >= 10 else f"{value:.1f}"
    return text + UNITS[unit]


def age(seconds: float) -> str:
    """Write a time span in its two largest units: `4s`, `3m12s`, `5h`, `2d3h`."""
    left = max(0, int(seconds))
    words: list[str] = []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count}{unit}")
        elif words:
            break
    return "".join(words[:2])


def moment(text: str) -> float | None:
    """Read a time of the API (RFC 9110 or RFC 3339) as seconds since the epoch; None for none."""
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def since(record: Mapping[str, Any]) -> float:
    """Return for how many seconds a process has run, or had run when it ended."""
    started = moment(record["startedAt"]) or 0.0
    return (moment(record["completedAt"]) or time.time()) - started
