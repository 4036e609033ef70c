"""What is got of a file or a directory: all of it, or what it is read from."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.paths import useros as os

__all__ = ["Content", "Listing", "Opened", "Text"]

BATCH = 2000


class Content(msgspec.Struct, frozen=True):
    """A whole file in memory."""

    info: os.stat_result
    data: bytes


class Text(NamedTuple):
    """A file to be read in blocks, with its state and its size in bytes."""

    info: os.stat_result
    size: int
    blocks: Iterable[bytes]


class Opened(msgspec.Struct, frozen=True):
    """A file to be streamed; the holder closes `fd`.

    `size` is None for pseudo-files (/proc, /sys), which end where they end, whatever they say;
    `first` is what has been read of those already.
    """

    info: os.stat_result
    fd: OwnedFd
    size: int | None
    first: bytes = b""


class Listing(msgspec.Struct):
    """The names in a directory in byte order; the holder closes `fd`."""

    info: os.stat_result
    fd: OwnedFd
    files: list[str] = msgspec.field(default_factory=list)
    directories: list[str] = msgspec.field(default_factory=list)

    def batches(self) -> Iterator[list[tuple[str, os.stat_result]]]:
        """Yield the files with their own (links': not their targets') state, many at a time."""
        number = self.fd.number
        for start in range(0, len(self.files), BATCH):
            batch = []
            for name in self.files[start : start + BATCH]:
                try:
                    batch.append((name, os.stat(name, dir_fd=number, follow_symlinks=False)))
                except FileNotFoundError:
                    continue  # it went away meanwhile, which is no error of the others
            yield batch
