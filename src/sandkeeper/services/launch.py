"""Starting an attempt of a process: its shell, environment, folder and pipes."""

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from sandkeeper.core.adopted import start_time
from sandkeeper.core.budget import Budget
from sandkeeper.core.child import Child, Children, Spawn
from sandkeeper.core.fds import is_scarce
from sandkeeper.core.identity import Identity
from sandkeeper.core.journal import Journal
from sandkeeper.core.keeper import Keeper
from sandkeeper.core.pump import Pump, Source
from sandkeeper.core.segment import STDERR, STDOUT
from sandkeeper.errors import Unprocessable
from sandkeeper.services.keepalive import KeepAlive
from sandkeeper.services.logs import Log
from sandkeeper.services.oom import OomWatch
from sandkeeper.services.runs import RunFolder, RunMeta
from sandkeeper.settings import Environment

if TYPE_CHECKING:
    from sandkeeper.services.process import Process

__all__ = ["Launch", "Workshop"]

FOLDER_SECONDS = 10.0


@dataclass(slots=True)
class Workshop:
    """What every process needs; built once by `services.sandbox`.

    `spawner` and `writer` are executors: what may block before a start, and (one thread, so in
    order) writes to run folders. `nofile` is the limit of open files for children.
    """

    children: Children
    pump: Pump
    budget: Budget
    keeper: Keeper
    keepalive: KeepAlive
    environment: Environment
    identity: Identity | None
    log: Log
    oom: OomWatch
    spawner: Executor
    writer: Executor
    nofile: int
    finished: Callable[["Process"], None]


class Launch:
    """One attempt to start; the same for the first and for every restart."""

    def __init__(self, shop: Workshop, folder: RunFolder, meta: RunMeta, journal: Journal) -> None:
        self._shop = shop
        self._folder = folder
        self._meta = meta
        self._journal = journal

    async def run(
        self, sources: tuple[Source, ...] | None, stdin: int | None
    ) -> tuple[Child, tuple[Source, ...]]:
        """Start the shell on the pipes of `sources` (None: make the folder and its pipes).

        Raises Unprocessable with the contract's texts; then nothing was started.
        """
        try:
            await self._check_folder()
        except BaseException:
            if sources is None:
                self._shop.writer.submit(self._folder.remove)
            raise
        spawn = self._spec()
        if stdin is not None:
            spawn = replace(spawn, stdin=stdin)
        try:
            return self._spawn(spawn, sources)
        except (OSError, ValueError) as error:
            why = _why(error, spawn.argv[0])
            raise Unprocessable(f"failed to start process: {why}") from None

    def _spec(self) -> Spawn:
        shop, meta = self._shop, self._meta
        environment = shop.environment
        env = environment.snapshot() | meta.env
        if shop.identity is not None:
            user = shop.identity
            env |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
        shell = environment.get("SHELL") or "sh"
        words = environment.get("SHELL_ARGS").split() or ["-c"]
        return Spawn(
            [shell, *words, meta.command],
            env,
            meta.working_dir or None,
            identity=shop.identity,
            nofile=shop.nofile,
        )

    async def _check_folder(self) -> None:
        """Look at the working directory first, where a dead file system hangs only a thread.

        The child changes into it before exec, and until then it holds up its parent (vfork(2)).
        """
        folder, command = self._meta.working_dir, self._meta.command
        if not folder:
            return
        try:
            async with asyncio.timeout(FOLDER_SECONDS):
                await asyncio.to_thread(_enter, folder)
        except FileNotFoundError:
            raise Unprocessable(
                f"failed to start process: could not execute command '{command}' because folder "
                f"'{folder}' does not exist"
            ) from None
        except (OSError, ValueError, TimeoutError) as error:
            raise Unprocessable(
                f"failed to start process: could not access working directory '{folder}': "
                f"{_why(error, folder)}"
            ) from None

    def _spawn(
        self, spawn: Spawn, sources: tuple[Source, ...] | None
    ) -> tuple[Child, tuple[Source, ...]]:
        meta, folder = self._meta, self._folder
        made = sources or self._make_pipes()
        try:
            writers = folder.open_writers()
            try:
                # What is left is for the output of those that run, and for their restarts.
                if sources is None and is_scarce(writers[1]):
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._keep(made)
                child = self._shop.children.spawn(
                    replace(spawn, stdout=writers[0], stderr=writers[1])
                )
            finally:
                for fd in writers:
                    os.close(fd)
        except BaseException:
            if sources is None:
                self._give_up(made)
            raise
        meta.leader, meta.leader_start = child.pid, start_time(child.pid)
        meta.pid = meta.pid or str(child.pid)
        return child, made

    def _make_pipes(self) -> tuple[Source, ...]:
        folder = self._folder
        self._record()
        try:
            folder.make_fifos(self._shop.identity)
            out, err = folder.open_readers()
        except BaseException:
            self._shop.writer.submit(folder.remove)
            raise
        return (
            Source(self._meta.id, self._journal, STDOUT, out),
            Source(self._meta.id, self._journal, STDERR, err),
        )

    def _record(self) -> None:
        """Write the record before the child is born: a server killed right then finds it again.

        An append to an existing file, so it waits for the disk no more than the move of the folder
        did. A full disk refuses nobody a start; such a run is not found again.
        """
        try:
            self._folder.save(msgspec.json.encode(self._meta))
        except OSError as error:
            self._shop.log.warning(f"cannot save {self._meta.id}: {error}")

    def _give_up(self, sources: tuple[Source, ...]) -> None:
        for source in sources:
            os.close(source.fd)
        self._shop.keeper.drop(self._meta.id)
        self._shop.writer.submit(self._folder.remove)

    def _keep(self, sources: tuple[Source, ...]) -> None:
        """Have the pipes held from before the child's first word."""
        try:
            self._shop.keeper.put(self._meta.id, tuple(source.fd for source in sources))
        except OSError as error:
            self._shop.log.warning(f"the keeper cannot hold {self._meta.id}: {error}")


def _enter(folder: str) -> None:
    os.close(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def _why(error: BaseException, subject: str) -> str:
    if isinstance(error, TimeoutError):
        return "the file system does not answer"
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if isinstance(error.filename, str) else subject
        return f"{name}: {error.strerror.lower()}"
    return str(error)
