"""What an execution's journal tells: output, results, errors, and how it ended.

Standard output and standard error stand in the journal's two streams, byte for byte. Everything
else is an event: one line of JSON in the stream NOTICE, behind a record separator (RFC 7464) by
which a reader finds the next one after a gap. `type` is the first field of each:

    started       executionCount            the interpreter has begun; once
    display       data, metadata, displayId?
    update        data, metadata, displayId
    result        data, metadata, executionCount
    clear         wait
    error         name, value, traceback
    inputRefused  prompt
    gap           reason                    what the interpreter said here is lost
    end           status, reason?, executionCount?, exitCode?, exitSignal?, seconds?   last, once

`data` are MIME bundles as Jupyter has them: texts for `text/*` and images in base64, JSON values
for `*json`.
"""

from enum import StrEnum
from typing import Any

import msgspec

from sandkeeper.linebreaks import in_one_line

__all__ = ["CHART", "DATAFRAME", "SEPARATOR", "EndStatus", "Outcome", "event_line"]

SEPARATOR = b"\x1e"
DATAFRAME = "application/vnd.sandkeeper.dataframe+json"
"""A table as data: `columns`, `types`, `data` by column, `rows` of all, `truncated`."""

CHART = "application/vnd.sandkeeper.chart+json"
"""A plot as data, as PyPI `e2b_charts` reads it out of a figure of matplotlib."""


class EndStatus(StrEnum):
    """How an execution ended. The first three are the interpreter's own word."""

    OK = "ok"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    DIED = "died"
    RESTARTED = "restarted"
    DELETED = "deleted"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Outcome(msgspec.Struct, rename="camel", omit_defaults=True):
    """The end of an execution; `status` is one of `EndStatus`, `seconds` since it began.

    `reason` tells why a process died or what was lost; `exit_code` and `exit_signal` are a shell's
    command's, or of the process that died.
    """

    status: str
    reason: str = ""
    execution_count: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    seconds: float | None = None


def event_line(kind: str, fields: dict[str, Any]) -> bytes:
    """Return an event as it stands in a journal."""
    return SEPARATOR + in_one_line(msgspec.json.encode({"type": kind, **fields})) + b"\n"
