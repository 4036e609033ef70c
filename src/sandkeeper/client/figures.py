"""Verbs that show what processes are doing: `ps` once, `top` for as long as one looks."""

import os
import select
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sandkeeper.client.completing import processes
from sandkeeper.client.connection import Server
from sandkeeper.client.context import AsJson, verb
from sandkeeper.client.failures import Absence, ClientError, NoServer
from sandkeeper.client.output import (
    Column,
    age,
    is_terminal,
    print_json,
    print_table,
    rich_table,
    safe,
    say,
    since,
    size,
)
from sandkeeper.client.variables import variable

__all__: list[str] = []

GROUP = "Processes"
COMMAND_WIDTH = 60
UNKNOWN_ROUTE = 404
COLUMNS = [
    Column("ID"),
    Column("NAME", spare=1, cuts=True),
    Column("PID", right=True, spare=5),
    Column("STATUS", cuts=True),
    Column("AGE", right=True, spare=3),
    Column("CPU", right=True, spare=8),
    Column("%CPU", right=True, spare=6),
    Column("MEMORY", right=True, spare=7),
    Column("OUTPUT", right=True, spare=9),
    Column("PORTS", spare=4, cuts=True),
    Column("COMMAND", spare=2, cuts=True),
]
LIVE_COLUMNS = [
    Column("NAME", cuts=True),
    Column("PID", right=True, spare=3),
    Column("%CPU", right=True),
    Column("CPU", right=True, spare=5),
    Column("MEMORY", right=True),
    Column("LIMIT", right=True, spare=6),
    Column("PROCS", right=True, spare=8),
    Column("THREADS", right=True, spare=9),
    Column("OUTPUT", right=True, spare=7),
    Column("PORTS", spare=4, cuts=True),
]
ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "cpu": lambda one: -one["cpuPercent"],
    "memory": lambda one: -one["memoryBytes"],
    "output": lambda one: -_written(one),
    "name": lambda one: one["name"],
}
KEYS = {b"c": "cpu", b"m": "memory", b"o": "output", b"n": "name"}


def _written(record: dict[str, Any]) -> int:
    return int(record["stdoutBytes"] + record["stderrBytes"])


@verb("ps", group=GROUP)
def ps(
    server: Server,
    *,
    everything: Annotated[
        bool, typer.Option("-a", "--all", help="Also those that are over.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print ids only.")] = False,
    as_json: AsJson = False,
) -> None:
    """List processes, the newest first, with what they use; of those over, what they have used."""
    records = server.value("GET", "/process")
    shown = [one for one in reversed(records) if everything or one["status"] == "running"]
    if quiet and not as_json:
        for one in shown:
            say(one["id"])
        return
    running = any(one["status"] == "running" for one in shown)
    used = _used(server) if running else {}
    if as_json:
        print_json([{**one, "stats": used.get(one["id"])} for one in shown])
    else:
        print_table(COLUMNS, [_row(one, used.get(one["id"])) for one in shown])


def _used(server: Server) -> dict[str, dict[str, Any]]:
    """Return the figures of running processes by id; none of a server that does not know them."""
    try:
        return {one["id"]: one for one in _look(server)["processes"]}
    except NoServer as error:
        if error.code != UNKNOWN_ROUTE:
            raise
        return {}


def _look(server: Server) -> dict[str, Any]:
    return dict(server.value("GET", "/process-stats", query={"ports": "true"}))


def _row(record: dict[str, Any], used: dict[str, Any] | None) -> list[str]:
    cpu = used["cpuSeconds"] if used else record["usage"]["cpuSeconds"]
    memory = used["memoryBytes"] if used else record["usage"]["peakRssBytes"]
    command = record["command"]
    if len(command) > COMMAND_WIDTH:
        command = command[: COMMAND_WIDTH - 1] + "…"
    return [
        record["id"],
        record["name"],
        record["pid"],
        _status(record),
        age(since(record)),
        "-" if cpu is None else f"{cpu:.2f}s",
        f"{used['cpuPercent']:.0f}" if used else "-",
        size(memory),
        size(_written(record)),
        _ports(used),
        command,
    ]


def _ports(used: dict[str, Any] | None) -> str:
    return ",".join(map(str, used["ports"])) if used and used["ports"] else "-"


def _status(record: dict[str, Any]) -> str:
    status = str(record["status"])
    if status == "running":
        return status + (f" (try {record['restartCount'] + 1})" if record["restartCount"] else "")
    how = record["exitSignal"] or record["exitCode"]
    reason = record["exitReason"]
    return f"{status} ({how}{', ' + reason if reason in {'oom', 'timeout', 'unknown'} else ''})"


@verb("top", group=GROUP)
def top(
    server: Server,
    ids: Annotated[
        list[str],
        typer.Argument(metavar="[ID...]", help="Only these.", autocompletion=processes),
    ] = [],  # noqa: B006
    *,
    seconds: Annotated[
        float, typer.Option("-d", "--delay", min=0.5, help="Seconds between two looks.")
    ] = 2.0,
    count: Annotated[
        int,
        typer.Option("-n", "--count", min=0, help="So many looks (1 where there is no terminal)."),
    ] = 0,
    sort: Annotated[str, typer.Option("-s", "--sort", help="cpu, memory, output, name.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Show what running processes use, live: q leaves; c, m, o and n sort by a column."""
    if sort not in ORDERS:
        raise ClientError(f"--sort is {', '.join(ORDERS)}, not {sort!r}")
    view = _View(server, ids, sort)
    if is_terminal(1) and variable("TERM") != "dumb" and not as_json:
        view.live(seconds, count)
        return
    for number in range(count or 1):
        if number:
            time.sleep(seconds)  # noqa: TID251 - the person's own interval
        look = view.look()
        if as_json:
            print_json(look, on_a_line=True)
        else:
            print_table(LIVE_COLUMNS, view.rows(look))


class _View:
    """What a person wants to see of all looks."""

    def __init__(self, server: Server, ids: Sequence[str], order: str) -> None:
        self._server = server
        self._ids = set(ids)
        self._order = order
        self._absence = Absence()

    def look(self) -> dict[str, Any]:
        """Ask once; raises ClientError when one of the chosen is not running."""
        found = _look(self._server)
        self._absence.heard()
        if self._ids:
            names = ("id", "name", "pid")
            known = {one[name] for one in found["processes"] for name in names}
            if missing := self._ids - known:
                raise ClientError(f"{', '.join(sorted(missing))}: no such process runs")
            found["processes"] = [
                one for one in found["processes"] if self._ids & {one[name] for name in names}
            ]
        found["processes"].sort(key=ORDERS[self._order])
        return found

    def rows(self, look: dict[str, Any]) -> list[list[str]]:
        """Return the lines of a table."""
        return [_live_row(one) for one in look["processes"]]

    def live(self, seconds: float, count: int) -> None:
        """Show looks until the person leaves."""
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        console = Console(highlight=False)
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            shown = 0
            while True:
                head, rows = self._told()
                room = max(1, console.height - 5)
                more = [Text(f"… {len(rows) - room} more")] if len(rows) > room else []
                table = rich_table(LIVE_COLUMNS, rows[:room], console.width)
                live.update(Group(Text(head, style="dim"), table, *more), refresh=True)
                shown += 1
                if shown == count or self._leaves(pressed(seconds)):
                    return

    def _told(self) -> tuple[str, list[list[str]]]:
        """Return a line and the table; a server that is away for a while is waited for."""
        try:
            look = self.look()
        except ClientError as error:
            self._absence.bear(error)
            return safe(f"{error}; trying again"), []
        cpu = sum(one["cpuPercent"] for one in look["processes"])
        memory = size(sum(one["memoryBytes"] for one in look["processes"]))
        clock = time.strftime("%H:%M:%S")
        head = f"{clock}  {len(look['processes'])} running, {cpu:.0f}% of {look['cpuCount']}00%"
        return f"{head}, {memory}  by {self._order}  (c m o n: sort, q: leave)", self.rows(look)

    def _leaves(self, key: bytes) -> bool:
        self._order = KEYS.get(key, self._order)
        return key in {b"q", b"\x03", b"\x04"}


def _live_row(one: dict[str, Any]) -> list[str]:
    return [
        one["name"],
        one["pid"],
        f"{one['cpuPercent']:.1f}",
        f"{one['cpuSeconds']:.2f}s",
        size(one["memoryBytes"]),
        size(one["memoryLimitBytes"]),
        str(one["processes"]),
        str(one["threads"]),
        size(_written(one)),
        _ports(one),
    ]


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """Give a function that waits for a key, at most so many seconds; without a keyboard for none.

    An interrupt (Ctrl-C) comes as a key, for it is how one leaves.
    """
    if not is_terminal(0):

        def rest(seconds: float) -> bytes:
            time.sleep(seconds)  # noqa: TID251 - the person's own interval
            return b""

        yield rest
        return
    before = termios.tcgetattr(0)
    tty.setcbreak(0, termios.TCSADRAIN)
    modes = termios.tcgetattr(0)
    modes[3] &= ~termios.ISIG
    termios.tcsetattr(0, termios.TCSADRAIN, modes)

    def pressed(seconds: float) -> bytes:
        ready, _, _ = select.select([0], [], [], seconds)
        return (os.read(0, 1) or b"q") if ready else b""

    try:
        yield pressed
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
