"""What is got of a file: all of it, or what it is read from."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sandkeeper.linux.fds import OwnedFd

__all__ = ["Content", "Opened", "Text"]


@dataclass(frozen=True, slots=True)
class Content:
    """A whole file in memory."""

    info: os.stat_result
    data: bytes


class Text(NamedTuple):
    """A file to be read in blocks, with its state and its size in bytes."""

    info: os.stat_result
    size: int
    blocks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Opened:
    """A file to be streamed; the holder closes `fd`.

    `size` is None for pseudo-files (/proc, /sys), which end where they end, whatever they say;
    `first` is what has been read of those already.
    """

    info: os.stat_result
    fd: OwnedFd
    size: int | None
    first: bytes = b""
