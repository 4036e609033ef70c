"""JSON that stands in one line, whoever splits the text into lines: NDJSON, server-sent events."""

from typing import Any

import msgspec

from sandkeeper.linebreaks import in_one_line

__all__ = ["json_line", "sse_fields"]


def json_line(value: Any) -> bytes:
    """Encode a value as one line of NDJSON, with its newline."""
    return in_one_line(msgspec.json.encode(value)) + b"\n"


def sse_fields(kind: str, line: bytes) -> bytes:
    """Write a line as a server-sent event of a kind; its end, and what else it has, follow."""
    return b"event: %b\ndata: %b" % (kind.encode(), line)
