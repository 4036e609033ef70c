"""What E2B's clients send: the messages of its Process and Filesystem services, as JSON has them.

Field names are protobuf's in camel case. `cursor` is ours: an offset in a process's output from
which on a stream is wanted; with it every event tells where it ends.
"""

import base64
import binascii
from typing import Any

import msgspec

from sandkeeper.api.e2b.connect import Failure

__all__ = [
    "Chunk",
    "ConnectCall",
    "DataMessage",
    "InputCall",
    "InputMessage",
    "ListDirCall",
    "MoveCall",
    "Nothing",
    "PathCall",
    "ProcessConfig",
    "PtySize",
    "Selector",
    "SelectorCall",
    "SignalCall",
    "StartCall",
    "UpdateCall",
    "WatchCall",
    "WatcherCall",
]


class Message(msgspec.Struct, rename="camel"):
    """Unknown fields are passed over, as protobuf's readers do."""


class Nothing(Message):
    """No field."""


class ProcessConfig(Message):
    """A program and how it is run; `cwd` is the user's home when it is not given."""

    cmd: str = ""
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str = ""


class PtySize(Message):
    """Columns and rows."""

    cols: int = 0
    rows: int = 0


class Pty(Message):
    """A terminal."""

    size: PtySize | None = None


class Selector(Message):
    """A process by its number or by its tag."""

    pid: int = 0
    tag: str = ""


class StartCall(Message):
    """`stdin` is open when the field is missing: older clients do not send it."""

    process: ProcessConfig | None = None
    pty: Pty | None = None
    tag: str = ""
    stdin: bool = True
    cursor: int | None = None


class SelectorCall(Message):
    """Something about one process."""

    process: Selector = msgspec.field(default_factory=Selector)


class ConnectCall(SelectorCall):
    """To follow a process."""

    cursor: int | None = None


class UpdateCall(SelectorCall):
    """To give a terminal another size."""

    pty: Pty | None = None


class SignalCall(SelectorCall):
    """To signal; enums come by name or number."""

    signal: str | int = 0


class Chunk(Message):
    """Bytes to type, as base64, for one of the two."""

    stdin: str | None = None
    pty: str | None = None

    def data(self) -> bytes:
        """Return the bytes; raises Failure."""
        given = self.pty if self.pty is not None else self.stdin
        text = (given or "").translate(_URL_SAFE)
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise Failure("invalid_argument", "the input is not base64") from None


_URL_SAFE = str.maketrans("-_", "+/")


class InputCall(SelectorCall):
    """To type."""

    input: Chunk = msgspec.field(default_factory=Chunk)


class DataMessage(Message):
    """One piece of a stream of input."""

    input: Chunk = msgspec.field(default_factory=Chunk)


class InputMessage(Message):
    """A message of a stream of input: which process, then pieces and signs of life."""

    start: SelectorCall | None = None
    data: DataMessage | None = None
    keepalive: dict[str, Any] | None = None


class PathCall(Message):
    """Something about one path."""

    path: str = ""


class ListDirCall(PathCall):
    """`depth` 0 is 1."""

    depth: int = 0


class MoveCall(Message):
    """To move."""

    source: str = ""
    destination: str = ""


class WatchCall(PathCall):
    """To be told of changes; network mounts are watched as all others are."""

    recursive: bool = False
    include_entry: bool = False
    allow_network_mounts: bool = False


class WatcherCall(Message):
    """Something about one watcher."""

    watcher_id: str = ""
