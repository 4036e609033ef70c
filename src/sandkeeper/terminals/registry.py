"""All terminals of the sandbox: open, find, sweep, and find again after a restart."""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from sandkeeper.errors import Conflict, NotFound, StartFailed, Task, Unprocessable, reason_of
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.linux.children.adopted import Adopted, boot_id, start_time
from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.clocks import WORK
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.entering import enter_folder
from sandkeeper.log.access import Access
from sandkeeper.processes.launch import Workshop, variables_of
from sandkeeper.processes.runs import new_id
from sandkeeper.settings import TerminalSettings
from sandkeeper.terminals.pty import open_pty
from sandkeeper.terminals.pump import TerminalPump
from sandkeeper.terminals.recovery import (
    find_terminals,
    keeper_key,
    recover_journal,
    tell_failure,
)
from sandkeeper.terminals.store import TerminalFolder, TerminalMeta
from sandkeeper.terminals.terminal import Terminal, Viewer
from sandkeeper.tracecontext import CURRENT, below

__all__ = ["TerminalOrder", "Terminals"]

SHELLS = ("/bin/zsh", "/bin/bash", "/bin/sh", "/bin/ash")
FOLDER_SECONDS = 10.0
SWEEP_SECONDS = 30.0


class TerminalOrder(msgspec.Struct, frozen=True):
    """A session somebody wants, by the client's name for it.

    `shell` is the program, with `args` behind it; the rest is as a process's (processes.spec).
    """

    name: str
    shell: str = ""
    working_dir: str = ""
    cols: int = 80
    rows: int = 24
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    inherit_env: bool = True
    user: str = ""
    tag: str = ""
    timeout: float = 0.0


class Terminals:
    """The registry; a name stands for the living session, else for the one that ended last."""

    def __init__(
        self, shop: Workshop, settings: TerminalSettings, state: Path, access: Access
    ) -> None:
        self.settings = settings
        self._shop = shop
        self._access = access
        self._path = state / "terminals"
        self._budget = Budget(run_bytes=settings.session_bytes, total_bytes=settings.total_bytes)
        self._pump = TerminalPump(self._budget, notify=self._on_pump, failed=shop.log.error)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._by_id: dict[str, Terminal] = {}
        self._by_name: dict[str, Terminal] = {}
        self._starting: dict[str, asyncio.Task[Terminal]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    # The server's life

    async def start(self) -> None:
        """Start the pump and take up the sessions of an earlier server; raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._pump.start()
        if not self.settings.enabled:
            return
        for meta, folder, fds in await asyncio.to_thread(find_terminals, self._shop, self._path):
            try:
                self._revive(meta, folder, fds)
            except Exception:  # noqa: BLE001 - one session must not keep the others away
                tell_failure(self._shop, meta.id)
        self._forget_old()
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Let go of all sessions; their shells go on."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for terminal in self._by_id.values():
            terminal.leave()
        await asyncio.to_thread(self._pump.stop)
        for terminal in self._by_id.values():
            terminal.release()

    def _on_pump(self) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._on_news)

    def _on_news(self) -> None:
        lines = {id(line.journal) for line in self._pump.take_news()}
        for terminal in list(self._by_id.values()):
            if id(terminal.journal) in lines:
                terminal.news()

    def _revive(self, meta: TerminalMeta, folder: TerminalFolder, fds: list[int]) -> None:
        journal = recover_journal(self._shop, folder, self._budget.segment_bytes)
        terminal = self._terminal(meta, folder, journal)
        if fds:
            self._shop.children.adopt(meta.leader)
            self._keep(meta, fds[0], fds[1])
            terminal.begin(Adopted(meta.leader, fds[1]), fds[0])
        else:
            terminal.was_over()
        self._enter(terminal)

    def _terminal(self, meta: TerminalMeta, folder: TerminalFolder, journal: Journal) -> Terminal:
        self._budget.enlist(journal)
        return Terminal(
            meta, folder, journal, self._pump, self._access, self._on_end, self.settings.grace
        )

    def _enter(self, terminal: Terminal) -> None:
        self._by_id[terminal.meta.id] = terminal
        known = self._by_name.get(terminal.meta.name)
        if known is None or known.is_over or not terminal.is_over:
            self._by_name[terminal.meta.name] = terminal

    # Looking

    def look(self) -> None:
        """Have every journal see what is left of it."""
        self._pump.look([terminal.journal for terminal in self._by_id.values()])

    def registered(self) -> list[Terminal]:
        """Return all sessions, oldest first, whoever asks."""
        return list(self._by_id.values())

    def all(self) -> list[Terminal]:
        """Return all sessions that whoever asks may use, oldest first, ended ones too."""
        reaches = self._shop.users.reaches
        return [one for one in self._by_id.values() if reaches(one.meta.user)]

    def get(self, identifier: str) -> Terminal:
        """Return the session of a name or an id; raises NotFound, or Forbidden out of reach."""
        found = self._by_name.get(identifier) or self._by_id.get(identifier)
        if found is None:
            raise NotFound(f"terminal '{identifier}' not found")
        self._shop.users.check_reach(found.meta.user)
        return found

    # Opening

    async def open(self, order: TerminalOrder) -> tuple[Terminal, bool]:
        """Return the living session of a name, or a new one (and True).

        Raises Conflict (too many sessions), Unprocessable (the shell cannot be started), or
        Forbidden (it is somebody's whom the caller may not use).
        """
        known = self._by_name.get(order.name)
        if known is not None and not known.is_over:
            self._shop.users.check_reach(known.meta.user)
            return known, False
        task = self._starting.get(order.name)
        if task is not None:
            terminal = await asyncio.shield(task)
            self._shop.users.check_reach(terminal.meta.user)
            return terminal, False
        alive = sum(not one.is_over for one in self._by_id.values())
        if alive + len(self._starting) >= self.settings.sessions:
            raise Conflict(f"there are {self.settings.sessions} terminals already")
        task = asyncio.ensure_future(self._start(order))
        self._starting[order.name] = task
        task.add_done_callback(lambda _: self._starting.pop(order.name, None))
        # Shielded: a client that goes away must not leave a shell that nobody knows.
        return await asyncio.shield(task), True

    async def create(self, order: TerminalOrder) -> Terminal:
        """Open a new session; raises Conflict when the name is taken."""
        terminal, created = await self.open(order)
        if not created:
            raise Conflict(f"terminal '{order.name}' exists already")
        return terminal

    async def _start(self, order: TerminalOrder) -> Terminal:
        try:
            self._shop.state.check()
        except StartFailed as error:
            raise Unprocessable(error.reason, task=Task.START_TERMINAL) from None
        identity = self._shop.users.named(order.user)
        await _check_folder(order.working_dir, self._shop, identity)
        meta = TerminalMeta(
            id=new_id(),
            name=order.name,
            shell=order.shell or self._default_shell(),
            working_dir=order.working_dir,
            cols=order.cols or 80,
            rows=order.rows or 24,
            started_at=time.time(),
            args=list(order.args),
            env=dict(order.env),
            inherit_env=order.inherit_env,
            user=self._shop.users.recorded(order.user),
            tag=order.tag,
            timeout=order.timeout,
            due_uptime=WORK.now() + order.timeout if order.timeout > 0 else 0.0,
        )
        folder = TerminalFolder(self._path, meta.id)
        try:
            child, master = await self._spawn(meta, folder, identity)
        except (OSError, ValueError) as error:
            raise Unprocessable(reason_of(error), task=Task.START_SHELL, about=meta.shell) from None
        journal = Journal(folder.journal, segment_bytes=self._budget.segment_bytes)
        terminal = self._terminal(meta, folder, journal)
        terminal.begin(child, master)
        self._enter(terminal)
        return terminal

    def _default_shell(self) -> str:
        shell = self._shop.environment.get("SHELL")
        candidates = (shell, *SHELLS) if shell else SHELLS
        return next((path for path in candidates if os.path.exists(path)), "/bin/sh")

    async def _spawn(
        self, meta: TerminalMeta, folder: TerminalFolder, user: Identity | None
    ) -> tuple[Child, int]:
        on_thread = partial(asyncio.get_running_loop().run_in_executor, self._shop.spawner)
        with ExitStack() as undo:
            undo.callback(folder.remove)
            master, slave = await on_thread(self._make, meta, folder, user)
            undo.callback(os.close, master)
            try:
                child = await self._shop.children.start(self._spec(meta, slave, user))
            finally:
                os.close(slave)
            undo.pop_all()
        await on_thread(self._record, meta, folder, child, master)
        return child, master

    def _make(
        self, meta: TerminalMeta, folder: TerminalFolder, user: Identity | None
    ) -> tuple[int, int]:
        folder.create()
        master, slave = open_pty(meta.cols, meta.rows)
        if user is not None:
            try:
                os.fchown(slave, user.uid, user.gid)
                os.fchmod(slave, 0o620)
            except OSError:
                os.close(master)
                os.close(slave)
                raise
        return master, slave

    def _spec(self, meta: TerminalMeta, slave: int, user: Identity | None) -> Spawn:
        shop = self._shop
        given = below(CURRENT.get(), meta.env) if meta.inherit_env else meta.env
        env = variables_of(shop.environment, user, given, inherit=meta.inherit_env)
        # What looks at it is an xterm; what the server happens to be started in says nothing.
        env["TERM"] = meta.env.get("TERM") or shop.environment.given("TERM", "xterm-256color")
        return Spawn(
            [meta.shell, *meta.args],
            env,
            meta.working_dir or None,
            slave,
            slave,
            slave,
            identity=user,
            nofile=shop.nofile,
            new_session=True,
            terminal=True,
        )

    def _record(
        self, meta: TerminalMeta, folder: TerminalFolder, child: Child, master: int
    ) -> None:
        self._keep(meta, master, child.pidfd.number)
        meta.leader, meta.leader_start, meta.boot = child.pid, start_time(child.pid), boot_id()
        folder.save(meta)

    def _keep(self, meta: TerminalMeta, master: int, pidfd: int) -> None:
        try:
            self._shop.keeper.put(keeper_key(meta), (master, pidfd))
        except OSError as error:
            self._shop.log.warning(f"the keeper cannot hold terminal {meta.id}: {error}")

    def keep_all(self) -> None:
        """Give a new keeper everything that runs; on the writer's thread, as what drops it."""
        for terminal in self._by_id.values():
            try:
                copies = terminal.holdings()
            except OSError as error:
                self._shop.log.warning(f"the keeper cannot hold {terminal!r}: {error}")
                continue
            if copies:
                self._shop.writer.submit(self._put, keeper_key(terminal.meta), copies)

    def _put(self, key: str, copies: tuple[int, ...]) -> None:
        try:
            self._shop.keeper.put_copies(key, copies)
        except OSError as error:
            self._shop.log.warning(f"the keeper cannot hold {key}: {error}")

    # Watching, changing, ending

    def attach(self, terminal: Terminal, viewer: Viewer) -> None:
        """Add a watcher; raises Conflict when there are too many."""
        if len(terminal.viewers) >= self.settings.clients:
            raise Conflict(f"the terminal has {self.settings.clients} clients already")
        terminal.attach(viewer)

    async def rename(self, terminal: Terminal, name: str) -> None:
        """Give a session another name; raises Conflict when a living one has it."""
        known = self._by_name.get(name)
        if name in self._starting or (
            known is not None and known is not terminal and not known.is_over
        ):
            raise Conflict(f"terminal '{name}' exists already")
        if self._by_name.get(terminal.meta.name) is terminal:
            del self._by_name[terminal.meta.name]
        terminal.meta.name = name
        self._by_name[name] = terminal
        await self._save(terminal)

    async def remove(self, terminal: Terminal) -> None:
        """Hang a living session up and wait for its end; forget an ended one."""
        if terminal.over.is_set():
            self._forget(terminal)
            return
        terminal.close()
        await terminal.over.wait()

    async def _save(self, terminal: Terminal) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._shop.writer, terminal.folder.save, terminal.meta)
        except FileNotFoundError:
            return  # forgotten meanwhile
        except OSError as error:
            self._shop.log.error(f"cannot save terminal {terminal.meta.id}: {error}")

    async def _on_end(self, terminal: Terminal) -> None:
        await self._save(terminal)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._shop.writer, self._shop.keeper.drop, keeper_key(terminal.meta)
        )
        self._forget_old()

    def _forget_old(self) -> None:
        ended = [one for one in self._by_id.values() if one.over.is_set()]
        for terminal in ended[: max(0, len(ended) - self.settings.kept)]:
            self._forget(terminal)

    def _forget(self, terminal: Terminal) -> None:
        self._by_id.pop(terminal.meta.id, None)
        if self._by_name.get(terminal.meta.name) is terminal:
            del self._by_name[terminal.meta.name]
        self._budget.dismiss(terminal.journal)
        self._shop.writer.submit(terminal.folder.remove)

    async def _sweep(self) -> None:
        idle = self.settings.idle
        while idle > 0:
            await asyncio.sleep(min(SWEEP_SECONDS, idle / 4))
            now = WORK.now()
            for terminal in list(self._by_id.values()):
                quiet = now - terminal.last_used > idle
                if quiet and not terminal.viewers and not terminal.is_over:
                    terminal.close()


async def _check_folder(folder: str, shop: Workshop, user: Identity | None) -> None:
    """Look first where a dead file system hangs only a thread, not the start of every child."""
    if not folder:
        return
    try:
        async with asyncio.timeout(FOLDER_SECONDS):
            await shop.work.own(enter_folder, folder, user)
    except (OSError, ValueError) as error:
        reason = f"working directory '{folder}': {reason_of(error) or 'it does not answer'}"
        raise Unprocessable(reason, task=Task.START_TERMINAL) from None
