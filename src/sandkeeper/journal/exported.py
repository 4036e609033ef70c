"""How far an output was exported: a file in the folder of its run for each that it goes to."""

import struct
from pathlib import Path

from sandkeeper.linux.paths.statefiles import Damaged, read_plain

__all__ = ["EXPORTED", "EXPORTED_OTLP", "POSITIONS", "read_positions"]

EXPORTED = "exported"
"""Into the server's log."""
EXPORTED_OTLP = "exported-otlp"
"""To a collector."""

POSITIONS = struct.Struct("<3Q")
"""The offset behind what was exported, and where the open lines of both streams begin."""


def read_positions(path: Path, tail: int) -> tuple[int, int, int] | None:
    """Return how far an output of `tail` bytes was exported, and where its open lines begin.

    None where nothing was; raises OSError, or Damaged when it cannot be true.
    """
    try:
        raw = read_plain(path, POSITIONS.size)
    except FileNotFoundError:
        return None
    if not raw:
        return None
    if len(raw) < POSITIONS.size:
        raise Damaged("it is cut off")
    position, out, err = POSITIONS.unpack(raw)
    if not max(out, err) <= position <= tail:
        raise Damaged("a position of it cannot be true")
    return position, out, err
