"""Zstandard (RFC 8878): blocks packed, streams read with a bounded window.

The library is the standard one of Python 3.14 and its backport before; few requests need it, so it
is imported when it is used.
"""

import importlib
import sys
from collections.abc import Iterator
from typing import IO, Any, Protocol, cast

__all__ = ["MAGIC", "Readable", "ZstdFault", "packed", "packer", "unpacking"]

MAGIC = b"\x28\xb5\x2f\xfd"
WINDOW_LOG = 27
"""Windows of up to 128 MiB are read, as the command `zstd` does without `--long`."""
OPTIONS = {"checksum": "checksum_flag", "workers": "nb_workers", "job_bytes": "job_size"}


class ZstdFault(Exception):
    """A stream that is not what RFC 8878 says, or whose window is larger than ours."""


class Readable(Protocol):
    """Where compressed bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


def packer(level: int, **options: int) -> Any:
    """Return a compressor with `compress(data)` and `flush()`.

    Options: `checksum` (0 or 1), `workers` (threads), `job_bytes` (what each gets at a time).
    """
    zstd = _library()
    parameters = zstd.CompressionParameter
    chosen = {getattr(parameters, OPTIONS[name]): value for name, value in options.items()}
    return zstd.ZstdCompressor(options={parameters.compression_level: level, **chosen})


def packed(blocks: Iterator[bytes], level: int, **options: int) -> Iterator[bytes]:
    """Compress a stream of blocks into one frame; the options are those of `packer`."""
    made = packer(level, **options)
    for block in blocks:
        if data := made.compress(block):
            yield data
    yield made.flush()


def unpacking(source: Readable) -> IO[bytes]:
    """Return the plain bytes of a stream of frames.

    `read` raises ZstdFault for what is no such stream and EOFError where one is cut off.
    """
    return cast("IO[bytes]", _Unpacking(source))


class _Unpacking:
    def __init__(self, source: Readable) -> None:
        zstd = _library()
        self._fault = zstd.ZstdError
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        self._file = zstd.ZstdFile(source, options=options)

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except self._fault as error:
            raise ZstdFault(str(error)) from None
        return data


def _library() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(name)
