"""What no archive holds, the moment of the first start, and the baseline recorded at it."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.daemon import Daemon
from sandkeeper.linux.mounts import mounts
from sandkeeper.linux.paths.below import is_below
from sandkeeper.log.lines import Log
from sandkeeper.processes.runs import pipes_folder
from sandkeeper.settings import Environment, Settings

__all__ = [
    "EXCLUDES",
    "FOLDER",
    "MARKER",
    "BaselineRecorder",
    "excluded",
    "mount_points",
    "record_baseline",
    "was_restored",
]

FOLDER = ".blaxel-archive"
MARKER = f"{FOLDER}/restored.json"
EXCLUDES = (
    *("proc", "sys", "dev", "run", "tmp", "mnt", "etc/resolv.conf", "etc/hostname", "etc/hosts"),
    *("run/secrets", "var/run/secrets"),
)
LOWEST_PRIORITY = 19


def excluded(root: str, runtime: list[str], more: list[str]) -> list[str]:
    """Return the paths below `root` that are left out: the contract's, our own and `more`.

    Relative, each once; `more` may name them in full or relative to the root.
    """
    own = [path for path in runtime if is_below(path, root)]
    found: dict[str, None] = {}
    for path in (*EXCLUDES, FOLDER, *own, *more):
        if root != "/" and is_below(path, root):
            path = os.path.relpath(path, root)
        if clean := os.path.normpath("/" + path).strip("/"):
            found[clean] = None
    return list(found)


def mount_points(root: str) -> list[str]:
    """Return where something else is mounted below `root`, relative to it."""
    prefix = root.rstrip("/") + "/"
    return [m.path[len(prefix) :] for m in mounts() if m.path.startswith(prefix)]


def runtime_paths(settings: Settings, environment: Environment) -> list[str]:
    """Return the absolute paths of what belongs to the server and not to the workload."""
    pipes = pipes_folder(settings.state_dir, environment.get("XDG_RUNTIME_DIR"))
    paths: list[str | Path] = [
        *(settings.state_dir, settings.files.upload_root, pipes),
        *(settings.egress.state_file, settings.egress.merged_ca, settings.scale_file),
        *(settings.drives.folder, settings.drives.root),
    ]
    if settings.log.target not in {"stdout", "stderr", "none"}:
        paths.append(settings.log.target)
    return [os.path.realpath(path) for path in paths]


def record_baseline(settings: Settings, environment: Environment) -> int:
    """Record what the machine looks like now; returns the number of entries. Raises OSError."""
    from sandkeeper.archive.recorded import record
    from sandkeeper.archive.snapshot import LeftOut

    root = settings.archive.root
    out = [*excluded(root, runtime_paths(settings, environment), []), *mount_points(root)]
    return record(root, settings.state_dir / "archive", LeftOut(out))


def was_restored(root: str) -> bool:
    """Say whether an archive has been applied to this file system before."""
    return os.path.lexists(os.path.join(root, MARKER))


class BaselineRecorder:
    """Notes the first start, and has a baseline recorded then if the operator wants one.

    That is done by a process of its own and of the lowest priority: a start stays as fast, and the
    server as small, as without.
    """

    def __init__(
        self, settings: Settings, environment: Environment, children: Children, log: Log
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._children = children
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self.runtime = runtime_paths(settings, environment)

    async def at_start(self) -> None:
        """Note the first start; a failure is logged."""
        try:
            first = await asyncio.to_thread(_is_first, self._settings.state_dir / "first-start")
            if first and self._settings.archive.baseline == "record":
                self._task = asyncio.ensure_future(self._record(await self._begin()))
        except OSError as error:
            self._log.warning(f"archive: nothing to compare with is recorded: {error}")

    async def _begin(self) -> Daemon:
        folder = self._settings.state_dir / "archive"
        await asyncio.to_thread(folder.mkdir, 0o700, parents=True, exist_ok=True)
        env = self._environment.for_children()
        env |= {
            "SANDKEEPER_STATE_DIR": str(self._settings.state_dir),
            "SANDKEEPER_ARCHIVE_ROOT": self._settings.archive.root,
        }
        argv = [sys.executable, "-m", "sandkeeper", "archive-baseline"]
        daemon = await Daemon.start(self._children, argv, env, folder / "baseline.log")
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, daemon.pid, LOWEST_PRIORITY)
        return daemon

    async def _record(self, daemon: Daemon) -> None:
        await daemon.wait()
        self._log.info(f"archive: {await asyncio.to_thread(daemon.tail)}")

    def close(self) -> None:
        """Stop waiting for the recording; it goes on."""
        if self._task is not None:
            self._task.cancel()


def _is_first(marker: Path) -> bool:
    """Make the file whose time is the moment of the first start; says whether it was not there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileExistsError):
        os.close(os.open(marker, flags, 0o600))
        return True
    return False
