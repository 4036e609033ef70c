"""Getting a package's bytes from an index, a URL or a file into our own folder, with checksums.

Only bytes whose SHA-256 somebody stated beforehand are used: the index, the operator (in the list,
or in a file `<package>.sha256` beside it) or the request. All that is stated must agree. What is
checked is the copy that is installed, never the place it came from.
"""

import asyncio
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from sandkeeper.errors import Forbidden, NotFound, Unavailable
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted
from sandkeeper.upgrade.bundle import bundle_inside
from sandkeeper.upgrade.download import Downloads, Writer
from sandkeeper.upgrade.index import IndexedFile, choose, read_index, version_of
from sandkeeper.upgrade.source import PROJECT, Allowed, Source, is_bundle

__all__ = ["Fetched", "Fetcher"]

TOTAL_SECONDS = 600.0
METADATA_BYTES = 1 << 20
UNPACKED_BYTES = 512 << 20
_NO_WHEEL = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(ValueError, TypeError, InvalidVersion, InvalidRequirement),
    RuntimeError,  # it is encrypted, or packed by a method that zipfile does not know
)
_CHECKSUM = re.compile(rb"\s*([0-9a-fA-F]{64})(\s|$)")


class Fetched(msgspec.Struct, frozen=True):
    """A package in our folder: its checksum, what others stated about that, its version."""

    path: Path
    sha256: str
    stated: str = ""
    version: str = ""


class Fetcher:
    """Fetches one package into `folder`, which nobody else may enter.

    `started` is told the place, `progress` how many bytes came so far, from any thread.
    """

    def __init__(
        self, folder: Path, started: Callable[[str], None], progress: Callable[[int], None]
    ) -> None:
        self._folder = folder
        self._started = started
        self._progress = progress

    async def fetch(self, source: Source, sha256: str) -> Fetched:
        """Return the package; raises a SandkeeperError with the reason, or OSError."""
        if source.rule.kind == "file":
            got = await asyncio.to_thread(self._copy, source)
        else:
            try:
                async with asyncio.timeout(TOTAL_SECONDS):
                    got = await self._download(source)
            except TimeoutError:
                raise Unavailable(f"it did not come within {TOTAL_SECONDS:.0f} s") from None
        stated = {source.rule.sha256, sha256.lower(), got.stated.lower()} - {""}
        if not stated:
            raise Forbidden(
                "no SHA-256 of it is known: give sha256, or put a .sha256 file beside it"
            )
        if stated != {got.sha256}:
            raise Forbidden(f"its SHA-256 is {got.sha256}, not {min(stated - {got.sha256})}")
        look = bundle_inside if is_bundle(got.path.name) else _version_inside
        version = await asyncio.to_thread(look, got.path)
        return replace(got, version=version)

    def _copy(self, source: Source) -> Fetched:
        place = self._newest(source) if source.place.endswith("/") else source.place
        self._started(place)
        with open(_open_permitted(place, source.rule), "rb") as file:
            writer = Writer(self._folder / os.path.basename(place), self._progress)
            try:
                while block := file.read(1 << 20):
                    writer.write(block)
            finally:
                got = writer.close()
        stated = ""
        with (
            suppress(NotFound),
            open(_open_permitted(place + ".sha256", None), "rb") as note,
        ):
            stated = _checksum_in(note.read(4096))
        return Fetched(got.path, got.sha256, stated)

    def _newest(self, source: Source) -> str:
        try:
            names = sorted(os.listdir(source.place))
        except OSError as error:
            raise NotFound(f"{source.place}: {error.strerror}") from None
        places = [source.place + name for name in names]
        listed = [IndexedFile(os.path.basename(p), p) for p in places if source.rule.permits(p)]
        return choose(listed, source.version).place

    async def _download(self, source: Source) -> Fetched:
        downloads = await Downloads.open()
        try:
            if source.rule.kind == "index":
                return await self._from_index(downloads, source)
            self._started(source.place)
            pinned = bool(source.rule.sha256)
            got = await self._get(downloads, source.place, None if pinned else source.rule)
            if pinned:
                return got
            with suppress(NotFound):
                note = await downloads.text(source.place + ".sha256", source.rule)
                return replace(got, stated=_checksum_in(note.data[:4096]))
            return got
        finally:
            await downloads.close()

    async def _from_index(self, downloads: Downloads, source: Source) -> Fetched:
        page = await downloads.text(urljoin(source.place, PROJECT + "/"), source.rule)
        listed = await asyncio.to_thread(read_index, page.url, page.data, page.media_type)
        chosen = choose(listed, source.version)
        if not chosen.sha256:
            raise Forbidden(f"the index states no SHA-256 of {chosen.name}")
        if urlsplit(chosen.place).scheme != "https":
            raise Forbidden(f"the index has {chosen.name} where no https is spoken")
        self._started(chosen.place)
        # The checksum of the permitted index vouches for the bytes, wherever they lie.
        return replace(await self._get(downloads, chosen.place, None), stated=chosen.sha256)

    async def _get(self, downloads: Downloads, url: str, rule: Allowed | None) -> Fetched:
        name = urlsplit(url).path.rpartition("/")[2]
        if version_of(name) is None:
            raise Forbidden(f"{name} is not the name of a package of {PROJECT} for this machine")
        got = await downloads.wheel(url, rule, self._folder / name, self._progress)
        return Fetched(got.path, got.sha256)


def _open_permitted(place: str, rule: Allowed | None) -> int:
    """Open a file that nobody but root and ourselves can have written; the caller closes it.

    What is judged is the open file and where the kernel says it lies, so that no link and no
    exchange of names can bring in another. Raises NotFound or Forbidden.
    """
    try:
        fd = open_trusted(place)
    except FileNotFoundError:
        raise NotFound(f"{place} does not exist") from None
    except OSError as error:
        raise Forbidden(f"{place}: {error.strerror}") from None
    except UntrustedFile as error:
        raise Forbidden(f"{place}: {error}") from None
    real = os.readlink(f"/proc/self/fd/{fd}")
    if rule is not None and not rule.permits(real):
        os.close(fd)
        raise Forbidden(f"{place} is {real} in truth, which the operator does not permit")
    return fd


def _checksum_in(note: bytes) -> str:
    """Return the checksum a `.sha256` file begins with; raises Forbidden when there is none."""
    found = _CHECKSUM.match(note)
    if found is None:
        raise Forbidden("the .sha256 file beside it holds no checksum")
    return found[1].decode().lower()


def _version_inside(path: Path) -> str:
    """Return the version in a wheel's metadata; raises Forbidden when it is not one of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            if archive.getinfo(name).file_size > METADATA_BYTES:
                raise ValueError("its metadata is too large")
            if sum(item.file_size for item in archive.infolist()) > UNPACKED_BYTES:
                raise ValueError("it unpacks to more than a package has")
            metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
        for line in metadata.get_all("Requires-Dist", []):
            Requirement(line)
        version = Version(metadata["Version"])
    except _NO_WHEEL as error:
        raise Forbidden(f"it is not a wheel: {error}") from None
    if canonicalize_name(metadata["Name"] or "") != PROJECT:
        raise Forbidden(f"it is a wheel of {metadata['Name']}, not of {PROJECT}")
    if version != version_of(path.name):
        raise Forbidden(f"its name does not tell its version, which is {version}")
    return str(version)
