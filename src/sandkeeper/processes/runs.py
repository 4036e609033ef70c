"""Run directories: the database of processes, one folder each, inspectable with `ls`.

    <state>/runs/<id>/        0700
        meta.jsonl            what the run is and how it stands; the last whole line counts
        *.seg *.idx           its output (journal.segment)
        exported              how far its output went to the telemetry (observability.telemetry)
        exported-otlp         the same of a collector's

The pipes of a run's output, `<id>.out` and `<id>.err`, are the workload user's and lie in
`pipes_folder`, which is in memory; so does `<id>.birth`, the first lines of the record, until they
are on the disk. Ids are ours; names from clients never become paths.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from sandkeeper.journal.exported import EXPORTED, EXPORTED_OTLP
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.mounts import mounts
from sandkeeper.linux.paths.statefiles import (
    LAST_SECOND,
    Damaged,
    SetAside,
    keep_kind,
    make_folder,
    open_plain,
    read_plain,
)
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_folder
from sandkeeper.processes.record import RunMeta, read_record

__all__ = ["RunFolder", "RunStore", "began_at", "is_id", "new_id", "pipes_folder", "places_folder"]

SPARES = 8
COMPACT_BYTES = 256 << 10
LINES_TRIED = 1000
ANNOUNCING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def is_id(name: str) -> bool:
    """Say whether `new_id` could have made this."""
    return len(name) == 26 and set(name) <= set(_ALPHABET)


def began_at(run_id: str) -> float:
    """Return when an id was made, in seconds since the epoch."""
    value = 0
    for letter in run_id[:10]:
        value = value << 5 | _ALPHABET.index(letter)
    return (value & ((1 << 48) - 1)) / 1000


def new_id() -> str:
    """Return a ULID: 10 characters of time, 16 of chance; sorts by age."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


class RunFolder:
    """The folder of one run; all methods block."""

    def __init__(self, store: "RunStore", run_id: str) -> None:
        self.id = run_id
        self.path = store.runs / run_id
        self.fifos = (store.pipes / f"{run_id}.out", store.pipes / f"{run_id}.err")
        self.exported = (self.path / EXPORTED, self.path / EXPORTED_OTLP)
        # As texts, and made before anybody waits for a start: a Path is asked for it at each use.
        self._record = f"{self.path}/meta.jsonl"
        self._pipes = str(self.fifos[0]), str(self.fifos[1])
        self._birth = f"{store.pipes}/{run_id}.birth"
        self._in_memory = {*self._pipes, self._birth}
        self._removed = False

    def create(self) -> None:
        """Make the folder and an empty record; raises OSError."""
        self.path.mkdir(mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self._record, flags, 0o600))

    def announcement(self) -> OwnedFd:
        """Open where a record is written for which no disk is waited; raises OSError.

        The first `save` takes its place.
        """
        return OwnedFd(os.open(self._birth, ANNOUNCING, 0o600))

    def make_fifos(self, identity: Identity | None) -> None:
        """Make the pipes of its output; raises OSError."""
        for fifo in self._pipes:
            os.mkfifo(fifo, 0o600)
            if identity is not None:
                # So that the workload may reopen its own /dev/stdout.
                os.chown(fifo, identity.uid, identity.gid)

    def has_pipes(self, aside: SetAside) -> bool:
        """Say whether the pipes of its output are there; what is none is set aside."""
        for fifo in self.fifos:
            keep_kind(fifo, stat.S_IFIFO, aside)
        return all(fifo.exists() for fifo in self.fifos)

    def open_readers(self) -> tuple[int, int]:
        """Open both pipes for reading; raises OSError."""
        return self._open(os.O_RDONLY | os.O_NONBLOCK)

    def open_writers(self) -> tuple[int, int]:
        """Open both pipes as a child gets them: it reads its own pipe, so it never sees SIGPIPE."""
        return self._open(os.O_RDWR)

    def _open(self, flags: int) -> tuple[int, int]:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        first = os.open(self._pipes[0], flags)
        try:
            return first, os.open(self._pipes[1], flags)
        except OSError:
            os.close(first)
            raise

    def save(self, data: bytes) -> None:
        """Add an encoded RunMeta to `meta.jsonl`; raises OSError.

        Appending is atomic enough (a torn line is not whole) and, unlike replacing the file, does
        not make ext4 flush it to the disk (auto_da_alloc, ext4(5)).
        """
        path, flags = self._record, os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            fd = open_plain(path, flags)
        except FileNotFoundError:
            if self._removed:
                return
            self.path.mkdir(mode=0o700)  # somebody removed it, or the state folder is another one
            fd = open_plain(path, flags)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            # A line of its own even behind one that a full disk cut short.
            line = b"\n" + data + b"\n"
            if os.write(fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        if size == 0:
            self._unlink(self._birth)
        if size > COMPACT_BYTES:
            temporary = self.path / "meta.tmp"
            temporary.write_bytes(data + b"\n")
            temporary.rename(path)

    def load(self) -> RunMeta | None:
        """Return what the last whole line of the record says, or None when there is none.

        Raises OSError when it cannot be read, Damaged when no line of it can be true, ValueError
        when a later version wrote it.
        """
        for path in (self._record, self._birth):
            try:
                lines = read_plain(path).split(b"\n")
            except (FileNotFoundError, NotADirectoryError):
                continue
            tried = 0
            for line in reversed(lines):
                if line.startswith(b"{") and tried < LINES_TRIED:
                    tried += 1
                    with suppress(Damaged):
                        return read_record(line, self.id)
            if any(lines[:-1]):  # what ends in a newline was written whole
                raise Damaged("no line of it is a record of ours")
        return None

    @property
    def is_announced(self) -> bool:
        """Whether it ever kept more than an empty record: output, or how far that was exported."""
        return any(path.name != "meta.jsonl" for path in self.path.iterdir())

    def lost_record(self) -> RunMeta:
        """Return a record for a run whose own is lost: what its folder and its pipes tell."""
        running = self.fifos[0].exists()
        changed = min(max(self.path.lstat().st_mtime, 0.0), float(LAST_SECOND))
        return RunMeta(
            id=self.id,
            command="",
            name=self.id,
            pid="" if running else self.id,
            state="running" if running else "failed",
            started_at=min(began_at(self.id), LAST_SECOND),
            completed_at=0.0 if running else changed,
            exit_code=None if running else -1,
            exit_reason="" if running else "unknown",
        )

    def drop_fifos(self) -> None:
        """Remove the pipes once nobody writes to them."""
        self._unlink(*self._pipes)

    def _unlink(self, *paths: str) -> None:
        for path in paths:
            if path in self._in_memory:
                self._in_memory.discard(path)
                with suppress(OSError):
                    os.unlink(path)

    def remove(self) -> None:
        """Remove everything, for good."""
        self._removed = True
        self._unlink(*self._in_memory)
        try:
            _remove_flat(self.path)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)


class RunStore:
    """Where runs are kept: `runs` on disk, `pipes` in memory where there is such a place.

    A few folders are made in advance: creating a file is the slowest step of starting a process on
    many file systems. What a killed server had in store has no record, and recovery removes it.
    """

    def __init__(self, state: Path, pipes: Path) -> None:
        self.runs = state / "runs"
        self.pipes = pipes
        self._spares: deque[RunFolder] = deque()

    @property
    def stages(self) -> tuple[Path, Path]:
        """Where the pump's stage may be: beside the pipes, or on disk when there is no room."""
        return self.pipes / "stage", self.runs.parent / "stage"

    def prepare(self, aside: SetAside) -> None:
        """Make the folders; raises OSError."""
        make_folder(self.runs, aside)
        make_folder(self.pipes, aside)

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder of a known run."""
        return RunFolder(self, run_id)

    def take(self) -> RunFolder | None:
        """Return an unused folder if one is ready."""
        return self._spares.popleft() if self._spares else None

    @property
    def is_low(self) -> bool:
        """Whether it is time to `refill`."""
        return len(self._spares) <= SPARES // 2

    def make(self) -> RunFolder:
        """Make a folder now; raises OSError."""
        folder = RunFolder(self, new_id())
        folder.create()
        return folder

    def refill(self) -> None:
        """Have some folders ready; a full disk is for `make` to report."""
        with suppress(OSError):
            while len(self._spares) < SPARES:
                self._spares.append(self.make())

    def close(self) -> None:
        """Remove what was not used."""
        while (folder := self.take()) is not None:
            folder.remove()
        with suppress(OSError):  # in use by processes that go on
            self.pipes.rmdir()


def _remove_flat(folder: Path) -> None:
    """Remove a folder that has files only, as ours have; raises OSError for others."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    folder.rmdir()


def pipes_folder(state: Path, runtime: str) -> Path:
    """Return where named pipes go: on tmpfs if we have one, else below the state.

    They must survive the server, not the machine, and in memory they cost a hundredth. The name
    is derived from the state's, so that the next server on it finds them.
    """
    name = _name_of(state)
    for base in filter(None, (runtime, "/run" if os.geteuid() == 0 else "", "/dev/shm")):
        folder = Path(base) / name
        if _is_tmpfs(base) and _is_trusted(base) and _own(folder, 0o700):
            return folder
    return state / "pipes"


def places_folder(state: Path, runtime: str) -> Path:
    """Return where the workload's users may have folders of their own, which we make.

    What lies in it is theirs, so they must be able to reach it; nobody but us makes anything in it,
    and nobody else can list it. Names are short: those of sockets have at most 107 bytes (unix(7)).
    Raises OSError where there is no such place.
    """
    name = _name_of(state) + "-places"
    root = os.geteuid() == 0
    for base in filter(None, ("/run" if root else runtime, "/dev/shm", "/tmp")):
        folder = Path(base) / name
        if _is_trusted(base) and _own(folder, 0o711):
            return folder
    raise OSError(errno.ENOENT, "there is no place for sockets", str(state))


def _name_of(state: Path) -> str:
    return "sandkeeper-" + hashlib.sha256(os.fsencode(state)).hexdigest()[:16]


def _is_tmpfs(path: str) -> bool:
    try:
        kinds = [mount.kind for mount in mounts() if mount.path == path]
    except OSError:
        return False
    return kinds[-1:] in (["tmpfs"], ["ramfs"])


def _is_trusted(base: str) -> bool:
    """Say whether nobody else can put another folder in the place of ours there."""
    try:
        os.close(open_trusted_folder(base))
    except (OSError, UntrustedFile):
        return False
    return True


def _own(folder: Path, mode: int) -> bool:
    """Make the folder; False when it is (or could be) somebody else's."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(mode)  # whatever the umask is
        facts = folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()
    return ours and not facts.st_mode & 0o777 & ~mode
