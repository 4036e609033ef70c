"""Starting an attempt of a process: its shell, environment, folder and pipes."""

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

import msgspec

from sandkeeper.errors import StartFailed
from sandkeeper.files.work import FileWork
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.segment import STDERR, STDOUT
from sandkeeper.journal.source import Source
from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.fds import OwnedFd, Use, is_scarce
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.keeper.client import Keeper
from sandkeeper.linux.paths.entering import enter_folder
from sandkeeper.linux.users import UnknownUser, Users
from sandkeeper.log.lines import Log
from sandkeeper.processes.confinement import Confined, Confinements
from sandkeeper.processes.keepalive import KeepAlive
from sandkeeper.processes.oom import OomWatch
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.recorder import Records
from sandkeeper.processes.runs import RunFolder
from sandkeeper.processes.state_folder import StateFolder
from sandkeeper.processes.stdin import Stdin
from sandkeeper.settings import Environment
from sandkeeper.tracecontext import Tracing, below

__all__ = ["Launch", "Workshop", "in_shell", "starts_at_once", "variables_of"]

FOLDER_SECONDS = 10.0


class Workshop(msgspec.Struct):
    """What every process needs; built once by `sandbox`.

    `work` looks at the workload's folders; `spawner` and `writer` are executors: what may block
    before a start, and (one thread, so in order) writes to run folders. `nofile` is the limit of
    open files for children, `state` knows whether anything can be kept, and where broken files go.
    """

    children: Children
    pump: Pump
    budget: Budget
    keeper: Keeper
    keepalive: KeepAlive
    environment: Environment
    users: Users
    log: Log
    oom: OomWatch
    confinements: Confinements
    work: FileWork
    spawner: Executor
    writer: Executor
    nofile: int
    finished: Callable[[str], None]
    state: StateFolder
    records: Records
    tracing: Tracing = msgspec.field(default_factory=Tracing)


class Launch:
    """One attempt to start; the same for the first and for every restart."""

    def __init__(
        self,
        shop: Workshop,
        folder: RunFolder,
        meta: RunMeta,
        journal: Journal,
        confined: Confined | None,
    ) -> None:
        self._shop = shop
        self._confined = confined
        self._folder = folder
        self._meta = meta
        self._journal = journal
        self._identity: Identity | None = None
        self._announcement = OwnedFd(-1)

    async def run(
        self, sources: tuple[Source, ...] | None, stdin: Stdin | None
    ) -> tuple[Child, tuple[Source, ...]]:
        """Start the shell on the pipes of `sources` (None: make the folder and its pipes).

        Raises StartFailed; then nothing was started.
        """
        try:
            try:
                self._identity = self._shop.users.named(self._meta.user)
            except UnknownUser as error:  # since it was first started
                raise StartFailed(str(error)) from None
            await self._check_folder()
            spawn = self._spec()
            if self._confined is None:
                return await self._fed(spawn, sources, stdin)
            spawn = await self._confined.enter(spawn)
            try:
                return await self._fed(spawn, sources, stdin)
            finally:
                self._confined.entered()
        except BaseException:
            if sources is None:
                self._shop.writer.submit(self._folder.remove)
            raise
        finally:
            self._announcement.close()

    async def _fed(
        self, spawn: Spawn, sources: tuple[Source, ...] | None, stdin: Stdin | None
    ) -> tuple[Child, tuple[Source, ...]]:
        """Start it with its standard input, where it has one."""
        end = -1
        try:
            if stdin is not None:
                end = spawn.stdin = stdin.open(self._identity)
            return await self._spawn(spawn, sources)
        except BaseException as error:
            if stdin is not None and end >= 0:
                stdin.close()
            if isinstance(error, OSError | ValueError):
                raise StartFailed(_why(error, spawn.argv[0])) from None
            raise
        finally:
            if end >= 0:
                os.close(end)

    def _spec(self) -> Spawn:
        meta, shop, identity = self._meta, self._shop, self._identity
        words = list(meta.argv) or [*shell_of(shop.environment), meta.command]
        given = below(meta.trace, meta.env) if meta.inherit_env else meta.env
        env = variables_of(shop.environment, identity, given, inherit=meta.inherit_env)
        folder = meta.working_dir or None
        return Spawn(words, env, folder, identity=identity, nofile=shop.nofile)

    async def _check_folder(self) -> None:
        """Look at the working directory first, where a dead file system hangs only a thread.

        The child changes into it before exec, and until then it holds up its parent (vfork(2)).
        """
        folder, command = self._meta.working_dir, self._meta.command
        if not folder:
            return
        try:
            async with asyncio.timeout(FOLDER_SECONDS):
                await self._shop.work.own(enter_folder, folder, self._identity)
        except FileNotFoundError:
            raise StartFailed(
                f"could not execute command '{command}' because folder '{folder}' does not exist"
            ) from None
        except (OSError, ValueError, TimeoutError) as error:
            why = f"could not access working directory '{folder}': {_why(error, folder)}"
            raise StartFailed(why) from None

    async def _spawn(
        self, spawn: Spawn, sources: tuple[Source, ...] | None
    ) -> tuple[Child, tuple[Source, ...]]:
        meta, folder = self._meta, self._folder
        made = sources or self._make_pipes()
        try:
            if any(source.writer < 0 for source in made):
                for source, writer in zip(made, folder.open_writers(), strict=True):
                    source.close_writer()
                    source.writer = writer
            # What is left is for the output of those that run, and for their restarts.
            if sources is None and is_scarce(made[-1].writer, Use.START):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._keep(*(source.fd for source in made))
            spawn.stdout, spawn.stderr = (source.writer for source in made)
            before = self._shop.children.births.now()
            child = await self._shop.children.start(spawn)
        except BaseException:
            if sources is None:
                self._give_up(made)
            raise
        self._keep(*(source.fd for source in made), child.pidfd.number)
        meta.leader = child.pid
        meta.leader_start = self._shop.children.births.start_time(child.pid, before)
        if sources is None:
            meta.pid = str(child.pid)
            self._announce()
        return child, made

    def _announce(self) -> None:
        """Have the run survive us: before the child is born, and before a client learns its pid.

        A full memory disk refuses nobody a start; the record that is saved later will tell.
        """
        try:
            if self._announcement.closed:
                self._announcement = self._folder.announcement()
            os.write(self._announcement.number, msgspec.json.encode(self._meta) + b"\n")
        except OSError as error:
            self._shop.log.warning(f"cannot announce {self._meta.id}: {error}")

    def _make_pipes(self) -> tuple[Source, ...]:
        folder = self._folder
        self._announce()
        folder.make_fifos(self._identity)
        out, err = folder.open_readers()
        return (
            Source(self._meta.id, self._journal, STDOUT, out),
            Source(self._meta.id, self._journal, STDERR, err),
        )

    def _give_up(self, sources: tuple[Source, ...]) -> None:
        for source in sources:
            source.close()
        self._shop.keeper.drop(self._meta.id)

    def _keep(self, *fds: int) -> None:
        """Have the pipes held from before the child's first word, the pidfd from its birth."""
        try:
            self._shop.keeper.put(self._meta.id, fds, patience=0.0)
        except OSError as error:
            self._shop.log.warning(f"the keeper cannot hold {self._meta.id}: {error}")


def starts_at_once(shop: Workshop, meta: RunMeta) -> bool:
    """Say whether nothing is waited for between a first start and its place among the others.

    Nobody can give up meanwhile, then: no folder is looked at, no group made, no other user's child
    awaited, and nobody told that the sandbox is needed.
    """
    if meta.working_dir or meta.limits is not None or meta.keep_alive:
        return False
    try:
        identity = shop.users.named(meta.user)
    except UnknownUser:
        return True  # it fails at once
    return identity is None or identity.is_ours


def in_shell(
    command: str, variables: dict[str, str], environment: Environment, identity: Identity | None
) -> Spawn:
    """Return how a command line of the workload is run: by which shell, with which variables."""
    env = variables_of(environment, identity, variables)
    return Spawn([*shell_of(environment), command], env, identity=identity)


def shell_of(environment: Environment) -> list[str]:
    """Return the shell, and its words before a command line."""
    words = environment.get("SHELL_ARGS").split() or ["-c"]
    return [environment.get("SHELL") or "sh", *words]


def variables_of(
    environment: Environment,
    identity: Identity | None,
    given: Mapping[str, str],
    *,
    inherit: bool = True,
) -> dict[str, str]:
    """Return what a program of the workload sees: what it inherits, what was given, who it is."""
    env = environment.for_workload(apart=identity is not None) if inherit else {}
    env |= dict(map(_as_the_child_reads, given.items()))
    if identity is not None:
        env |= identity.variables()
    return env


def _why(error: BaseException, subject: str) -> str:
    if isinstance(error, TimeoutError):
        return "the file system does not answer"
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if isinstance(error.filename, str) else subject
        return f"{name}: {error.strerror.lower()}"
    return str(error)


def _as_the_child_reads(pair: tuple[str, str]) -> tuple[str, str]:
    """Return a variable as the first `=` of its text parts it: a name may hold one (environ(7))."""
    name, sign, rest = pair[0].partition("=")
    return (name, f"{rest}={pair[1]}") if sign and name else pair
