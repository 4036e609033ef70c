"""The events of a process as E2B's streams tell them, and how it ended in Go's words."""

import binascii
import signal
from collections.abc import Iterator
from typing import Any

import msgspec

from sandkeeper.api.e2b.framing import frame
from sandkeeper.journal.cursor import Chunk, Gap
from sandkeeper.journal.segment import NOTICE, REMARK, STDERR, STDOUT

__all__ = ["KEEPALIVE", "Events", "end_event", "event", "status_text"]

_encode = msgspec.json.Encoder().encode

NAMES = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGILL: "illegal instruction",
    signal.SIGTRAP: "trace/breakpoint trap",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGKILL: "killed",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGUSR2: "user defined signal 2",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}
"""What Go calls them (os.ProcessState.String)."""


def event(fields: dict[str, Any]) -> bytes:
    """Return the frame of an event."""
    return frame(_encode({"event": fields}))


KEEPALIVE = event({"keepalive": {}})


def status_text(code: int | None, number: int | None) -> str:
    """Say how a process ended: `exit status 3`, `signal: killed`."""
    if number is not None:
        name = NAMES.get(number)  # type: ignore[call-overload]
        return f"signal: {name or f'signal {number}'}"
    if code is None or code < 0:
        return "unknown: nobody was there when it ended"
    return f"exit status {code}"


def end_event(code: int | None, number: int | None) -> bytes:
    """Return the frame of the end; zero values are left out, as protobuf does."""
    text = status_text(code, number)
    known = number is None and code is not None and code >= 0
    value = code if known else -1
    end: dict[str, Any] = {"exitCode": value} if value else {}
    if known:
        end["exited"] = True
    end["status"] = text
    if value:
        end["error"] = text
    return event({"end": end})


class Events:
    """The data events of a process, or with `pty` of a terminal; with `told` each has its offset.

    What is not kept any more is told on the standard error of a process: no byte is lost in
    silence, and none of its output is changed.
    """

    def __init__(self, *, pty: bool, told: bool) -> None:
        self._names = {STDOUT: b"pty" if pty else b"stdout", STDERR: b"stderr"}
        self._pty = pty
        self._told = told

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the frames of a batch; a heartbeat for none."""
        return b"".join(one for item in items for one in self._one(item)) if items else KEEPALIVE

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        if isinstance(item, Gap):
            if not self._pty:
                text = f"[output truncated: {item.end - item.start} bytes are not kept any more]\n"
                yield self._data(b"stderr", text.encode(), item.end)
        elif item.stream == NOTICE and not self._pty:
            yield self._data(b"stdout", item.data, item.end)
        elif item.stream not in (NOTICE, REMARK):
            yield self._data(self._names[item.stream], item.data, item.end)

    def _data(self, name: bytes, data: bytes, end: int) -> bytes:
        told = b',"cursor":"%d"' % end if self._told else b""
        # By hand: this is what a flood is made of.
        text = binascii.b2a_base64(data, newline=False)
        return frame(b'{"event":{"data":{"%b":"%b"}%b}}' % (name, text, told))
