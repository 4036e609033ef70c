"""Limits for one process and everything it starts: control groups where they are writable.

Version 2 of cgroups(7) is used where its controllers are there, version 1 controller by controller
where a machine still mounts those (many microVM images do; only file names differ). What no cgroup
can hold falls back to setrlimit(2), which counts less well: memory by the address space of each
process, processes by the user. CPU shares have no such fallback. Which limit is kept by what is in
`Confinement.enforced`; nothing pretends.

The child enters its group before exec, by writing to a descriptor that was opened by the server
(the kernel checks who opened it), so no instruction of the program runs outside. A kill reaches
every member, also daemons that left group and session.
"""

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.linux.mounts import parse_mounts

__all__ = ["Cgroups", "Confinement", "Limits"]

FOLDER = "sandkeeper"
LEAF = f"{FOLDER}.server"
PERIOD = 100_000  # microseconds of cpu.max
CONTROLLERS = ("memory", "pids", "cpu")
KILL_ROUNDS = 20
ROUND_MS = 100


class Limits(msgspec.Struct, frozen=True):
    """What a process tree may use; None is no limit. `open_files` counts for each process."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    open_files: int | None = None

    def wanted(self) -> dict[str, float]:
        """Return the limits that are set, by controller."""
        values = {"memory": self.memory_bytes, "pids": self.pids, "cpu": self.cpus}
        return {name: value for name, value in values.items() if value is not None}


class _Parent(msgspec.Struct, frozen=True):
    """Where groups for a controller are made, and by which version's file names."""

    folder: Path
    version: int

    def settings(self, controller: str, value: float) -> list[tuple[str, str, bool]]:
        """Return (file, content, must succeed) for a limit."""
        number = str(int(value))
        quota = str(max(1000, int(value * PERIOD)))
        two = {
            "memory": [
                ("memory.max", number, True),
                ("memory.swap.max", "0", False),
                ("memory.oom.group", "1", False),
            ],
            "pids": [("pids.max", number, True)],
            "cpu": [("cpu.max", f"{quota} {PERIOD}", True)],
        }
        one = {
            "memory": [
                ("memory.limit_in_bytes", number, True),
                ("memory.memsw.limit_in_bytes", number, False),
            ],
            "pids": [("pids.max", number, True)],
            "cpu": [("cpu.cfs_period_us", str(PERIOD), True), ("cpu.cfs_quota_us", quota, True)],
        }
        return (two if self.version == 2 else one)[controller]


class Confinement(msgspec.Struct):
    """The groups of one run. `enforced` says what keeps each limit: cgroup2, cgroup1 or rlimit.

    A limit that nothing can keep here is not in it.
    """

    folders: dict[str, Path]
    enforced: dict[str, str]
    rlimits: dict[int, int] = msgspec.field(default_factory=dict)
    _entrances: list[int] = msgspec.field(default_factory=list)

    def entrances(self) -> tuple[int, ...]:
        """Return what `Spawn.cgroups` takes; `close` after the start."""
        if not self._entrances:
            flags = os.O_WRONLY | os.O_CLOEXEC
            self._entrances = [
                os.open(folder / "cgroup.procs", flags) for folder in set(self.folders.values())
            ]
        return tuple(self._entrances)

    def close(self) -> None:
        """Close the descriptors that `entrances` opened."""
        entrances, self._entrances = self._entrances, []
        for fd in entrances:
            os.close(fd)

    def members(self) -> list[int]:
        """Return the pids in the groups."""
        pids: set[int] = set()
        for folder in set(self.folders.values()):
            with suppress(OSError):
                pids.update(map(int, (folder / "cgroup.procs").read_bytes().split()))
        return sorted(pids)

    def oom_kills(self) -> int:
        """Return how many members were killed for memory, by this limit or the machine's."""
        folder = self.folders.get("memory")
        if folder is None:
            return 0
        found = _figure(folder / "memory.events", "oom_kill")
        return found or _figure(folder / "memory.oom_control", "oom_kill") or 0

    def cpu_seconds(self) -> float | None:
        """Return what members have used so far, also those that are gone; None: nobody counts."""
        for folder in sorted(set(self.folders.values())):
            if (used := _figure(folder / "cpu.stat", "usage_usec")) is not None:
                return used / 1e6
            with suppress(OSError, ValueError):
                return int((folder / "cpuacct.usage").read_text()) / 1e9
        return None

    def memory_bytes(self) -> int | None:
        """Return what members hold, without files that the kernel can drop at once.

        None where no group counts it.
        """
        folder = self.folders.get("memory")
        names = {"memory.current": "inactive_file", "memory.usage_in_bytes": "total_inactive_file"}
        if folder is None:
            return None
        for held, idle in names.items():
            with suppress(OSError, ValueError):
                whole = int((folder / held).read_text())
                return max(0, whole - (_figure(folder / "memory.stat", idle) or 0))
        return None

    def kill(self) -> bool:
        """Kill every member; False when some could not be killed. Blocks until they are gone.

        `cgroup.kill` (Linux 5.14) does it at once. Elsewhere no member may fork any more, and then
        they are killed until none is left.
        """
        for folder in set(self.folders.values()):
            with suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        with suppress(OSError, KeyError):
            (self.folders["pids"] / "pids.max").write_text("0")
        return any(not self._kill_round() for _ in range(KILL_ROUNDS))

    def _kill_round(self) -> bool:
        """Signal the members and wait shortly for their end; False when there were none.

        A pid is looked up again after it was opened: only what is in the group both times is
        certainly a member, whoever else may have got the number in between.
        """
        opened: dict[int, int] = {}
        for pid in self.members():
            with suppress(OSError):
                opened[pid] = os.pidfd_open(pid)
        still = set(self.members())
        poller = select.poll()
        try:
            for pid in opened.keys() & still:
                with suppress(OSError):
                    signal.pidfd_send_signal(opened[pid], signal.SIGKILL)
                poller.register(opened[pid], select.POLLIN)
            deadline = time.monotonic() + ROUND_MS / 1000
            waiting = opened.keys() & still
            while waiting and (left := deadline - time.monotonic()) > 0:
                for fd, _ in poller.poll(left * 1000):
                    poller.unregister(fd)
                    waiting = {pid for pid in waiting if opened[pid] != fd}
        finally:
            for fd in opened.values():
                os.close(fd)
        return bool(still)

    def remove(self) -> bool:
        """Remove the empty groups; False while they still have members."""
        self.close()
        gone = True
        for folder in set(self.folders.values()):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


class Cgroups:
    """Makes groups under the server's own ones; without any, only resource limits remain."""

    def __init__(self, parents: Mapping[str, _Parent]) -> None:
        self._parents = dict(parents)

    @classmethod
    def detect(
        cls, mounts: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup"
    ) -> "Cgroups":
        """Find what is writable; makes the parent folder of later groups. Blocks."""
        try:
            with open(mounts) as mounted, open(own) as groups:
                places = _places(mounted.read(), groups.read())
        except OSError:
            return cls({})
        parents: dict[str, _Parent] = {}
        if unified := places.get(""):
            if unified.name == LEAF:  # an earlier server of this process has moved us down
                unified = unified.parent
            parents = {name: _Parent(unified / FOLDER, 2) for name in _enable(unified)}
        for name in CONTROLLERS:
            if name not in parents and name in places:
                parents[name] = _Parent(places[name] / FOLDER, 1)
        return cls({name: one for name, one in parents.items() if _writable(one.folder)})

    @property
    def controllers(self) -> dict[str, str]:
        """Which limits cgroups can keep here: memory, pids, cpu → cgroup2 or cgroup1."""
        return {name: f"cgroup{one.version}" for name, one in self._parents.items()}

    def create(self, name: str, limits: Limits, *, uid: int = 0) -> Confinement:
        """Make the groups of a run of user `uid`; raises OSError when a limit cannot be written.

        `name` is ours (a run's id), never a client's.
        """
        made = Confinement({}, {})
        try:
            for controller, value in limits.wanted().items():
                if parent := self._parents.get(controller):
                    self._limit(made, name, controller, value, parent)
                else:
                    _fall_back(made, controller, int(value), uid)
            self._count(made, name)
        except OSError:
            made.remove()
            raise
        if limits.open_files is not None:
            made.rlimits[resource.RLIMIT_NOFILE] = limits.open_files
            made.enforced["openFiles"] = "rlimit"
        return made

    def _limit(
        self, made: Confinement, name: str, controller: str, value: float, parent: _Parent
    ) -> None:
        folder = parent.folder / name
        folder.mkdir(mode=0o755, exist_ok=True)
        made.folders[controller] = folder
        for file, content, required in parent.settings(controller, value):
            try:
                (folder / file).write_text(content)
            except OSError:
                if required:
                    raise
        made.enforced[controller] = f"cgroup{parent.version}"

    def _count(self, made: Confinement, name: str) -> None:
        """Have version 1 count processes too: it has no kill, but can forbid to fork before one."""
        parent = self._parents.get("pids")
        if made.folders and parent is not None and parent.version == 1:
            folder = parent.folder / name
            folder.mkdir(mode=0o755, exist_ok=True)
            made.folders["pids"] = folder

    def find(self, name: str) -> Confinement | None:
        """Return the groups of a run that an earlier server made; None when there are none."""
        folders = {key: one.folder / name for key, one in self._parents.items()}
        found = {key: folder for key, folder in folders.items() if folder.is_dir()}
        return Confinement(found, {}) if found else None

    def names(self) -> set[str]:
        """Return the names of all groups that there are."""
        found: set[str] = set()
        for one in self._parents.values():
            with suppress(OSError):
                found.update(entry.name for entry in os.scandir(one.folder) if entry.is_dir())
        return found


def _figure(file: Path, name: str) -> int | None:
    """Return the number behind a name in a file of such lines; None where there is none."""
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    return None


def _fall_back(made: Confinement, controller: str, value: int, uid: int) -> None:
    kinds = {"memory": resource.RLIMIT_AS}
    if uid:
        kinds["pids"] = resource.RLIMIT_NPROC  # the kernel does not count root's processes
    if controller in kinds:
        made.rlimits[kinds[controller]] = value
        made.enforced[controller] = "rlimit"


def _places(mounts: str, own: str) -> dict[str, Path]:
    """Map controllers to our own group's folder; the unified hierarchy is the empty name.

    A mount shows the part of the hierarchy below its root (proc_pid_mountinfo(5), field 4), which
    in a container is not the hierarchy's own root.
    """
    ours: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        ours.update(dict.fromkeys(controllers.split(","), path))
    places: dict[str, Path] = {}
    for one in parse_mounts(mounts):
        if one.kind not in {"cgroup", "cgroup2"}:
            continue
        for name in [""] if one.kind == "cgroup2" else one.options:
            if name in ours:
                inside = ours[name].startswith(one.root)
                below = os.path.relpath(ours[name], one.root) if inside else "."
                places.setdefault(name, Path(os.path.normpath(os.path.join(one.path, below))))
    return places


def _enable(unified: Path) -> list[str]:
    """Hand the controllers of our own group down to new ones; returns those that are handed down.

    A group that hands controllers down must not hold processes itself. Where we are alone in ours
    (a container's usual case), we move into a leaf of our own.
    """
    try:
        offered = (unified / "cgroup.controllers").read_text().split()
        wanted = [name for name in CONTROLLERS if name in offered]
        if not wanted:
            return []
        control = unified / "cgroup.subtree_control"
        if not _write(control, wanted) and _move_down(unified):
            _write(control, wanted)
        folder = unified / FOLDER
        folder.mkdir(exist_ok=True)
        given = set(control.read_text().split())
        inner = folder / "cgroup.subtree_control"
        _write(inner, [name for name in wanted if name in given])
        return [name for name in wanted if name in inner.read_text().split()]
    except OSError:
        return []


def _write(control: Path, names: list[str]) -> bool:
    try:
        control.write_text(" ".join(f"+{name}" for name in names))
    except OSError as error:
        if error.errno in {errno.EBUSY, errno.ENOTSUP}:
            return False
        raise
    return True


def _move_down(unified: Path) -> bool:
    pids = (unified / "cgroup.procs").read_text().split()
    if os.getpid() != 1 and pids != [str(os.getpid())]:
        return False  # others live here; whoever manages them would be surprised
    leaf = unified / LEAF
    leaf.mkdir(exist_ok=True)
    for pid in pids:
        with suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)
    return True


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
