"""Verbs that show what processes write: `run`, `attach`, `logs`."""

import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from sandkeeper.client.connection import Server
from sandkeeper.client.context import Id, verb
from sandkeeper.client.failures import ClientError, Refused
from sandkeeper.client.following import Follower
from sandkeeper.client.output import complain, say, write_all
from sandkeeper.client.processes import process_path, send_signal
from sandkeeper.client.quantities import amount
from sandkeeper.client.reading import DESCRIPTORS, LineReader, show_all
from sandkeeper.client.terminals import run_in_terminal

__all__ = ["FAILED"]

GROUP = "Processes"
FAILED = 125
NOT_STARTED = {"no such file or directory": 127, "permission denied": 126}
"""A shell's numbers for a program that is not there, and for one that cannot be run."""
INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
STDIN_BYTES = 64 << 10


class Left(Exception):
    """The person went away with a second Ctrl-C; the process goes on."""


@verb("run", group=GROUP)
def run(
    server: Server,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run.")],
    *,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Print its id and go.")] = False,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Feed it standard input.")
    ] = False,
    tty: Annotated[
        bool, typer.Option("-t", "--tty", help="In a terminal (Ctrl-P Ctrl-Q leaves).")
    ] = False,
    name: Annotated[str, typer.Option(help="Its name.")] = "",
    env: Annotated[
        list[str], typer.Option("-e", "--env", metavar="NAME=VALUE", help="A variable of its.")
    ] = [],  # noqa: B006
    env_file: Annotated[
        list[Path], typer.Option("--env-file", help="A file with lines NAME=VALUE.")
    ] = [],  # noqa: B006
    user: Annotated[str, typer.Option("-u", "--user", help="Whose it is.")] = "",
    cwd: Annotated[str, typer.Option("-w", "--cwd", "--workdir", help="Its folder.")] = "",
    timeout: Annotated[int, typer.Option(min=0, help="Kill it after so many seconds.")] = 0,
    memory: Annotated[str, typer.Option("-m", "--memory", help="Most memory (512m, 2g).")] = "",
    cpus: Annotated[float, typer.Option(min=0, help="Most processors (0.5).")] = 0,
    pids: Annotated[int, typer.Option(min=0, help="Most processes and threads.")] = 0,
    restart: Annotated[
        str, typer.Option(metavar="no|on-failure[:N]", help="Try again when it fails.")
    ] = "no",
    wait_port: Annotated[
        list[int], typer.Option("--wait-port", help="With -d: return when it listens there.")
    ] = [],  # noqa: B006
) -> int:
    """Run a command and show what it writes, or leave it running (-d).

    Exits with the command's own status, 128 and the number for a signal, 125 when it could not be
    started. Ctrl-C goes to the command; a second one leaves it alone.
    """
    variables = _variables(env, env_file)
    if tty:
        order = {"shell": command[0], "args": command[1:], "env": variables, "user": user}
        given = {"workingDir": cwd, "sessionId": name}
        return run_in_terminal(server, {**order, **given}, detach=detach)
    limits = {
        "memoryBytes": amount("--memory", memory) if memory else None,
        "cpus": cpus or None,
        "pids": pids or None,
    }
    payload: dict[str, Any] = {
        "argv": command,
        "user": user,
        "name": name,
        "env": variables,
        "workingDir": cwd,
        "stdin": interactive,
        "limits": {key: value for key, value in limits.items() if value is not None},
        "waitForPorts": wait_port,
        **_restarts(restart),
        **({"timeout": timeout} if timeout else {}),
    }
    try:
        # A key makes it safe to ask again, whatever became of the first answer.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        record = server.value("POST", "/process", payload, headers=headers)
    except Refused as error:
        complain(str(error))
        return next((code for words, code in NOT_STARTED.items() if words in str(error)), FAILED)
    if detach:
        say(record["id"])
        return 0
    return _shown(server, record["id"], feed=interactive)


def _variables(given: list[str], files: list[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeError) as error:
            raise ClientError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
        found |= _pairs(line for line in lines if line.strip() and line.lstrip()[0] != "#")
    return found | _pairs(iter(given))


def _pairs(lines: Iterator[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not name or not equals:
            raise ClientError(f"a variable is NAME=VALUE, not {line!r}")
        found[name.strip()] = value
    return found


def _restarts(policy: str) -> dict[str, Any]:
    kind, colon, count = policy.partition(":")
    if kind == "no" and not colon:
        return {}
    if kind != "on-failure" or (colon and not count.isdecimal()):
        raise ClientError(f"--restart is no, on-failure or on-failure:N, not {policy!r}")
    return {"restartOnFailure": True, "maxRestarts": int(count) if colon else -1}


@verb("attach", group=GROUP)
def attach(
    server: Server,
    identifier: Id,
    *,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Feed it standard input.")
    ] = False,
    missed: Annotated[
        bool, typer.Option("--missed", help="Begin with what it wrote so far.")
    ] = False,
) -> int:
    """Show what a running process writes from now on; exits as it does."""
    record = server.value("GET", process_path(identifier))
    offset = 0 if missed else _standing(server, record["id"])
    return _shown(server, record["id"], feed=interactive, offset=offset)


def _standing(server: Server, identifier: str) -> int:
    raw = server.ask("GET", process_path(identifier, "/lines"), query={"tail": 1})
    return int(json.loads(raw.splitlines()[-1])["offset"])


def _shown(server: Server, identifier: str, *, feed: bool, offset: int = 0) -> int:
    def write(stream: str, data: bytes, _time: str) -> None:
        write_all(DESCRIPTORS[stream], data)

    follower = Follower(server, identifier, write, complain, offset)
    try:
        with _passing_signals(server, identifier):
            if feed:
                threading.Thread(target=_feed, args=(server, identifier), daemon=True).start()
            end = follower.follow()
    except Left:
        complain(f"left; it goes on: sandkeeper attach {identifier}")
        return INTERRUPTED
    except BrokenPipeError:
        _close_output()
        complain(f"nobody reads any more; it goes on: sandkeeper logs -f {identifier}")
        return NOBODY_READS
    except ClientError as error:
        complain(f"{error}; it may go on: sandkeeper attach {identifier}")
        return FAILED
    return end.status if end else 0


def _close_output() -> None:
    """Have the interpreter's own last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


@contextmanager
def _passing_signals(server: Server, identifier: str) -> Iterator[None]:
    """Give SIGINT, SIGTERM and their like to the process; a second SIGINT raises Left."""
    passed = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
    interrupts = 0

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise Left
        try:
            send_signal(server, identifier, str(int(number)))
        except ClientError as error:
            complain(str(error))

    before = {number: signal.signal(number, pass_on) for number in passed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _feed(server: Server, identifier: str) -> None:
    """Give standard input to the process, at its pace, and the end of it."""
    path = process_path(identifier, "/stdin")
    try:
        while data := os.read(0, STDIN_BYTES):
            while data:
                data = data[_fed(server, path, data) :]
        server.ask("DELETE", path)
    except Refused as error:
        if error.code not in {404, 409}:  # it has ended, or closed its input: its own affair
            complain(f"standard input: {error}")
    except ClientError as error:
        complain(f"standard input: {error}")


def _fed(server: Server, path: str, data: bytes) -> int:
    """Return how many bytes the process has taken; a pipe that stays full is no failure."""
    try:
        server.ask("POST", path, body=data)
    except Refused as error:
        written = error.details.get("written") if isinstance(error.details, dict) else None
        if error.code != 503 or not isinstance(written, int):
            raise
        return written
    return len(data)


@verb("logs", group=GROUP)
def logs(
    server: Server,
    identifier: Id,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on to its end.")] = False,
    since: Annotated[str, typer.Option(help="From this time on (2026-11-28T10:00Z, 10m).")] = "",
    until: Annotated[str, typer.Option(help="Up to this time.")] = "",
    tail: Annotated[int, typer.Option("-n", "--tail", min=0, help="The last N lines.")] = 0,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only this stream.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only this stream.")] = False,
    grep: Annotated[str, typer.Option(help="Only lines that match this (RE2).")] = "",
    timestamps: Annotated[
        bool, typer.Option("-t", "--timestamps", help="Times before the lines.")
    ] = False,
) -> int:
    """Show what a process has written, and with -f what it goes on to write."""
    record = server.value("GET", process_path(identifier))
    only = "" if stdout == stderr else "stdout" if stdout else "stderr"
    if since or until or tail or grep or timestamps:
        reader = LineReader(server, record["id"], only=only, pattern=grep, timestamps=timestamps)
        return reader.show(since=since, until=until, tail=tail, live=follow)
    return show_all(server, record["id"], only, live=follow)
