"""Verbs about processes that run or have run: to look at, to end, to wait for."""

import signal as signals
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sandkeeper.client.completing import ports
from sandkeeper.client.connection import Server, segment
from sandkeeper.client.context import AsJson, Ids, RunningIds, verb
from sandkeeper.client.failures import Absence, ClientError, Refused
from sandkeeper.client.output import complain, print_json, say

__all__ = ["each", "process_path", "record_after", "record_of", "remove"]

GROUP = "Processes"
WAIT_SECONDS = 60
KILLED_SECONDS = 10.0


def process_path(identifier: str, rest: str = "") -> str:
    """Return the path of a process."""
    return f"/process/{segment(identifier)}{rest}"


def record_of(server: Server, identifier: str) -> dict[str, Any]:
    """Return the record of a process; what is refused is told by its name."""
    try:
        return dict(server.value("GET", process_path(identifier)))
    except Refused as error:
        raise Refused(f"{identifier}: {error}", error.code, error.details) from None


def each(ids: list[str], do: Callable[[str], None]) -> int:
    """Do something for each of several; each failure is told and the rest is done."""
    failed = 0
    for identifier in ids:
        try:
            do(identifier)
        except Refused as error:
            named = f" {identifier.removeprefix(':')}:" in f" {error}"
            complain(str(error) if named else f"{identifier}: {error}")
            failed = error.status
    return failed


@verb("inspect", group=GROUP)
def inspect(server: Server, ids: Ids, *, as_json: AsJson = True) -> int:
    """Print the records of processes as JSON."""
    found: list[Any] = []
    status = each(ids, lambda one: found.append(server.value("GET", process_path(one))))
    print_json(found)
    return status


@verb("stop", group=GROUP)
def stop(
    server: Server,
    ids: RunningIds,
    *,
    seconds: Annotated[
        int, typer.Option("-t", "--time", min=0, help="Kill what still runs after so many seconds.")
    ] = 10,
) -> int:
    """End processes: SIGTERM, and SIGKILL after a while."""

    def one(identifier: str) -> None:
        record = server.value("GET", process_path(identifier))
        if record["status"] != "running":
            say(identifier)
            return
        _ending(server, record["id"], "")
        if record_after(server, record["id"], seconds)["status"] == "running":
            _ending(server, record["id"], "/kill")
        say(identifier)

    return each(ids, one)


def _ending(server: Server, identifier: str, how: str) -> None:
    """Ask for an end; that it came by itself in the meantime is what was asked for, too."""
    try:
        server.ask("DELETE", process_path(identifier, how))
    except Refused:
        if server.value("GET", process_path(identifier))["status"] == "running":
            raise


@verb("restart", group=GROUP)
def restart(
    server: Server,
    ids: Ids,
    *,
    seconds: Annotated[
        int,
        typer.Option("-t", "--time", min=0, max=119, help="Kill what has not ended by then."),
    ] = 10,
) -> int:
    """End processes that run, and start the same again; prints the ids of the new ones."""

    def one(identifier: str) -> None:
        path, query = process_path(identifier, "/restart"), {"timeout": seconds}
        say(server.value("POST", path, query=query)["id"])

    return each(ids, one)


@verb("prune", group=GROUP)
def prune(
    server: Server,
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> int:
    """Remove the records and outputs of all processes that are over."""
    records = server.value("GET", "/process")
    ids = [one["id"] for one in records if one["status"] != "running"]
    if ids and not yes and not typer.confirm(f"remove {len(ids)} that are over?", err=True):
        raise ClientError("nothing was removed")
    return each(ids, lambda one: remove(server, one, force=True))


def remove(server: Server, identifier: str, *, force: bool) -> None:
    """Remove a process that is over, and print its id; with `force` one that runs is killed."""
    try:
        record = server.value("GET", process_path(identifier))
        if force and record["status"] == "running":
            _ending(server, record["id"], "/kill")
            record_after(server, record["id"], KILLED_SECONDS)
        server.ask("DELETE", process_path(record["id"], "/record"))
    except Refused as error:
        if not force or error.code != 404:
            raise
        return
    say(record["id"])


@verb("kill", group=GROUP)
def kill(
    server: Server,
    ids: RunningIds,
    *,
    signal: Annotated[str, typer.Option("-s", "--signal", help="A name or a number.")] = "SIGKILL",
) -> int:
    """Kill processes, or send them another signal."""

    def one(identifier: str) -> None:
        send_signal(server, identifier, signal)
        say(identifier)

    return each(ids, one)


@verb("signal", group=GROUP)
def signal_(
    server: Server, signal: Annotated[str, typer.Argument(metavar="SIGNAL")], ids: RunningIds
) -> int | None:
    """Send a signal (`HUP`, `SIGUSR1`, `10`) to processes."""
    return kill(server, ids, signal=signal)


def send_signal(server: Server, identifier: str, signal: str) -> None:
    """Send a signal by its name or number."""
    payload = {"signal": int(signal) if signal.isdecimal() else signal}
    server.value("POST", process_path(identifier, "/signal"), payload)


@verb("wait", group=GROUP)
def wait(
    server: Server,
    ids: Ids,
    *,
    port: Annotated[
        list[int],
        typer.Option("--port", help="Until it listens there.", autocompletion=ports),
    ] = [],  # noqa: B006
    http: Annotated[
        list[str], typer.Option("--http", metavar="PORT[/PATH]", help="Until it answers there.")
    ] = [],  # noqa: B006
    line: Annotated[list[str], typer.Option("--line", help="Until a line has this text.")] = [],  # noqa: B006
    file: Annotated[list[str], typer.Option("--file", help="Until this file exists.")] = [],  # noqa: B006
    ended: Annotated[bool, typer.Option("--exit", help="Until it is over.")] = False,
    seconds: Annotated[
        int, typer.Option("-t", "--timeout", min=0, help="Give up after so many seconds.")
    ] = 3600,
    as_json: AsJson = False,
) -> int:
    """Wait until processes are over (then with the last one's exit status), or are ready."""
    conditions: list[dict[str, Any]] = [
        *({"port": number} for number in port),
        *({"http": _http(where)} for where in http),
        *({"log": {"text": text}} for text in line),
        *({"file": {"path": path}} for path in file),
    ]
    if not conditions:
        return _wait_for_ends(server, ids, seconds, as_json=as_json)
    if ended:
        conditions.append({"exit": True})
    payload = {"all": conditions, "timeout": seconds}
    answers: list[Any] = []

    def met(identifier: str) -> None:
        path = process_path(identifier, "/wait-for")
        answers.append(server.value("POST", path, payload, seconds=seconds + 30))

    failed = each(ids, met)
    if as_json:
        print_json(answers)
    return failed


def _http(where: str) -> dict[str, Any]:
    number, slash, path = where.partition("/")
    if not number.isdecimal():
        raise ClientError(f"--http takes PORT or PORT/PATH, not {where!r}")
    return {"port": int(number), "path": slash + path or "/"}


def _wait_for_ends(server: Server, ids: list[str], seconds: int, *, as_json: bool) -> int:
    status, records = 0, list[dict[str, Any]]()

    def one(identifier: str) -> None:
        nonlocal status
        record = record_after(server, identifier, seconds)
        if record["status"] == "running":
            raise Refused(f"still running after {seconds} s", 422)
        status = exit_status(record)
        records.append(record)
        if not as_json:
            say(str(status))

    failed = each(ids, one)
    if as_json:
        print_json(records)
    return failed or status


def record_after(server: Server, identifier: str, seconds: float) -> dict[str, Any]:
    """Return the record at its end, or after so many seconds; also over a server's restart."""
    until, absence = time.monotonic() + seconds, Absence()
    while True:
        left = max(0, round(until - time.monotonic()))
        query = {"timeout": min(left, WAIT_SECONDS)}
        try:
            record = server.value("GET", process_path(identifier, "/wait"), query=query)
        except ClientError as error:
            absence.wait(error)
            continue
        absence.heard()
        if record["status"] != "running" or time.monotonic() >= until:
            return dict(record)


def exit_status(record: dict[str, Any]) -> int:
    """Return how a process ended as a shell has it: 128 and the number for a signal."""
    name = record["exitSignal"]
    if not name:
        return int(record["exitCode"]) if record["exitCode"] >= 0 else 1
    known = getattr(signals, name, None)
    number = name.removeprefix("SIG")
    return 128 + int(known or (number if number.isdecimal() else 0))
