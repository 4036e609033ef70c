"""How a line of the log is written: as JSON, as the contract's JSON, or for a person at a terminal.

json       fields for programs: milliseconds, `error` where the server failed, nothing twice
contract   what collectors of the contract's own server look for: whole seconds, level error for
           answers from 400 on and for what a process writes to its standard error, and audit
           lines whose message has all that their fields say
text       a line a person reads, coloured on a terminal
"""

import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from sandkeeper.linebreaks import in_one_line
from sandkeeper.linux.clocks import rfc3339, rfc3339_milliseconds
from sandkeeper.log.framing import Frame, shown

__all__ = ["FORMATS", "Contract", "Format", "Json", "Shipped", "Text", "format_for", "timestamp"]

FORMATS = ("json", "text", "contract")
NOTHING: Mapping[str, str] = MappingProxyType({})
_encode = msgspec.json.Encoder(order="sorted").encode
_value = msgspec.json.encode


def timestamp(seconds: float | None = None) -> str:
    """Return local time as RFC 3339 with whole seconds, now or at a Unix time."""
    return rfc3339(int(time.time() if seconds is None else seconds) * 1_000_000_000)


class Format(Protocol):
    """Makes lines; from any thread."""

    def line(
        self, level: str, message: str, fields: dict[str, Any], moment: float | None = None
    ) -> bytes:
        """Make one line of now or of a Unix time; what UTF-8 cannot carry is replaced."""

    def request_level(self, status: int) -> str:
        """Return the level of a request's line."""

    def audit(self, action: str, fields: dict[str, str]) -> str:
        """Return the message of an audit line."""

    def frame(
        self, name: str, pid: str, stream: str, moment: float, more: Mapping[str, str] = NOTHING
    ) -> Frame:
        """Return what stands around each line that a process wrote to `stream` at a Unix time.

        `more` are fields that say to what else it belongs.
        """


def format_for(name: str, fd: int, *, colours: bool = True) -> Format:
    """Return a format by its name; "" is the one for who reads `fd`: text on a terminal."""
    terminal = os.isatty(fd)
    if name == "text" or (not name and terminal):
        return Text(colours=colours and terminal)
    return Contract() if name == "contract" else Json()


class Json:
    """JSON lines with sorted keys."""

    stderr_level = b"info"

    def moment(self, seconds: float) -> str:
        """Write a time."""
        return rfc3339_milliseconds(seconds)

    def request_level(self, status: int) -> str:
        """Return error where the server failed; what a client got wrong is none of ours."""
        return "error" if status >= 500 else "info"

    def audit(self, action: str, fields: dict[str, str]) -> str:
        """Return the action; all else is in the fields."""
        return f"type={action}"

    def line(
        self, level: str, message: str, fields: dict[str, Any], moment: float | None = None
    ) -> bytes:
        """Make one line."""
        at = self.moment(time.time() if moment is None else moment)
        record = {**fields, "level": level, "msg": message, "time": at}
        try:
            return in_one_line(_encode(record)) + b"\n"
        except UnicodeEncodeError:
            clean = {
                key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
                for key, value in record.items()
            }
            return in_one_line(_encode(clean)) + b"\n"

    def frame(
        self, name: str, pid: str, stream: str, moment: float, more: Mapping[str, str] = NOTHING
    ) -> Frame:
        """Return the record but for the text of its message."""
        fields: tuple[tuple[str, str], ...] = (
            ("process-name", name),
            ("process-pid", pid),
            ("source", "process"),
            ("stream", stream),
            ("time", self.moment(moment)),
        )
        if more:
            fields = tuple(sorted((*fields, *more.items())))
        level = self.stderr_level if stream == "stderr" else b"info"
        tail = b"".join(b',"' + key.encode() + b'":' + _value(value) for key, value in fields)
        return True, b'{"level":"' + level + b'","msg":"', b'"' + tail + b"}\n"


class Shipped(Json):
    """JSON lines for who reads their time as a number: seconds since the epoch."""

    def moment(self, seconds: float) -> str:
        """Write a time to the microsecond."""
        return f"{seconds:.6f}"


class Contract(Json):
    """JSON lines exactly as the contract has them."""

    stderr_level = b"error"

    def moment(self, seconds: float) -> str:
        """Write a time in whole seconds."""
        return timestamp(seconds)

    def request_level(self, status: int) -> str:
        """Return error from 400 on."""
        return "error" if status >= 400 else "info"

    def frame(
        self, name: str, pid: str, stream: str, moment: float, more: Mapping[str, str] = NOTHING
    ) -> Frame:
        """Return the contract's fields and no others."""
        return super().frame(name, pid, stream, moment, {})

    def audit(self, action: str, fields: dict[str, str]) -> str:
        """Return the action and all that is known, in the order of the fields."""
        parts = [f"{key}={_quoted(value)}" for key, value in fields.items() if value]
        return " ".join([f"type={action}", *parts])


def _quoted(value: str) -> str:
    value = value.replace("\r", "\\r").replace("\n", "\\n")
    if " " not in value:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_DIM, _RED, _GREEN, _YELLOW, _CYAN, _PLAIN = (f"\x1b[{n}m" for n in (2, 31, 32, 33, 36, 0))
_COLOURS = {"error": _RED, "warning": _YELLOW, "debug": _DIM}
_SAID = frozenset({"source", "action", "method", "path", "query", "status", "bytes"})
_SAID_OF_REQUESTS = _SAID | {"duration", "rid"}


class Text:
    """Lines for a person: the time of day, what happened, and the fields that say more."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def request_level(self, status: int) -> str:
        """Return error where the server failed."""
        return "error" if status >= 500 else "info"

    def audit(self, action: str, fields: dict[str, str]) -> str:
        """Return the action; the line shows the fields that are not empty."""
        return f"audit {action}"

    def line(
        self, level: str, message: str, fields: dict[str, Any], moment: float | None = None
    ) -> bytes:
        """Make one line; a stack trace follows on lines of its own."""
        head = self._head(time.time() if moment is None else moment, level)
        said = _SAID_OF_REQUESTS if fields.get("source") == "access" else _SAID
        more = [
            self._in(_DIM, f"{key}={_quoted(str(value))}")
            for key, value in fields.items()
            if key not in said and key != "stack" and value != ""
        ]
        colour = _COLOURS.get(level, "")
        if fields.get("source") in {"access", "audit"}:
            colour = colour or (_YELLOW if fields.get("status", 0) >= 400 else _CYAN)
        text = " ".join([head, self._in(colour, _shown(message)), *more])
        if stack := fields.get("stack"):
            text += "\n" + self._in(_DIM, _shown(str(stack).rstrip("\n"), lines=True))
        return text.encode("utf-8", "replace") + b"\n"

    def frame(
        self, name: str, pid: str, stream: str, moment: float, more: Mapping[str, str] = NOTHING
    ) -> Frame:
        """Return the time and the name of the process, which stand in front."""
        colour = _YELLOW if stream == "stderr" else _GREEN
        head = f"{self._head(moment, 'info')} {self._in(colour, f'{_shown(name)}|')} "
        return False, head.encode(), b"\n"

    def _head(self, moment: float, level: str) -> str:
        whole = time.strftime("%H:%M:%S", time.localtime(moment))
        head = self._in(_DIM, f"{whole}.{int(moment % 1 * 1000):03d}")
        if level in {"info", "debug"}:
            return head
        return f"{head} {self._in(_COLOURS[level], level)}"

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours and colour else text


def _shown(text: str, *, lines: bool = False) -> str:
    """Return a text without what a terminal would obey."""
    return shown(text if lines else text.replace("\n", "\\n"))
