"""File tools of the contract, and edits with preconditions."""

import asyncio
import posixpath
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.file_structs import (
    DeleteArguments,
    Done,
    EditArguments,
    EditsArguments,
    FileRead,
    Listed,
    OneEdit,
    PathArgument,
    PathState,
    Replaced,
    ReplacedState,
    WorkingDirectory,
    WriteArguments,
)
from sandkeeper.api.mcp.tool import NoArguments, Tool
from sandkeeper.api.schemas.encoding import DirectoryEncoder, encode_file
from sandkeeper.api.schemas.files import Directory
from sandkeeper.errors import BadInput, NotFound, PreconditionFailed, Unprocessable
from sandkeeper.files.conditions import NO_CONDITIONS
from sandkeeper.files.edits import Edit, EditRefused, edit_file
from sandkeeper.files.entries import etag, file_type, parse_octal, permissions
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.linux.paths import useros as os
from sandkeeper.log.access import Caller

__all__ = ["FileTools", "Listed", "list_directory", "target_of", "tools"]

ENTRIES_MOST = 20_000
READ_MOST = 4 << 20
ANSWER_MOST = 8 << 20
READ_AT_ONCE = 1
"""A result stands in its answer twice, once as JSON within JSON: up to thirteen times the file."""

_directory = msgspec.json.Decoder(Directory).decode

EDITS_MOST = 200


def target_of(files: Files, path: str) -> Target:
    """Resolve an argument; raises BadInput for an empty one."""
    if not path:
        raise BadInput("path is empty")
    return files.resolve_text(path)


def list_directory(files: Files, target: Target) -> Listed:
    """List one level; blocking. Raises NotFound, Unprocessable (no directory, too many)."""
    if not stat.S_ISDIR(files.look(target.absolute).st_mode):
        raise Unprocessable(f"{target.display} is not a directory")
    listing = files.listing(target.absolute)
    try:
        count = len(listing.files) + len(listing.directories)
        if count > ENTRIES_MOST:
            raise Unprocessable(f"{count} entries are more than {ENTRIES_MOST}; search instead")
        encoder = DirectoryEncoder(files.owners, target)
        blocks = encoder.blocks(listing.batches(), listing.directories)
        return Listed(_directory(b"".join(blocks)))
    finally:
        listing.fd.close()


class FileTools:
    """The tools over `files.service`; everything blocking runs as the workload's user."""

    def __init__(self, files: Files) -> None:
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._files = files
        self._work = files.work

    async def working_directory(self, _arguments: NoArguments, _who: Caller) -> WorkingDirectory:
        """Return the working directory."""
        return WorkingDirectory(self._files.workdir)

    async def list(self, wanted: PathArgument, _who: Caller) -> Listed:
        """List one level of a directory."""
        target = self._files.resolve_text(wanted.path)
        return await self._work.run(list_directory, self._files, target)

    async def read(self, wanted: PathArgument, _who: Caller) -> FileRead:
        """Read a whole file."""
        async with self._reading:
            return await self._work.run(self._read, target_of(self._files, wanted.path))

    def _read(self, target: Target) -> FileRead:
        info = self._files.look(target.absolute)
        if stat.S_ISDIR(info.st_mode):
            raise BadInput(f"{target.display} is a directory, not a file")
        if info.st_size > READ_MOST:
            raise BadInput(
                f"{target.display} is larger than {READ_MOST} bytes: read a part of it "
                "(codegenReadFileRange) or download it over HTTP"
            )
        content = self._files.content(target.absolute, info)
        self._files.owners.refresh()
        body = encode_file(self._files.owners, target, content.info, content.data)
        if len(body) > ANSWER_MOST:
            raise BadInput(
                f"{target.display} is larger than {ANSWER_MOST} bytes as JSON, which escapes what "
                "is no text: download it over HTTP"
            )
        read = msgspec.json.decode(body, type=FileRead)
        read.last_modified = _seconds(content.info)
        return read

    async def write(self, wanted: WriteArguments, _who: Caller) -> Done:
        """Write a whole file, or make a directory."""
        target = target_of(self._files, wanted.path)
        mode = _octal(wanted.permissions, 0o755 if wanted.is_directory else 0o644)
        if wanted.is_directory:
            await self._work.run(self._files.make_directory, target.absolute, mode)
            return Done(target.display, "Directory created successfully")
        data = wanted.content.encode()
        await self._work.run(self._files.write, target.absolute, data, mode)
        return Done(target.display, "File created/updated successfully")

    async def edit(self, wanted: EditArguments, _who: Caller) -> Replaced:
        """Replace text in a file."""
        target = target_of(self._files, wanted.path)
        count, _info = await self._edited(target, [wanted], "")
        return Replaced(target.display, count)

    async def apply_edits(self, wanted: EditsArguments, _who: Caller) -> ReplacedState:
        """Make several replacements, all or none."""
        if len(wanted.edits) > EDITS_MOST:
            raise BadInput(f"more than {EDITS_MOST} edits")
        target = target_of(self._files, wanted.path)
        count, info = await self._edited(target, wanted.edits, wanted.etag)
        return ReplacedState(target.display, count, etag(info))

    async def _edited(
        self, target: Target, wanted: "Sequence[EditArguments | OneEdit]", expected: str
    ) -> tuple[int, os.stat_result]:
        texts = [(one.old_string, one.new_string, one.replace_all) for one in wanted]
        edits = [Edit(old.encode(), new.encode(), every) for old, new, every in texts]

        def check(info: os.stat_result) -> None:
            if expected and etag(info) != expected:
                raise PreconditionFailed(f"the file is now {etag(info)}, not {expected}")

        try:
            return await self._work.run(edit_file, self._files, target.absolute, edits, check)
        except EditRefused as refused:
            raise Unprocessable(_refusal(refused, target, len(edits))) from None

    async def delete(self, wanted: DeleteArguments, _who: Caller) -> Done:
        """Delete a file, a link or a directory."""
        target = target_of(self._files, wanted.path)
        if wanted.is_directory is False:
            await self._work.run(self._refuse_directory, target)
        was_directory = await self._work.walk(
            partial(self._files.delete, target.absolute, wanted.recursive, NO_CONDITIONS)
        )
        kind = "Directory" if was_directory else "File"
        return Done(target.display, f"{kind} deleted successfully")

    def _refuse_directory(self, target: Target) -> None:
        with suppress(OSError, ValueError):  # the deletion says what is wrong
            if stat.S_ISDIR(os.lstat(target.absolute).st_mode):
                raise BadInput(f"{target.display} is a directory, and isDirectory is false")

    async def stat(self, wanted: PathArgument, _who: Caller) -> PathState:
        """Look at what is there."""
        return await self._work.run(self._stat, target_of(self._files, wanted.path))

    def _stat(self, target: Target) -> PathState:
        try:
            info = os.lstat(target.absolute)
            is_link = stat.S_ISLNK(info.st_mode)
            leads_to = os.readlink(target.absolute) if is_link else ""
            state = os.stat(target.absolute) if is_link else info
        except FileNotFoundError:
            raise NotFound(f"{target.display} does not exist") from None
        except (OSError, ValueError) as error:
            raise Unprocessable(f"cannot look at {target.display}: {error}") from None
        owners = self._files.owners
        owners.refresh()
        return PathState(
            path=target.display,
            type=file_type(info.st_mode),
            permissions=permissions(info.st_mode),
            size=info.st_size,
            last_modified=_seconds(info),
            owner=owners.user(info.st_uid),
            group=owners.group(info.st_gid),
            etag=etag(state),
            target=posixpath.normpath(leads_to) if leads_to else "",
        )


def _refusal(refused: EditRefused, target: Target, edits: int) -> str:
    """Say why nothing was edited."""
    which = f"edit {refused.number}: " if edits > 1 else ""
    return {
        "empty": "oldString is empty",
        "identical": "oldString and newString are identical",
        "missing": f"{which}oldString not found in the file",
        "ambiguous": f"{which}oldString occurs {refused.found} times; give more of its "
        "surroundings or set replaceAll",
        "size": f"the result is larger than {refused.found} bytes",
        "contended": f"{target.absolute} is being written by others; nothing was changed",
    }[refused.reason]


def _seconds(info: os.stat_result) -> str:
    return rfc3339(info.st_mtime_ns // 1_000_000_000 * 1_000_000_000)


def _octal(text: str, default: int) -> int:
    """Read permissions; what is not octal is the default, as the contract says."""
    try:
        return parse_octal(text) & 0o7777 if text else default
    except ValueError:
        return default


def tools(made: FileTools) -> list[Tool]:
    """Return the file tools."""
    return [
        Tool(
            "fsGetWorkingDirectory",
            "Return the working directory, where relative paths begin.",
            NoArguments,
            WorkingDirectory,
            made.working_directory,
            need=USER,
        ),
        Tool(
            "fsListDirectory",
            "List the files and subdirectories of a directory, one level.",
            PathArgument,
            Listed,
            made.list,
            "failed to list directory: ",
            need=USER,
        ),
        Tool(
            "fsReadFile",
            "Read a text file with its size, permissions, owner and time.",
            PathArgument,
            FileRead,
            made.read,
            "failed to read file: ",
            need=USER,
        ),
        Tool(
            "fsWriteFile",
            "Create or replace a file as a whole, with missing parents, or make a directory.",
            WriteArguments,
            Done,
            made.write,
            "failed to write: ",
            need=USER,
        ),
        Tool(
            "fsEditFile",
            "Replace text in a file: oldString must occur exactly once, or replaceAll be set.",
            EditArguments,
            Replaced,
            made.edit,
            "failed to edit file: ",
            need=USER,
        ),
        Tool(
            "fsApplyEdits",
            "Make several replacements in one file, all or none, if wanted only while the file "
            "still has the state you know (etag).",
            EditsArguments,
            ReplacedState,
            made.apply_edits,
            "failed to edit file: ",
            need=USER,
        ),
        Tool(
            "fsDeleteFileOrDirectory",
            "Delete a file, a link or a directory; one that is not empty needs recursive.",
            DeleteArguments,
            Done,
            made.delete,
            "failed to delete: ",
            need=USER,
        ),
        Tool(
            "fsStat",
            "Look at a path without reading it: type, size, permissions, owner, time, etag.",
            PathArgument,
            PathState,
            made.stat,
            "failed to stat: ",
            need=USER,
        ),
    ]
