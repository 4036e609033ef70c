"""E2B's Filesystem service on the files and watches of this server."""

import asyncio
import errno
import os as machine
import posixpath
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.e2b import connect, structs
from sandkeeper.api.e2b.connect import Failure
from sandkeeper.api.e2b.entries import entry_of
from sandkeeper.api.e2b.framing import frame
from sandkeeper.api.e2b.people import People
from sandkeeper.api.e2b.sentences import sentence
from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.subject import caller
from sandkeeper.blocks import gathered
from sandkeeper.errors import NotFound, Obstacle, Unprocessable
from sandkeeper.files.changing.replace import make_directories
from sandkeeper.files.conditions import NO_CONDITIONS
from sandkeeper.files.copies import Copies
from sandkeeper.files.details import Detail, detail, details
from sandkeeper.files.paths import resolve_text
from sandkeeper.files.service import Files
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.paths import useros as os
from sandkeeper.log.access import Access
from sandkeeper.watch.service import Block, Change, Watch, Watches
from sandkeeper.watch.watcher import Scope

__all__ = ["FilesystemService"]

T = TypeVar("T")

BLOCK_BYTES = 64 << 10
WATCHERS_MOST = 256
BLOCKS_MOST = 64
WATCHER_SECONDS = 3600.0
"""One that nobody has asked for so long makes room for a new one."""

TOLD = frozenset({"CREATE", "WRITE", "REMOVE", "RENAME", "CHMOD"})
SHOWN = frozenset({"CREATE", "WRITE", "CHMOD"})
_encode = msgspec.json.Encoder().encode


class _Asked:
    """A watcher whose events are asked for."""

    def __init__(self, watch: Watch, root: str, *, entries: bool) -> None:
        self.watch = watch
        self.root = root
        self.entries = entries
        self.lock = asyncio.Lock()
        self.asked = monotonic()


class FilesystemService:
    """The nine calls; each answers a request whose codec and right are in order."""

    def __init__(
        self,
        *,
        files: Files,
        copies: Copies,
        watches: Watches,
        people: People,
        access: Access,
        turns: Turns,
    ) -> None:
        self._files = files
        self._work = files.work
        self._copies = copies
        self._watches = watches
        self._people = people
        self._access = access
        self._turns = turns
        self._asked: dict[str, _Asked] = {}

    def _path(self, request: Request, given: str, name: str = "path") -> str:
        if not given:
            raise Failure("invalid_argument", f"{name} is required")
        home = self._people.of(request).home
        return resolve_text(given, workdir=home, home=home).absolute

    async def _run(self, work: Callable[..., T], path: str, *arguments: object) -> T:
        """Run short work on a path; raises Failure for what the system says of it."""
        try:
            return await self._work.run(work, path, *arguments)
        except (OSError, ValueError) as error:
            raise _failure(path, error) from None

    async def _entry(self, path: str) -> dict[str, Any]:
        found = await self._run(detail, path)
        self._files.owners.refresh()
        return entry_of(found, self._files.owners)

    # Looking

    async def stat(self, request: Request) -> Response:
        """Tell what an entry is."""
        call = await connect.read_unary(request, structs.PathCall)
        return connect.unary({"entry": await self._entry(self._path(request, call.path))})

    async def list_dir(self, request: Request) -> Response:
        """List a directory, `depth` levels of it; long listings are sent while they are read."""
        call = await connect.read_unary(request, structs.ListDirCall)
        path = self._path(request, call.path)
        await self._run(_check_directory, path)
        if call.depth < 0:
            raise Failure("invalid_argument", "depth is negative")
        root = await self._run(os.path.realpath, path)
        blocks = gathered(self._listed(root, call.depth or 1), BLOCK_BYTES)
        return GeneratedBody(self._work, blocks, {"Content-Type": connect.UNARY_TYPE})

    def _listed(self, root: str, depth: int) -> Iterator[bytes]:
        owners = self._files.owners
        owners.refresh()
        before = b'{"entries":['
        for found in details(root, depth):
            yield before + _encode(entry_of(found, owners))
            before = b","
        yield b"]}" if before == b"," else before + b"]}"

    # Changing

    async def make_dir(self, request: Request) -> Response:
        """Make a directory and its parents."""
        call = await connect.read_unary(request, structs.PathCall)
        path = self._path(request, call.path)
        await self._run(_make, path)
        return connect.unary({"entry": await self._entry(path)})

    async def move(self, request: Request) -> Response:
        """Move an entry; the parents of its new place are made."""
        call = await connect.read_unary(request, structs.MoveCall)
        source = self._path(request, call.source, "source")
        target = self._path(request, call.destination, "destination")
        await self._run(_make_room, source, target)
        try:
            await self._work.walk(self._copies.place, source, target)
        except (OSError, ValueError) as error:
            raise _failure(source, error) from None
        return connect.unary({"entry": await self._entry(target)})

    async def remove(self, request: Request) -> Response:
        """Remove an entry, a directory with all that is in it; what is not there is no error."""
        call = await connect.read_unary(request, structs.PathCall)
        path = self._path(request, call.path)
        try:
            await self._work.walk(self._files.delete, path, True, NO_CONDITIONS)
        except NotFound:
            pass
        except Unprocessable as error:
            raise Failure("internal", sentence(error)) from None
        return connect.unary({})

    # Watching

    async def watch_dir(self, request: Request) -> Response:
        """Stream changes."""
        seconds = connect.deadline_of(request)
        call = await connect.first_message(request, structs.WatchCall)
        watch, root = await self._watch(request, call)
        ping = connect.ping_of(request)
        return connect.stream(self._changes(watch, root, ping, entries=call.include_entry), seconds)

    async def _watch(self, request: Request, call: structs.WatchCall) -> tuple[Watch, str]:
        root = self._path(request, call.path)
        await self._run(_check_directory, root)
        self._access.audit("watch", caller(request), path=root)
        try:
            return await self._watches.watch(Scope(root, call.recursive)), root
        except Unprocessable as error:
            raise Failure("internal", sentence(error)) from None

    async def _changes(
        self, watch: Watch, root: str, ping: float, *, entries: bool
    ) -> AsyncIterator[bytes]:
        try:
            yield frame(b'{"start":{}}')
            while (block := await watch.take(ping)) is not None:
                await self._turns.take()
                if not block:
                    yield frame(b'{"keepalive":{}}')
                    continue
                told = await self._told(block, root, entries=entries)
                yield b"".join(frame(_encode({"filesystem": one})) for one in told)
        finally:
            await asyncio.shield(self._watches.release(watch))

    async def create_watcher(self, request: Request) -> Response:
        """Begin to gather changes for a client that asks for them."""
        call = await connect.read_unary(request, structs.WatchCall)
        await self._make_room_for_watcher()
        watch, root = await self._watch(request, call)
        name = f"w{secrets.token_hex(10)}"
        self._asked[name] = _Asked(watch, root, entries=call.include_entry)
        return connect.unary({"watcherId": name})

    async def _make_room_for_watcher(self) -> None:
        if len(self._asked) < WATCHERS_MOST:
            return
        name, oldest = min(self._asked.items(), key=lambda item: item[1].asked)
        if monotonic() - oldest.asked < WATCHER_SECONDS:
            raise Failure("resource_exhausted", f"there are {WATCHERS_MOST} watchers already")
        await self._end(name)

    def _watcher(self, name: str) -> _Asked:
        found = self._asked.get(name)
        if found is None:
            raise NotFound(f"watcher with id {name[:64]} not found")
        return found

    async def get_watcher_events(self, request: Request) -> Response:
        """Tell what has changed since the last question."""
        call = await connect.read_unary(request, structs.WatcherCall)
        found = self._watcher(call.watcher_id)
        found.asked = monotonic()
        told: list[dict[str, Any]] = []
        async with found.lock:
            for _ in range(BLOCKS_MOST):  # what comes in a storm is for the next question
                block = await found.watch.take(0)
                if not block:
                    break
                await self._turns.take()
                told += await self._told(block, found.root, entries=found.entries)
        return connect.unary({"events": told} if told else {})

    async def remove_watcher(self, request: Request) -> Response:
        """End it."""
        call = await connect.read_unary(request, structs.WatcherCall)
        self._watcher(call.watcher_id)
        await self._end(call.watcher_id)
        return connect.unary({})

    async def _end(self, name: str) -> None:
        found = self._asked.pop(name, None)
        if found is not None:
            await self._watches.release(found.watch)

    async def _told(self, block: Block, root: str, *, entries: bool) -> list[dict[str, Any]]:
        changes = [one for one in block if one.how in TOLD]
        looks = [entries and one.how in SHOWN for one in changes]
        found: list[Detail | None] = [None] * len(changes)
        if any(looks):
            found = await self._work.run(_look_at, changes, looks)
            self._files.owners.refresh()
        made = []
        for change, state in zip(changes, found, strict=True):
            path = posixpath.join(machine.fsdecode(change.directory), machine.fsdecode(change.name))
            name = posixpath.relpath(path, root)
            one: dict[str, Any] = {
                "name": name.encode("utf-8", "replace").decode(),
                "type": f"EVENT_TYPE_{change.how}",
            }
            if state is not None:
                one["entry"] = entry_of(state, self._files.owners)
            made.append(one)
        return made


def _look_at(changes: list[Change], looks: list[bool]) -> list[Detail | None]:
    found: list[Detail | None] = []
    for change, look in zip(changes, looks, strict=True):
        state = None
        if look:
            try:
                state = detail(os.fsdecode(change.directory + b"/" + change.name))
            except (OSError, ValueError):
                state = None  # it has gone again
        found.append(state)
    return found


def _check_directory(path: str) -> None:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, machine.strerror(errno.ENOTDIR), path)


def _make(path: str) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        make_directories(path, 0o755)
        return
    if stat.S_ISDIR(found.st_mode):
        raise FileExistsError(errno.EEXIST, machine.strerror(errno.EEXIST), path)
    raise Failure("invalid_argument", f"path already exists but it is not a directory: {path}")


def _make_room(source: str, target: str) -> None:
    """Have a place to move to, if there is something to move."""
    os.lstat(source)
    make_directories(os.path.dirname(target), 0o755)


_CODES = {
    errno.ENOENT: "not_found",
    errno.EEXIST: "already_exists",
    errno.ENOTDIR: "invalid_argument",
    errno.EINVAL: "invalid_argument",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ENOSPC: "resource_exhausted",
    errno.EDQUOT: "resource_exhausted",
}


def _failure(path: str, error: OSError | ValueError) -> Failure:
    met = Obstacle.of("open", path, error)
    code = _CODES.get(met.errno, "internal")
    words = {"not_found": "does not exist", "already_exists": "already exists"}
    if met.errno == errno.ENOTDIR:
        return Failure(code, f"path is not a directory: {met.path}")
    if code in words:
        return Failure(code, f"path '{met.path}' {words[code]}")
    return Failure(code, str(met))
