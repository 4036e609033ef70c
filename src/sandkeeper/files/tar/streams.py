"""A directory as one stream: packed on the way down, unpacked while it arrives. Blocking."""

import asyncio
import queue
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from sandkeeper.blocks import gathered
from sandkeeper.errors import BadInput, Task, Unprocessable, failure
from sandkeeper.files.changing.replace import make_directories
from sandkeeper.files.paths import temporary_name
from sandkeeper.files.service import Fault, Files
from sandkeeper.files.tar import zstd
from sandkeeper.files.tar.compression import FAULTS, decompressed
from sandkeeper.files.tar.members import BoundedMember, Metered
from sandkeeper.files.tar.packing import pack
from sandkeeper.files.tar.unpacking import UnsafeMember, unpack
from sandkeeper.files.work import Cancel
from sandkeeper.linux.paths import useros as os

__all__ = ["Archives", "Inlet"]

ZSTD_LEVEL = 3
GATHER_BYTES = 256 * 1024
CHANNEL_CHUNKS = 16


class Inlet:
    """Bytes from the event loop to a reading thread; at most 16 chunks wait.

    The thread reads it as a file. `finish` tells the end, `abandon` that the end will not come;
    `over` (of the reading side) lets the sender go on without effect.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(CHANNEL_CHUNKS)
        self._rest = b""
        self._ended = False
        self._read_by_nobody = False

    async def send(self, data: bytes) -> None:
        """Hand over a chunk; waits while there is no room."""
        if self._read_by_nobody or not data:
            return
        await self._room.acquire()
        self._chunks.put(data)

    def finish(self) -> None:
        """Tell that this was all."""
        self._chunks.put(b"")

    def abandon(self) -> None:
        """Tell that the rest will never come."""
        self._chunks.put(None)

    def over(self) -> None:
        """Tell, from the thread, that nobody reads any more."""
        self._loop.call_soon_threadsafe(self._release_all)

    def _release_all(self) -> None:
        self._read_by_nobody = True
        for _ in range(CHANNEL_CHUNKS):
            self._room.release()

    def peek(self, size: int) -> bytes:
        """Return the first bytes without taking them."""
        while len(self._rest) < size and not self._ended:
            self._rest += self._next()
        return self._rest[:size]

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, all that are there before the end; raises OSError."""
        while not self._ended and (size < 0 or len(self._rest) < size):
            chunk = self._next()
            self._rest = self._rest + chunk if self._rest else chunk
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data

    def _next(self) -> bytes:
        chunk = self._chunks.get()
        if chunk is None:
            self._ended = True
            raise ConnectionError("the connection was closed")
        if not chunk:
            self._ended = True
            return b""
        self._loop.call_soon_threadsafe(self._room.release)
        return chunk


class Archives:
    """Directories as tar streams."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def pack(self, root: str, compressed: bool) -> Iterator[bytes]:
        """Yield the archive in larger blocks; raises Unprocessable."""
        try:
            blocks = gathered(pack(root), GATHER_BYTES)
            yield from zstd.packed(blocks, ZSTD_LEVEL) if compressed else blocks
        except Fault as error:
            raise failure(Unprocessable, Task.PACK_DIRECTORY, "open", root, error) from None

    def unpack(self, root: str, source: Inlet, owners: bool, cancel: Cancel) -> int:
        """Unpack what arrives below `root`, which is made if needed; returns the members.

        Raises BadInput for what is no archive or would leave the directory, Unprocessable,
        StorageFull; what was unpacked before stays.
        """
        try:
            make_directories(root, 0o755)
            stream = Metered(decompressed(source))

            def check() -> None:
                cancel.check()
                stream.renew()

            with tarfile.open(
                fileobj=cast("IO[bytes]", stream),
                mode="r|",
                bufsize=GATHER_BYTES,
                tarinfo=BoundedMember,
            ) as archive:
                return unpack(
                    archive,
                    root,
                    owners=owners,
                    temporary=self.temporary,
                    check=check,
                )
        except UnsafeMember as error:
            raise BadInput(f"archive refused: {error}") from None
        except ConnectionError as error:
            raise BadInput(str(error)) from None
        except RecursionError:  # a header may say that another header follows
            raise BadInput("the body is no whole tar archive: too many headers") from None
        except (tarfile.TarError, *FAULTS) as error:
            raise BadInput(f"the body is no whole tar archive: {error}") from None
        except Fault as error:
            raise failure(Unprocessable, Task.UNPACK, "open", root, error) from None
        finally:
            source.over()

    @contextmanager
    def temporary(self, root: str, path: str) -> Iterator[str]:
        """Name a temporary beside `path` below `root` and remember it while inside."""
        target = os.path.join(root, path)
        name = temporary_name(replacing=os.path.lexists(target))
        with self._files.temporary(os.path.join(os.path.dirname(target), name)):
            yield name
