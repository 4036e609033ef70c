"""JSON that stands in one line, whoever splits the text into lines."""

from typing import Any

import msgspec

from sandkeeper.linebreaks import in_one_line

__all__ = ["json_line"]


def json_line(value: Any) -> bytes:
    """Encode a value as one line of NDJSON, with its newline."""
    return in_one_line(msgspec.json.encode(value)) + b"\n"
