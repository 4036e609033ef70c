"""Files below the root, for both wires."""

import errno
import stat
from collections.abc import AsyncIterator, Iterator
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.bodies.downloads import OCTETS, download
from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.respond import JSON, encode_json, utf8
from sandkeeper.api.kubernetes.root import Root
from sandkeeper.errors import BadInput, Conflict, Forbidden, NotFound, TooLarge
from sandkeeper.files.conditions import NO_CONDITIONS
from sandkeeper.files.feed import Feed
from sandkeeper.files.service import Files
from sandkeeper.files.work import Cancel, by_errno
from sandkeeper.linux.clocks import rfc3339_utc
from sandkeeper.linux.paths import useros as os
from sandkeeper.pieces import in_order

__all__ = ["SandboxFiles", "name_of"]

ENTRIES_MOST = 100_000
BLOCK = 256


def name_of(raw: bytes) -> str:
    """Return the name in the rest of a path, however its slashes are written."""
    return os.fsdecode(unquote_to_bytes(raw)).lstrip("/")


class SandboxFiles:
    """Reads, writes, lists and removes."""

    def __init__(self, files: Files, root: Root) -> None:
        self._files = files
        self._work = files.work
        self.root = root

    async def exists(self, name: str) -> bool:
        """Say whether something is there; raises Forbidden outside of the root."""
        try:
            await self._work.run(self.root.look, name)
        except NotFound:
            return False
        return True

    async def send(self, name: str, request: Request, *, folders: bool = False) -> Response:
        """Send a file, or a folder's listing; raises BadInput for a folder without `folders`."""
        path, info = await self._work.run(self.root.look, name)
        if stat.S_ISDIR(info.st_mode):
            if not folders:
                raise NotFound(f"path '{name}' is a folder")
            return await self.listing(name)
        return await self._work.run(self._sent, name, path, info, request)

    def _sent(self, name: str, path: str, info: os.stat_result, request: Request) -> Response:
        try:  # what the system says of it is told as it is
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except (OSError, ValueError) as error:
            raise by_errno(name, error) from None
        response = download(self._work, path, self._files.open(path, info), request)
        if not response.headers["content-type"].startswith("multipart/"):
            response.headers["content-type"] = OCTETS
        return response

    async def describe(self, name: str) -> Response:
        """Answer a HEAD."""
        _, info = await self._work.run(self.root.look, name)
        is_folder = stat.S_ISDIR(info.st_mode)
        headers = {"content-type": JSON.decode() if is_folder else OCTETS}
        if not is_folder:
            headers["content-length"] = str(info.st_size)
        return Response(None, 200, headers)

    async def listing(self, name: str, *, old: bool = False) -> Response:
        """List a folder, in the newer form or the `old` one; raises NotFound, Forbidden."""
        names = await self._work.run(self._names, name)
        path = await self._work.run(self.root.inside, name)
        if old:
            begin, end = b"[", b"]"
        else:
            told = encode_json("/" + utf8(name).lstrip("/"))
            begin, end = b'{"path":' + told + b',"entries":[', b"]}"
        blocks = self._blocks(path, names, begin, end, old=old)
        return GeneratedBody(self._work, blocks, {"Content-Type": JSON.decode()})

    def _names(self, name: str) -> list[str]:
        path, info = self.root.look(name)
        if not stat.S_ISDIR(info.st_mode):
            raise NotFound(f"path '{name}' is no folder")
        try:
            listing = self._files.listing(path)
        except OSError as error:
            raise by_errno(name, error) from None
        listing.fd.close()
        names = in_order([*listing.files, *listing.directories])
        if len(names) > ENTRIES_MOST:
            raise TooLarge(f"path '{name}' has more than {ENTRIES_MOST} entries")
        return names

    def _blocks(
        self, path: str, names: list[str], begin: bytes, end: bytes, *, old: bool
    ) -> Iterator[bytes]:
        yield begin
        comma = b""
        for start in range(0, len(names), BLOCK):
            made = [self._entry(path, name, old=old) for name in names[start : start + BLOCK]]
            if known := [one for one in made if one]:
                yield comma + b",".join(known)
                comma = b","
        yield end

    def _entry(self, folder: str, name: str, *, old: bool) -> bytes:
        """Return an entry; nothing for what is gone, or leads out of the root."""
        path = os.path.join(folder, name)
        try:
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                info = os.stat(path)
                if not self.root.holds(path):
                    return b""
        except (OSError, ValueError):
            return b""
        kind = "directory" if stat.S_ISDIR(info.st_mode) else "file"
        entry: dict[str, object] = {"name": utf8(name), "size": info.st_size, "type": kind}
        if old:
            entry["mod_time"] = info.st_mtime
        else:
            entry["modified_at"] = rfc3339_utc(info.st_mtime_ns // 1000)
            entry["mode"] = f"{stat.S_IMODE(info.st_mode):04o}"
        return encode_json(entry)

    async def write(self, name: str, blocks: AsyncIterator[bytes], mode: int = 0o644) -> None:
        """Write a file whole; parents are made. Raises Forbidden, BadInput for a folder."""
        path = await self._work.run(self._writable, name)
        upload = self._files.upload(path, NO_CONDITIONS)
        upload.mode = mode
        feed: Feed[os.stat_result] = Feed(self._work.run, upload)
        await feed.take_all(blocks)

    def _writable(self, name: str) -> str:
        self.root.make()
        path = self.root.inside(name)
        if path == os.path.realpath(self.root.folder) or name.endswith("/"):
            raise BadInput(f"path '{name}' does not name a file")
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except (OSError, ValueError):
            is_folder = False
        if is_folder:
            raise BadInput(f"path '{name}' is a folder")
        return path

    async def remove(self, name: str, *, recursive: bool) -> None:
        """Remove, of the root what is in it.

        Raises NotFound, Forbidden, Conflict for a folder that is not empty, and for the root.
        """
        path = await self._work.run(self.root.entry, name)
        if path == self.root.folder:
            if not recursive:
                raise Conflict("the sandbox root stays: recursive=true removes what is in it")
            for one in await self._work.run(os.listdir, path):
                await self._removed_with_all(os.path.join(path, one))
        elif recursive:
            await self._removed_with_all(path)
        else:
            await self._work.run(self._removed, name, path)

    async def _removed_with_all(self, path: str) -> None:
        await self._work.walk(self._files.delete, path, True, NO_CONDITIONS)

    def _removed(self, name: str, path: str) -> None:
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
            else:
                self._files.delete(path, False, NO_CONDITIONS, Cancel())
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise Conflict(f"path '{name}' is not empty: recursive=true removes it") from None
            if isinstance(error, OSError) and error.errno == errno.EBUSY:
                raise Forbidden(f"path '{name}' is in use") from None
            raise by_errno(name, error) from None
