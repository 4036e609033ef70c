"""Looking at a repository: status, comparisons, history, branches. Nothing is changed or locked."""

import re
from collections.abc import AsyncIterator

from sandkeeper.errors import BadInput
from sandkeeper.files.service import Files
from sandkeeper.git.arguments import limited, pathspecs, revision
from sandkeeper.git.fields import DiffFields, HistoryFields, PlaceFields, StatusFields
from sandkeeper.git.operations import CallEnd, Operation
from sandkeeper.git.porcelain import (
    BRANCH_FORMAT,
    LOG_FORMAT,
    ChangeReader,
    StatusReader,
    branches_of,
    commits_of,
    tokens,
)
from sandkeeper.git.records import Branches, Diff, Head, History, Status, named
from sandkeeper.journal.lines import cut_end
from sandkeeper.linux.paths import useros as os

__all__ = [
    "branches",
    "check_diff",
    "diff",
    "head",
    "history",
    "patch",
    "state_of",
    "status",
    "to_root",
]

QUIETLY = "--no-optional-locks"
FILES_MOST = 100_000
COMMITS_MOST = 1000
PATCH_MOST = 1 << 20
HISTORY_BYTES = 4 << 20
BRANCHES_MOST = 10_000
STATES = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}
_NO_TREE = re.compile(r"must be run in a work tree")


async def to_root(operation: Operation) -> None:
    """Go to the top of the working tree, to which all names are relative.

    Raises NotFound where there is no repository. A bare one stays where it is.
    """
    answer = await operation.git("rev-parse", "--show-toplevel", accepts=(0, 128))
    if answer.code == 0:
        operation.folder = os.fsdecode(answer.stdout.removesuffix(b"\n"))
    elif not any(map(_NO_TREE.search, operation.progress.words)):
        raise operation.failure(answer)
    else:
        operation.progress.forget()


async def head(operation: Operation) -> Head:
    """Return the branch and the commit that stand for HEAD."""
    branch = await operation.git("symbolic-ref", "--quiet", "--short", "HEAD", accepts=(0, 1))
    commit = await operation.git("rev-parse", "--quiet", "--verify", "HEAD", accepts=(0, 1, 128))
    operation.progress.forget()
    return Head(branch=branch.line, commit=commit.line if commit.code == 0 else "")


async def state_of(operation: Operation, files: Files) -> str:
    """Return what has been begun and not ended: `merge`, `rebase`, …; empty for nothing."""
    answer = await operation.git("rev-parse", "--absolute-git-dir")
    folder = os.fsdecode(answer.stdout.removesuffix(b"\n"))
    return await files.work.run(_state_in, folder)


def _state_in(folder: str) -> str:
    found = (word for name, word in STATES.items() if os.path.exists(os.path.join(folder, name)))
    return next(found, "")


async def status(operation: Operation, wanted: StatusFields, files: Files) -> Status:
    """Tell what differs from the last commit and from the index."""
    await to_root(operation)
    found = Status(path=named(os.fsencode(operation.folder))[0], files=[])
    reader = StatusReader(found, limited(wanted.limit, "limit", FILES_MOST))
    arguments = [QUIETLY, "status", "--porcelain=v2", "-z", "--branch"]
    arguments += [f"--untracked-files={'all' if wanted.untracked else 'no'}"]
    arguments += ["--ignored=traditional"] if wanted.ignored else []
    async with operation.calling(arguments) as call:
        async for words in tokens(call.chunks()):
            if not reader.take(words):
                break
    if call.is_read and call.code:
        raise operation.failure(CallEnd(call.code, b""))
    found.state = await state_of(operation, files)
    return found


def check_diff(wanted: DiffFields) -> None:
    """Raise BadInput for what cannot be compared."""
    if wanted.target and not wanted.base:
        raise BadInput("target needs base")
    if wanted.target and wanted.staged:
        raise BadInput("either target or staged: the index is compared with one commit")
    limited(wanted.limit, "limit", FILES_MOST)
    limited(wanted.max_bytes, "maxBytes", PATCH_MOST)
    _patch_words(wanted)


def _compared(wanted: DiffFields) -> list[str]:
    """Return the words of a comparison, behind `diff`."""
    words = ["--cached"] if wanted.staged else []
    words += [revision(wanted.base, "base")] if wanted.base else []
    words += [revision(wanted.target, "target")] if wanted.target else []
    return [*words, "--", *pathspecs(wanted.paths, wanted.paths_base64)]


def _diff_words(*forms: str) -> list[str]:
    plain = ("--no-ext-diff", "--no-textconv", "--find-renames", "--submodule=short")
    return [QUIETLY, "diff", *plain, *forms]


async def diff(operation: Operation, wanted: DiffFields) -> Diff:
    """Tell the files of a comparison, and as much of the patch as is asked for."""
    await to_root(operation)
    compared = _compared(wanted)
    reader = ChangeReader(limited(wanted.limit, "limit", FILES_MOST))
    async with operation.calling([*_diff_words("--raw", "--numstat", "-z"), *compared]) as call:
        async for words in tokens(call.chunks()):
            reader.take(words)
    if call.code:
        raise operation.failure(CallEnd(call.code, b""))
    found = Diff(
        files=reader.files,
        additions=reader.additions,
        deletions=reader.deletions,
        patch="",
        truncated=reader.truncated,
    )
    most = limited(wanted.max_bytes, "maxBytes", PATCH_MOST)
    if most and reader.files:
        text, whole = await _beginning(operation, wanted, most)
        found.patch, found.patch_truncated = text, not whole
    return found


async def _beginning(operation: Operation, wanted: DiffFields, most: int) -> tuple[str, bool]:
    """Return as many bytes of the patch as text, up to the end of a line, and whether it is all."""
    kept = bytearray()
    async with operation.calling(_patch_words(wanted)) as call:
        async for chunk in call.chunks():
            kept += chunk
            if len(kept) > most:
                break
    if len(kept) <= most:
        return kept.decode("utf-8", "replace"), True
    lines = bytes(kept[:most]).rpartition(b"\n")
    return cut_end(lines[0] + lines[1] or lines[2], most).decode("utf-8", "replace"), False


def _patch_words(wanted: DiffFields) -> list[str]:
    context = limited(wanted.context, "context", 1 << 30)
    return [*_diff_words("--patch", "--binary", f"--unified={context}"), *_compared(wanted)]


async def patch(operation: Operation, wanted: DiffFields) -> AsyncIterator[bytes]:
    """Yield the patch, byte by byte as git writes it and as fast as it is taken."""
    await to_root(operation)
    async with operation.calling(_patch_words(wanted)) as call:
        async for chunk in call.chunks():
            yield chunk
    if call.code:
        raise operation.failure(CallEnd(call.code, b""))


async def history(operation: Operation, wanted: HistoryFields) -> History:
    """Tell commits, the newest first."""
    await to_root(operation)
    most = limited(wanted.limit, "limit", COMMITS_MOST)
    arguments = ["log", "-z", f"--format={LOG_FORMAT}", "--encoding=UTF-8", "--no-show-signature"]
    arguments += [f"--max-count={most}", f"--skip={limited(wanted.skip, 'skip', 1 << 31)}"]
    for name in ("since", "until", "author", "grep"):
        if value := getattr(wanted, name):
            arguments.append(f"--{name}={value}")
    arguments += ["--fixed-strings"] if wanted.grep or wanted.author else []
    arguments += [revision(wanted.ref, "ref")] if wanted.ref else []
    arguments += ["--", *pathspecs(wanted.paths, wanted.paths_base64)]
    found = History([])
    rest: list[bytes] = []
    size = 0
    async with operation.calling(arguments) as call:
        async for words in tokens(call.chunks()):
            rest += words
            size += sum(map(len, words))
            found.commits += commits_of(rest)
            if size > HISTORY_BYTES:
                found.truncated = True
                break
    if call.is_read and call.code:
        raise operation.failure(CallEnd(call.code, b""))
    return found


async def branches(operation: Operation, _wanted: PlaceFields) -> Branches:
    """Tell the branches here and those known of remotes."""
    await to_root(operation)
    count = f"--count={BRANCHES_MOST + 1}"
    places = ("refs/heads", "refs/remotes")
    answer = await operation.git("for-each-ref", count, f"--format={BRANCH_FORMAT}", *places)
    lines = answer.stdout.split(b"\n")
    found = list(branches_of(lines[:BRANCHES_MOST]))
    where = await head(operation)
    return Branches(where.branch, found, truncated=len(lines) > BRANCHES_MOST + 1)
