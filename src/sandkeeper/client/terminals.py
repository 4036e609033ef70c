"""Verbs about terminals: a shell in one, which outlives the line it is used over."""

import json
import os
import select
import signal
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandkeeper.client.completing import sessions
from sandkeeper.client.connection import Server, segment
from sandkeeper.client.context import AsJson, verb
from sandkeeper.client.failures import Absence, ClientError, NoServer, Refused
from sandkeeper.client.output import (
    Column,
    age,
    complain,
    is_terminal,
    moment,
    print_json,
    print_table,
    say,
    size,
    write_all,
)
from sandkeeper.client.variables import variable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = ["run_in_terminal"]

GROUP = "Terminals"
INPUT_BYTES = 64 << 10
DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q, docker's."""
RESET = b"\x1b[?1049l\x1b[?1000;1002;1003;1006;2004l\x1b[?25h\x1b[0m\x1b[r\x1b[999;1H\r\n"
"""Leaves what a program may have switched on: the alternate screen, mouse and paste modes."""
COLUMNS = [
    Column("ID"),
    Column("NAME", spare=1, cuts=True),
    Column("STATUS", cuts=True),
    Column("AGE", right=True, spare=2),
    Column("CLIENTS", right=True, spare=4),
    Column("OUTPUT", right=True, spare=5),
    Column("SHELL", spare=3, cuts=True),
]


@verb("terminals", group=GROUP)
def terminals(server: Server, *, as_json: AsJson = False) -> None:
    """List terminals, the last ended ones too."""
    records = server.value("GET", "/terminals")
    if as_json:
        print_json(records)
    else:
        print_table(COLUMNS, [_row(one) for one in records])


def _row(record: dict[str, Any]) -> list[str]:
    ended = record["status"] != "running"
    end = moment(record["endedAt"] or "") or time.time()
    return [
        record["id"],
        record["sessionId"],
        f"exited ({_status_words(record)})" if ended else "running",
        age(end - (moment(record["startedAt"]) or end)),
        str(record["clients"]),
        size(record["outputBytes"]),
        record["shell"],
    ]


def _status_of(record: dict[str, Any]) -> int | None:
    """Return what a shell would say of an end; None where nobody knows it."""
    if record["exitSignal"]:
        return 128 + int(record["exitSignal"])
    return None if record["exitCode"] is None else int(record["exitCode"])


def _status_words(record: dict[str, Any]) -> str:
    status = _status_of(record)
    return "unknown" if status is None else str(status)


@verb("sh", group=GROUP)
def sh(
    server: Server,
    session: Annotated[
        str, typer.Argument(metavar="[SESSION]", help="Its name.", autocompletion=sessions)
    ] = "default",
) -> int:
    """Open a shell in the sandbox, or come back to one; Ctrl-P Ctrl-Q leaves it running."""
    _need_terminal()
    try:
        record = server.value("GET", _path(session))
        if record["status"] != "running":
            raise Refused("it has ended", 404)
    except Refused as error:
        if error.code != 404:
            raise
        record = server.value("POST", "/terminals", {"sessionId": session, **_size()})
    return _joined(server, record)


def run_in_terminal(server: Server, order: dict[str, Any], *, detach: bool) -> int:
    """Run a program in a terminal of its own; returns its exit status."""
    if not detach:
        _need_terminal()
    record = server.value("POST", "/terminals", {**order, **_size()})
    if detach:
        say(record["sessionId"])
        return 0
    return _joined(server, record)


def _need_terminal() -> None:
    if not (is_terminal(0) and is_terminal(1)):
        raise ClientError("standard input and output are no terminal")


def _size() -> dict[str, int]:
    """Return the size of this terminal, a usual one where it has none (a serial line)."""
    size_ = (0, 0)
    for fd in (1, 0):
        with suppress(OSError):
            size_ = os.get_terminal_size(fd)
            break
    columns, rows = size_
    return {"cols": columns or 80, "rows": rows or 24}


def _path(identifier: str, rest: str = "") -> str:
    return f"/terminals/{segment(identifier)}{rest}"


def _joined(server: Server, record: dict[str, Any]) -> int:
    attachment = _Attachment(server, record)
    with _raw_mode():
        attachment.hold()
    _leave_modes()
    if attachment.left:
        complain(f"left; it goes on: sandkeeper sh {record['sessionId']}")
        return 0
    if attachment.failure is not None:
        raise attachment.failure
    status = _status_of(server.value("GET", _path(record["id"])))
    if status is None:
        raise ClientError("it has ended, and nobody knows with which exit code")
    return status


def _leave_modes() -> None:
    """Undo what a program may have done to this terminal, if it obeys at all."""
    if is_terminal(1) and variable("TERM") not in {"", "dumb"}:
        write_all(1, RESET)


@contextmanager
def _raw_mode() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Attachment:
    """This terminal as a client of that one: keys there, output here, over lost connections."""

    def __init__(self, server: Server, record: dict[str, Any]) -> None:
        self._server = server
        self._record = record
        self._line: ClientConnection | None = None
        self._lock = threading.Lock()
        self._held = b""
        self._early = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._over = False
        self._began = False
        self.left = False
        self.failure: ClientError | None = None

    def hold(self) -> None:
        """Serve both directions until the program ends or the person leaves."""
        before = signal.signal(signal.SIGWINCH, lambda *_: self._wake())
        try:
            threading.Thread(target=self._receive_all, daemon=True).start()
            self._send_all()
        finally:
            signal.signal(signal.SIGWINCH, before)
            with self._lock:
                self._over = True
                if self._line is not None:
                    self._line.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    # What is typed: the main thread

    def _send_all(self) -> None:
        while not self._over:
            ready, _, _ = select.select([0, self._wake_read], [], [])
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._send(json.dumps({"type": "resize", **_size()}))
            if 0 in ready:
                data = _typed()
                if not data or self._leaves(data):
                    self.left = True
                    return

    def _leaves(self, data: bytes) -> bool:
        """Send what is typed but for the keys that leave; a first of the two is held back."""
        data = self._held + data
        place = data.find(DETACH)
        if place >= 0:
            self._send(data[:place])
            return True
        self._held = data[-1:] if data.endswith(DETACH[:1]) else b""
        self._send(data.removesuffix(self._held) if self._held else data)
        return False

    def _send(self, frame: str | bytes) -> None:
        with self._lock:
            line = self._line
            if not self._began and isinstance(frame, bytes):
                self._early = (self._early + frame)[:INPUT_BYTES]
        if line is not None and frame:
            # What is typed into a lost line is lost, as it is in any terminal.
            with suppress(_broken()):
                line.send(frame)

    # What is shown: a thread

    def _receive_all(self) -> None:
        absence = Absence(tell=lambda said: write_all(1, f"\r\n[{said}]\r\n".encode()))
        try:
            while not self._over:
                try:
                    if self._receive(absence):
                        return
                except ClientError as error:
                    absence.wait(error)
        except (ClientError, OSError) as error:
            self.failure = error if isinstance(error, ClientError) else ClientError(str(error))
        finally:
            self._over = True
            self._wake()

    def _receive(self, absence: Absence) -> bool:
        """Show what comes over one connection; True when the program has ended."""
        from websockets.exceptions import ConnectionClosed

        if self._began and self._has_ended():
            return True
        # Its name would begin another shell, once this one has ended.
        session = {"sessionId": self._record["id"], "create": "false"}
        query = {**session, "format": "raw", **_size()}
        line = self._server.socket("/terminal/ws", query)
        absence.heard()
        with self._lock:
            if self._over:
                line.close()
                return True
            if self._early:
                with suppress(ConnectionClosed):
                    line.send(self._early)
            self._line = line
            self._began = True
        try:
            for frame in line:
                write_all(1, frame if isinstance(frame, bytes) else frame.encode())
        except ConnectionClosed:
            pass
        finally:
            self._line = None
        return bool(line.close_code == 1000) or self._has_ended()

    def _has_ended(self) -> bool:
        with suppress(NoServer):
            return bool(self._server.value("GET", _path(self._record["id"]))["status"] != "running")
        return False


def _typed() -> bytes:
    """Return what is typed; nothing when the terminal is gone (EIO)."""
    with suppress(OSError):
        return os.read(0, INPUT_BYTES)
    return b""


def _broken() -> type[Exception]:
    from websockets.exceptions import ConnectionClosed

    return ConnectionClosed


@verb("record", group=GROUP)
def record(
    server: Server,
    session: Annotated[str, typer.Argument(metavar="SESSION", autocompletion=sessions)],
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None,
) -> None:
    """Save what a terminal has shown, as an asciicast (to standard output without FILE)."""
    data = server.ask("GET", _path(session, "/recording"))
    if file is None:
        write_all(1, data)
        return
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ClientError(f"{file}: {str(error.strerror).lower()}") from None


@verb("play", group=GROUP)
def play(
    server: Server,
    source: Annotated[str, typer.Argument(metavar="SESSION|FILE")],
    *,
    speed: Annotated[float, typer.Option(min=0.01, help="Twice as fast: 2.")] = 1.0,
    idle: Annotated[float, typer.Option(min=0, help="Longest pause in seconds.")] = 2.0,
) -> None:
    """Play a recording of a terminal, or an asciicast file."""
    path = Path(source)
    raw = path.read_bytes() if path.is_file() else server.ask("GET", _path(source, "/recording"))
    try:
        for wait, data in _played(source, raw):
            # What is played is what a clock says; nothing else is waited for.
            time.sleep(min(wait, idle) / speed)  # noqa: TID251
            write_all(1, data)
    finally:
        _leave_modes()


def _played(source: str, raw: bytes) -> Iterator[tuple[float, bytes]]:
    """Give seconds to wait and what is shown then; raises ClientError for what is no asciicast."""
    shown = 0.0
    try:
        head, *lines = raw.splitlines()
        if json.loads(head)["version"] not in {2, 3}:
            raise ValueError("another version")
        for line in filter(bytes.strip, lines):
            if line.startswith(b"#"):
                continue
            moment_, kind, data = json.loads(line)
            at = shown + moment_ if json.loads(head)["version"] == 3 else moment_
            if kind == "o":
                yield max(0.0, at - shown), str(data).encode("utf-8", "replace")
            shown = max(at, shown)
    except (ValueError, TypeError, KeyError):
        raise ClientError(f"{source}: it is no asciicast") from None
