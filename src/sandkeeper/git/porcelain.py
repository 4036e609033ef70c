"""What git writes for programs, read: `-z` forms, in which names may have any byte but NUL.

git-status(1) "Porcelain Format Version 2", git-diff(1) "Raw output format" and `--numstat`,
git-for-each-ref(1), git-log(1) "Pretty formats", git-push(1) `--porcelain`.
"""

import re
from collections.abc import AsyncIterator, Iterable, Iterator

from sandkeeper.git.records import (
    Branch,
    Commit,
    FileChange,
    FileStatus,
    Person,
    PushedRef,
    Status,
    named,
)
from sandkeeper.numerals import natural

__all__ = [
    "BRANCH_FORMAT",
    "LOG_FORMAT",
    "ChangeReader",
    "StatusReader",
    "branches_of",
    "commits_of",
    "pushed_refs",
    "tokens",
]

WORDS = {
    b"M": "modified",
    b"T": "typechange",
    b"A": "added",
    b"D": "deleted",
    b"R": "renamed",
    b"C": "copied",
    b"U": "unmerged",
    b"X": "unknown",
}
CONFLICTS = {
    b"DD": "both deleted",
    b"AU": "added by us",
    b"UD": "deleted by them",
    b"UA": "added by them",
    b"DU": "deleted by us",
    b"AA": "both added",
    b"UU": "both modified",
}
MESSAGE_BYTES = 64 << 10

LOG_FIELDS = 10
LOG_FORMAT = "tformat:" + "%x00".join(
    ("%H", "%P", "%an", "%ae", "%aI", "%cn", "%ce", "%cI", "%D", "%B")
)
BRANCH_FORMAT = "%00".join(
    (
        *("%(refname)", "%(objectname)", "%(HEAD)", "%(upstream:short)"),
        *("%(upstream:track,nobracket)", "%(committerdate:iso-strict)", "%(symref)"),
        "%(contents:subject)",
    )
)
_AHEAD, _BEHIND = re.compile(r"ahead (\d+)"), re.compile(r"behind (\d+)")


async def tokens(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield what NUL bytes part, as it comes; what stands behind the last is none."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\0")
        if whole:
            yield whole


class StatusReader:
    """Reads the tokens of a status into `status`, whose files are `limit` at most."""

    def __init__(self, status: Status, limit: int) -> None:
        self._status = status
        self._limit = limit
        self._renamed: FileStatus | None = None

    def take(self, words: Iterable[bytes]) -> bool:
        """Take some; False when there is room for no more files."""
        for word in words:
            if self._renamed is not None:
                self._renamed.old_path, self._renamed.old_path_base64 = named(word)
                self._renamed = None
            elif word.startswith(b"# "):
                self._head(word[2:].decode("utf-8", "replace"))
            elif word and not self._file(word):
                return False
        return True

    def _head(self, line: str) -> None:
        name, _, value = line.partition(" ")
        status = self._status
        if name == "branch.oid":
            status.commit = "" if value == "(initial)" else value
        elif name == "branch.head":
            status.branch = "" if value == "(detached)" else value
        elif name == "branch.upstream":
            status.upstream = value
        elif name == "branch.ab":
            ahead, _, behind = value.partition(" ")
            status.ahead, status.behind = natural(ahead[1:]) or 0, natural(behind[1:]) or 0

    def _file(self, word: bytes) -> bool:
        status = self._status
        made = self._made(word)
        status.clean = status.clean and made.work_tree == "ignored"
        status.conflicts += bool(made.conflict)
        if len(status.files) >= self._limit:
            status.truncated = True
            return False
        status.files.append(made)
        return True

    def _made(self, word: bytes) -> FileStatus:
        kind = word[:1]
        if kind in b"?!":
            path, raw = named(word[2:])
            what = "untracked" if kind == b"?" else "ignored"
            return FileStatus(path=path, path_base64=raw, work_tree=what)
        # So many fields stand before the name, which may have spaces.
        fields = word.split(b" ", {b"1": 8, b"2": 9, b"u": 10}[kind])
        path, raw = named(fields[-1])
        made = FileStatus(path=path, path_base64=raw)
        if kind == b"u":
            made.conflict = CONFLICTS.get(fields[1], "both modified")
            return made
        made.index = WORDS.get(fields[1][:1], "")
        made.work_tree = WORDS.get(fields[1][1:], "")
        if kind == b"2":
            self._renamed = made
        return made


class ChangeReader:
    """Reads the tokens of `diff --raw --numstat -z`: first all files, then all their numbers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: dict[bytes, FileChange] = {}
        self._raw: list[bytes] | None = None
        self._numbers: list[bytes] | None = None
        self.truncated = False
        self.additions = self.deletions = 0

    @property
    def files(self) -> list[FileChange]:
        """The files, in git's order."""
        return list(self._files.values())

    def take(self, words: Iterable[bytes]) -> None:
        """Take some."""
        for word in words:
            if self._raw is not None:
                self._name(self._raw, word)
            elif self._numbers is not None:
                self._numbers.append(word)
                if len(self._numbers) == 4:
                    self._count(self._numbers[3], *self._numbers[:2])
            elif word.startswith(b":"):
                self._raw = word[1:].split(b" ")
            elif word.count(b"\t") >= 2:
                added, deleted, name = word.split(b"\t", 2)
                if name:
                    self._count(name, added, deleted)
                else:  # a rename: both names follow
                    self._numbers = [added, deleted]

    def _name(self, raw: list[bytes], word: bytes) -> None:
        kind = raw[4][:1]
        if kind in b"RC" and len(raw) == 5:
            raw.append(word)
            return
        self._raw = None
        if len(self._files) >= self._limit:
            self.truncated = True
            return
        path, encoded = named(word)
        made = FileChange(
            path=path,
            path_base64=encoded,
            status=WORDS.get(kind, "modified"),
            old_mode=_mode(raw[0]),
            new_mode=_mode(raw[1]),
        )
        if len(raw) > 5:
            made.old_path, made.old_path_base64 = named(raw[5])
        self._files[word] = made

    def _count(self, name: bytes, added: bytes, deleted: bytes) -> None:
        self._numbers = None
        plus, minus = natural(added), natural(deleted)
        self.additions += plus or 0
        self.deletions += minus or 0
        found = self._files.get(name)
        if found is None:
            return
        found.binary = plus is None
        if plus is not None and minus is not None:
            found.additions, found.deletions = plus, minus


def _mode(mode: bytes) -> str:
    return "" if mode == b"000000" else mode.decode("ascii", "replace")


def commits_of(words: list[bytes]) -> Iterator[Commit]:
    """Yield the commits of whole groups of fields, and take these from `words`."""
    while len(words) >= LOG_FIELDS:
        fields = [word.decode("utf-8", "replace") for word in words[: LOG_FIELDS - 1]]
        message = words[LOG_FIELDS - 1][:MESSAGE_BYTES].decode("utf-8", "replace")
        del words[:LOG_FIELDS]
        commit, parents, *people, refs = fields
        yield Commit(
            commit.lstrip("\n"),
            parents.split(),
            Person(*people[:3]),
            Person(*people[3:]),
            [ref for ref in refs.split(", ") if ref],
            message.partition("\n")[0],
            message.rstrip("\n"),
        )


def branches_of(lines: Iterable[bytes]) -> Iterator[Branch]:
    """Yield the branches of lines in BRANCH_FORMAT; symbolic ones (`origin/HEAD`) are left out."""
    for line in lines:
        fields = [field.decode("utf-8", "replace") for field in line.split(b"\0")]
        if len(fields) != 8 or fields[6]:
            continue
        ref, commit, head, upstream, track, moment, _, subject = fields
        remote = ref.startswith("refs/remotes/")
        name = ref.removeprefix("refs/heads/").removeprefix("refs/remotes/")
        ahead, behind = _AHEAD.search(track), _BEHIND.search(track)
        yield Branch(
            name=name,
            commit=commit,
            current=head == "*",
            remote=remote,
            upstream=upstream,
            ahead=int(ahead[1]) if ahead else 0,
            behind=int(behind[1]) if behind else 0,
            gone=track == "gone",
            time=moment,
            subject=subject,
        )


_FLAGS = {
    " ": "updated",
    "+": "forced",
    "-": "deleted",
    "*": "new",
    "!": "rejected",
    "=": "unchanged",
}


def pushed_refs(output: bytes) -> list[PushedRef]:
    """Return the refs of `push --porcelain`."""
    refs: list[PushedRef] = []
    for line in output.decode("utf-8", "replace").splitlines():
        flag, tab, rest = line.partition("\t")
        names, second, summary = rest.partition("\t")
        if not tab or not second or flag not in _FLAGS:
            continue
        source, _, target = names.partition(":")
        refs.append(PushedRef(source=source, target=target, status=_FLAGS[flag], summary=summary))
    return refs
