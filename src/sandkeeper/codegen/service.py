"""Fast apply and reranking: files in, a provider's answer, files out.

A provider can take a minute. Nothing is locked meanwhile: the file is looked at again right before
it is replaced, and an edit computed from an old version is refused instead of written.
"""

import posixpath
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from sandkeeper.codegen.candidates import Candidates, collect
from sandkeeper.codegen.providers import Host, Provider, choose
from sandkeeper.errors import BadInput, NoDirectory, Obstacle, Unprocessable, reason_of
from sandkeeper.files.changing.replace import make_directories
from sandkeeper.files.paths import Target, temporary_name
from sandkeeper.files.work import FileWork
from sandkeeper.linux.paths import useros as os

__all__ = ["Applied", "Codegen", "RankedText", "Ranking"]

T = TypeVar("T")

FILE_BYTES = 8 << 20
DEFAULT_THRESHOLD = 0.5
DEFAULT_TOKENS = 30000


@dataclass(frozen=True, slots=True)
class Applied:
    """A file before and after an edit; `provider` is the one that merged it."""

    path: str
    original: str
    updated: str
    provider: str


@dataclass(frozen=True, slots=True)
class RankedText:
    """A relevant file: its path as the request names its folder, its text and its score."""

    path: str
    content: str
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The relevant files, best first; `truncated` when a limit kept files from being looked at."""

    files: list[RankedText]
    candidates: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Version:
    """A file's text and what tells this version of it from another; no stamp: there is none."""

    text: str
    stamp: tuple[int, ...] | None
    mode: int = 0o644
    owner: tuple[int, int] | None = None


class Codegen:
    """The tools; the provider is chosen anew for every call, so a reloaded key counts at once."""

    def __init__(self, host: Host, work: FileWork) -> None:
        self._host = host
        self._work = work

    def require(self) -> Provider:
        """Return the provider; raises BadInput with the contract's words when there is none."""
        provider = choose(self._host)
        if provider is None:
            raise BadInput(
                "codegen tools are not configured: set RELACE_API_KEY, MORPH_API_KEY or "
                "SANDKEEPER_LOCAL_CODEGEN=1"
            )
        return provider

    async def apply(self, target: Target, edit: str, model: str = "") -> Applied:
        """Merge `edit` into the file and write it; a missing file is created with its parents.

        Raises BadInput for a directory, Unprocessable for whatever cannot be read, merged or
        written, and when the file changed meanwhile.
        """
        provider = self.require()
        before = await self._run(_read, target.absolute)
        merged = await provider.apply(before.text, edit, model)
        await self._run(_replace, target.absolute, before, merged)
        return Applied(target.display, before.text, merged, provider.name)

    async def rerank(
        self,
        target: Target,
        query: str,
        *,
        threshold: float = DEFAULT_THRESHOLD,
        token_limit: int = DEFAULT_TOKENS,
        pattern: str = "",
    ) -> Ranking:
        """Rank the files below a folder; raises BadInput when it is none, else Unprocessable."""
        provider = self.require()
        if not await self._run(os.path.isdir, target.absolute):
            raise NoDirectory()
        found = await self._collect(target, pattern)
        if not found.documents:
            return Ranking([], 0, found.truncated)
        ranking = await provider.rank(query, found.documents, token_limit)
        files = [
            RankedText(found.documents[index].path, found.documents[index].text, score)
            for index, score in ranking
            if score >= threshold
        ]
        return Ranking(files, len(found.documents), found.truncated)

    async def _collect(self, target: Target, pattern: str) -> Candidates:
        """Walk in a thread; a caller that goes away stops it."""
        stop = threading.Event()
        try:
            return await self._run(collect, target.absolute, _shown(target), pattern, stop)
        finally:
            stop.set()

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call `function` as the workload's user would, in a worker thread."""
        try:
            return await self._work.run(function, *arguments)
        except ValueError as error:  # a NUL byte in the path
            raise Unprocessable(f"invalid path: {error}") from None


def _shown(target: Target) -> str:
    return "" if target.display in {".", "./"} else posixpath.normpath(target.display)


def _read(path: str) -> _Version:
    try:
        # Without O_NONBLOCK opening a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _Version("", None)
    except OSError as error:
        raise _failed("open", path, error) from None
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise BadInput("path is a directory, not a file")
        if not stat.S_ISREG(info.st_mode):
            raise Unprocessable(f"read {path}: not a regular file")
        if info.st_size > FILE_BYTES:
            raise Unprocessable(f"read {path}: larger than {FILE_BYTES} bytes")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(FILE_BYTES)
    except OSError as error:
        raise _failed("read", path, error) from None
    finally:
        os.close(fd)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Unprocessable(f"read {path}: not UTF-8 text") from None
    return _Version(text, _stamp(info), stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid))


def _stamp(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _replace(path: str, before: _Version, text: str) -> None:
    """Put the new text in place of the version it was made from, or leave everything as it is."""
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    temporary = os.path.join(folder, temporary_name(replacing=before.stamp is not None))
    try:
        if before.stamp is None:
            make_directories(folder, 0o777)
        _write(temporary, text, before)
        _refuse_changed(real, before)
        os.replace(temporary, real)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise _failed("write", path, error) from None
    except Unprocessable:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _write(temporary: str, text: str, before: _Version) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(text.encode("utf-8", "replace"))
        if before.owner is not None:
            with suppress(PermissionError):  # a file of somebody else's we may write: now ours
                os.fchown(file.fileno(), *before.owner)
        os.fchmod(file.fileno(), before.mode)


def _refuse_changed(path: str, before: _Version) -> None:
    try:
        now = _stamp(os.stat(path))
    except FileNotFoundError:
        now = None
    if now != before.stamp:
        raise Unprocessable(
            f"{path} changed while the edit was computed; nothing was written, try again"
        )


def _failed(operation: str, path: str, error: OSError) -> Unprocessable:
    return Unprocessable(Obstacle(operation, path, error.errno or 0, reason_of(error)))
