"""What `logs` shows: every byte as it was written, or chosen lines."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import ClientError
from sandkeeper.client.following import ProcessFollower
from sandkeeper.client.output import complain, print_json, write_all
from sandkeeper.client.processes import process_path
from sandkeeper.client.quantities import instant, rfc3339

__all__ = ["DESCRIPTORS", "Form", "LineReader", "show_all", "standing"]

DESCRIPTORS = {"stdout": 1, "stderr": 2, "notice": 2, "remark": 2}


def standing(server: Server, identifier: str) -> int:
    """Return the offset of what a process is going to write."""
    raw = server.ask("GET", process_path(identifier, "/lines"), query={"tail": 1})
    return int(json.loads(raw.splitlines()[-1])["offset"])


def show_all(server: Server, identifier: str, only: str, *, live: bool) -> int:
    """Write all that is kept to the descriptors it was written to, and with `live` what follows."""

    def write(stream: str, data: bytes, _time: str) -> None:
        if only in {"", stream}:
            write_all(DESCRIPTORS.get(stream, 2), data)

    ProcessFollower(server, identifier, write, complain, live=live).follow()
    return 0


class Form(Enum):
    """How a line is shown: as it was written, behind its time, or as JSON on standard output."""

    PLAIN = auto()
    STAMPED = auto()
    JSON = auto()


class Reached(Exception):
    """What comes from here on was written later than anybody wants to see."""


class LineReader:
    """Lines of one process that a person asked for, cut out of its bytes on this side."""

    def __init__(
        self, server: Server, identifier: str, *, only: str, pattern: str, form: Form
    ) -> None:
        """Raises ClientError for a pattern that RE2 does not take."""
        self._server = server
        self._identifier = identifier
        self._only = only
        self._pattern = pattern
        self._matches = _matcher(pattern)
        self._form = form
        self._until = ""
        self._open: dict[str, _OpenLine] = {}

    def show(self, *, since: str, until: str, tail: int | None, live: bool) -> int:
        """Print them, and with `live` those that come, to the process's end."""
        offset = self._start(since, tail)
        self._until = rfc3339(instant("--until", until)) if until else ""
        follower = ProcessFollower(
            self._server, self._identifier, self._write, complain, offset, live
        )
        with suppress(Reached):
            follower.follow()
        for stream, line in self._open.items():
            self._print(stream, line)
        return 0

    def _start(self, since: str, tail: int | None) -> int:
        """Return the offset of the first line that is wanted."""
        if tail == 0:
            return standing(self._server, self._identifier)  # also in the middle of a line
        if not since and not tail:
            return 0
        query = {
            "since": instant("--since", since) if since else None,
            "tail": tail or None,
            "head": None if tail else 1,
            "stream": self._only or None,
            "regex": self._pattern if tail else None,
        }
        path = process_path(self._identifier, "/lines")
        with self._server.open("GET", path, query=query) as answer:
            for raw in answer.lines():
                record = json.loads(raw)
                if record["type"] in {"line", "end"}:
                    return int(record["offset"])
        return 0

    def _write(self, stream: str, data: bytes, time: str) -> None:
        if self._only not in {"", stream}:
            return
        if self._until and time > self._until:
            raise Reached
        line = self._open.pop(stream, None) or _OpenLine(time)
        *whole, rest = data.split(b"\n")
        for text in whole:
            line.parts.append(text)
            self._print(stream, line, b"\n")
            line = _OpenLine(time)
        if rest or line.parts:
            line.parts.append(rest)
            self._open[stream] = line

    def _print(self, stream: str, line: "_OpenLine", end: bytes = b"") -> None:
        text = b"".join(line.parts)
        if not self._matches(text):
            return
        if self._form is Form.JSON:
            shown = text.decode("utf-8", "surrogateescape")
            print_json({"time": line.time, "stream": stream, "text": shown}, on_a_line=True)
            return
        head = f"{line.time} ".encode() if self._form is Form.STAMPED else b""
        write_all(DESCRIPTORS.get(stream, 2), head + text + end)


@dataclass(slots=True)
class _OpenLine:
    time: str
    parts: list[bytes] = field(default_factory=list)


def _matcher(pattern: str) -> Callable[[bytes], bool]:
    if not pattern:
        return lambda _text: True
    # The server's own engine: what it takes, and means, is the same on both sides.
    import re2

    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ClientError(f"--grep: {pattern!r} is no pattern: {error}") from None
    return lambda text: compiled.search(text) is not None
