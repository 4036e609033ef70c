"""Verbs that show what processes write: `run`, `attach`, `logs`."""

import math
import os
import select
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

import typer

from sandkeeper.client.connection import Server
from sandkeeper.client.context import Id, RunningId, verb
from sandkeeper.client.failures import ClientError, Refused
from sandkeeper.client.following import ProcessFollower
from sandkeeper.client.output import close_output, complain, say, write_all
from sandkeeper.client.processes import process_path, record_of, send_signal
from sandkeeper.client.quantities import amount
from sandkeeper.client.reading import DESCRIPTORS, Form, LineReader, show_all, standing
from sandkeeper.client.terminals import run_in_terminal
from sandkeeper.client.variables import own_variable

__all__ = ["FAILED"]

GROUP = "Processes"
FAILED = 125
NOT_STARTED = {
    "no such file or directory": 127,
    "permission denied": 126,
    "exec format error": 126,
}
"""A shell's numbers for a program that is not there, and for one that cannot be run."""
INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
STDIN_BYTES = 64 << 10
LEAVE_SECONDS = 5.0
ONE_PRESS_SECONDS = 0.002
"""`timeout` and their like send an interrupt to a program and to its group: that is one."""

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Left(Exception):
    """The person went away with a second Ctrl-C; the process goes on."""


@verb("run", group=GROUP, settings={"allow_interspersed_args": False})
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
        list[str],
        typer.Option(
            "-e", "--env", metavar="NAME[=VALUE]", help="A variable; one's own without a value."
        ),
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

    Options stand before the command; what follows it is its own.
    Exits with the command's own status, 128 and the number for a signal, 125 when it could not be
    started. Ctrl-C goes to the command; a second one leaves it alone.
    """
    variables = _variables(env, env_file)
    if tty:
        _refuse_in_terminal(timeout=timeout, memory=memory, cpus=cpus, pids=pids)
        _refuse_in_terminal(restart=restart != "no", wait_port=wait_port)
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
        "holdOutput": not detach,
        **_restarts(restart),
        **({"timeout": timeout} if timeout else {}),
    }
    # A key makes it safe to ask again, whatever became of the first answer.
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    try:
        if detach:
            say(server.value("POST", "/process", payload, headers=headers)["id"])
            return 0
        with Passing(server) as passing:
            identifier = server.value("POST", "/process", payload, headers=headers)["id"]
            passing.begin(identifier)
            return _shown(server, identifier, passing.passed, feed=interactive, holds=True)
    except Refused as error:
        complain(str(error))
        return next((code for words, code in NOT_STARTED.items() if words in str(error)), FAILED)
    except Left:
        complain("left; it may have been started: sandkeeper ps")
        return INTERRUPTED


def _refuse_in_terminal(**given: object) -> None:
    """A limit must not be believed in that is not there."""
    for name, value in given.items():
        if value:
            raise ClientError(f"--{name.replace('_', '-')} does not go with -t")


def _variables(given: list[str], files: list[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        try:
            lines = file.read_text().replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeError) as error:
            raise ClientError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
        found |= _pairs(line for line in lines if line.strip() and line.lstrip()[0] != "#")
    return found | _pairs(iter(given))


def _pairs(lines: Iterator[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not (name := name.strip()):
            raise ClientError(f"a variable is NAME=VALUE, or NAME for one's own, not {line!r}")
        if equals:
            found[name] = value
        elif (own := own_variable(name)) is not None:
            found[name] = own
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
    identifier: RunningId,
    *,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Feed it standard input.")
    ] = False,
    missed: Annotated[
        bool, typer.Option("--missed", help="Begin with what it wrote so far.")
    ] = False,
) -> int:
    """Show what a running process writes from now on; exits as it does."""
    record = record_of(server, identifier)
    offset = 0 if missed else standing(server, record["id"])
    with Passing(server, record["id"]) as passing:
        return _shown(server, record["id"], passing.passed, feed=interactive, offset=offset)


def _shown(
    server: Server,
    identifier: str,
    passed: Set[int],
    *,
    feed: bool,
    offset: int = 0,
    holds: bool = False,
) -> int:
    """Show it to its end, and what ended it unless that is a signal that was passed from here."""

    def write(stream: str, data: bytes, _time: str) -> None:
        write_all(DESCRIPTORS.get(stream, 2), data)

    follower = ProcessFollower(server, identifier, write, complain, offset, holds=holds)
    try:
        if feed:
            threading.Thread(target=_feed, args=(server, identifier), daemon=True).start()
        end = follower.follow()
    except Left:
        _let_go(server, identifier, holds=holds)
        complain(f"left; it goes on: sandkeeper attach {identifier}")
        return INTERRUPTED
    except BrokenPipeError:
        close_output()
        _let_go(server, identifier, holds=holds)
        complain(f"nobody reads any more; it goes on: sandkeeper logs -f {identifier}")
        return NOBODY_READS
    except (ClientError, OSError) as error:
        why = error if isinstance(error, ClientError) else str(error.strerror).lower()
        complain(f"{why}; it may go on: sandkeeper attach {identifier}")
        return FAILED
    if end is None:
        return 0
    if end.signal not in passed and (cause := end.cause()):
        complain(f"{cause} (exit status {end.status})")
    return end.status


def _let_go(server: Server, identifier: str, *, holds: bool) -> None:
    """Have a program that has waited for its reader go on without one."""
    if holds:
        with suppress(ClientError):  # after a minute it does so by itself
            server.ask("DELETE", process_path(identifier, "/hold"), seconds=LEAVE_SECONDS)


class Passing:
    """While inside, gives SIGINT, SIGTERM and their like to a process; a second SIGINT raises Left.

    What comes before there is a process waits for it. What this program was told to ignore (nohup)
    is not passed either.
    """

    def __init__(self, server: Server, identifier: str = "") -> None:
        self._server = server
        self._identifier = identifier
        self.passed: set[int] = set()
        self._waiting: list[int] = []
        self._interrupted = -math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in PASSED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self, identifier: str) -> None:
        """Give what has come, and will come, to this process."""
        self._identifier = identifier
        while self._waiting:
            self._send(self._waiting.pop(0))

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if now - self._interrupted < ONE_PRESS_SECONDS:
                return
            if self._interrupted > -math.inf:
                raise Left
            self._interrupted = now
        if self._identifier:
            self._send(number)
        else:
            self._waiting.append(number)

    def _send(self, number: int) -> None:
        self.passed.add(number)
        try:
            send_signal(self._server, self._identifier, str(int(number)))
        except ClientError as error:
            complain(str(error))


def _feed(server: Server, identifier: str) -> None:
    """Give standard input to the process, at its pace, and the end of it."""
    path = process_path(identifier, "/stdin")
    try:
        while data := _read_input():
            while data:
                data = data[_fed(server, path, data) :]
        server.ask("DELETE", path)
    except Refused as error:
        if error.code not in {404, 409}:  # it has ended, or closed its input: its own affair
            complain(f"standard input: {error}")
    except ClientError as error:
        # How much of the last piece arrived nobody knows, so no more of it can follow.
        complain(f"standard input: {error}; no more of it is given")
    except OSError as error:
        complain(f"standard input: {str(error.strerror).lower()}")


def _read_input() -> bytes:
    while True:
        try:
            return os.read(0, STDIN_BYTES)
        except BlockingIOError:  # whoever shares it has made it so
            select.select([0], [], [])


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
    tail: Annotated[
        str, typer.Option("-n", "--tail", metavar="N", help="The last N lines, or all.")
    ] = "all",
    stdout: Annotated[bool, typer.Option("--stdout", help="Only this stream.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only this stream.")] = False,
    grep: Annotated[str, typer.Option(help="Only lines that match this (RE2).")] = "",
    timestamps: Annotated[
        bool, typer.Option("-t", "--timestamps", help="Times before the lines.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each line.")
    ] = False,
) -> int:
    """Show what a process has written, and with -f what it goes on to write."""
    last = int(tail) if tail.isascii() and tail.isdecimal() and len(tail) < 19 else None
    if last is None and tail != "all":
        raise ClientError(f"--tail takes a number of lines or all, not {tail!r}")
    record = record_of(server, identifier)
    only = "" if stdout == stderr else "stdout" if stdout else "stderr"
    if since or until or last is not None or grep or timestamps or as_json:
        form = Form.JSON if as_json else Form.STAMPED if timestamps else Form.PLAIN
        reader = LineReader(server, record["id"], only=only, pattern=grep, form=form)
        return reader.show(since=since, until=until, tail=last, live=follow)
    return show_all(server, record["id"], only, live=follow)
