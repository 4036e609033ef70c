"""Upgrading the server: one at a time, from a permitted source to a confirmed change.

    starting → download → validate (checksum, installation, trial) → replace → completed
        ╰──────────┴─────────┴──────────────────────────────────────────┴──▶ failed

Up to `replace` the running server is not touched. Then it finishes what it is answering, stops its
services and becomes the new version by exec (upgrade.exec), under a guard that comes back
to this one unless the new one answers. The status is kept in `upgrade.json`, for either to go on.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from sandkeeper import __version__
from sandkeeper.errors import Conflict, SandkeeperError, Unprocessable
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    read_own,
    write_atomically,
)
from sandkeeper.log.lines import Log, timestamp
from sandkeeper.settings import Environment, Settings
from sandkeeper.upgrade.exec import Successor, become, remember, started
from sandkeeper.upgrade.handover import Handover, HeldConnection
from sandkeeper.upgrade.install import Installation, Versions
from sandkeeper.upgrade.source import (
    Source,
    default_base,
    parse_allow,
    pick,
    runs_from_bundle,
    without_secrets,
)

__all__ = ["Upgrade", "UpgradeOrder"]


class UpgradeOrder(msgspec.Struct):
    """What a request asks for; everything is optional, `sha256` is ours."""

    version: str | None = None
    base_url: str | None = msgspec.field(default=None, name="baseUrl")
    sha256: str | None = None


class _Status(msgspec.Struct, omit_defaults=True, rename="camel"):
    """`lastUpgrade` of /health."""

    status: str
    step: str
    version: str
    last_attempt: str = ""
    error: str = ""
    download_url: str = ""
    binary_path: str = ""
    bytes_downloaded: int = 0


class Upgrade:
    """The one upgrade there is: its status, its task, and what is due once it is ready.

    `variables` is the environment as it was when the settings were read, `busy` says whether
    something runs that no other server could go on with. `due` is set when the server is to finish
    and call `replace`, and `when_due` is called.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        variables: Mapping[str, str],
        children: Children,
        log: Log,
        handover: Handover | None,
        busy: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._variables = variables
        self._children = children
        self._log = log
        self._handover = handover
        self._busy = busy
        self._allowed, self._faults = parse_allow(settings.upgrade.allow)
        self._versions = Versions(settings.state_dir, children)
        self._path = settings.state_dir / "upgrade.json"
        self._status = _Status("idle", "none", "")
        self._task: asyncio.Task[None] | None = None
        self._successor: Installation | None = None
        self._verdict = -1
        self.when_due: Callable[[], object] = lambda: None

    @property
    def count(self) -> int:
        """How many upgrades led to this server."""
        return self._settings.upgrade.count

    @property
    def due(self) -> bool:
        """Whether the server is to finish, for a new version is ready to take its place."""
        return self._successor is not None

    @property
    def running(self) -> bool:
        """Whether an upgrade is under way, this server's or the one that led to it."""
        return self._status.status == "running"

    def status(self) -> dict[str, Any]:
        """Return `lastUpgrade` as /health shows it."""
        shown: dict[str, Any] = msgspec.to_builtins(self._status)
        return shown

    # The server's life

    async def start(self) -> None:
        """Take up the status of the server before; wait for the guard's word if we are new."""
        for fault in self._faults:
            self._log.warning(f"SANDKEEPER_UPGRADE_ALLOW: {fault}")
        await asyncio.to_thread(self._load)
        if await asyncio.to_thread(started, self._versions.path):
            self._log.error(
                "the version of the last upgrade did not start any more: the installed one runs, "
                "and the next start tries the other again"
            )
        handover = self._handover
        if not self.running:
            return
        if handover is None:
            await self._failed("the server ended during the upgrade")
        elif handover.failed:
            await self._failed(f"the earlier version was taken back: {handover.failed}")
        elif handover.verdict >= 0:
            self._verdict = handover.verdict
            asyncio.get_running_loop().add_reader(self._verdict, self._hear)

    def _load(self) -> None:
        try:
            data = read_own(self._path)
            if data is not None:
                status = decoded(data, _Status)
                msgspec.json.encode(status)
                self._status = status
        except (OSError, UntrustedFile, Damaged, UnicodeEncodeError) as error:
            self._log.warning(f"the status of the last upgrade is ignored: {error}")

    def _hear(self) -> None:
        said = os.read(self._verdict, 16)
        self._close_verdict()
        if said == b"ok":
            self._task = asyncio.get_running_loop().create_task(self._confirmed())

    async def _confirmed(self) -> None:
        self._status.status, self._status.step = "completed", "completed"
        await self._save()
        self._log.info(
            "the upgrade is complete",
            source="audit",
            action="upgrade_completed",
            version=__version__,
        )
        await asyncio.to_thread(self._settle)

    def _settle(self) -> None:
        """Have later starts go on with this version, and remove the others."""
        try:
            remember(self._versions.path, self._versions.base_version(), self.count)
        except OSError as error:
            self._log.error(f"a restart will bring the earlier version: {error.strerror}")
        self._clean()

    def _close_verdict(self) -> None:
        if self._verdict >= 0:
            asyncio.get_running_loop().remove_reader(self._verdict)
            os.close(self._verdict)
            self._verdict = -1

    async def stop(self) -> None:
        """Give up what is under way; the guard learns that our end is meant."""
        self._close_verdict()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    # Requests

    def request(self, order: UpgradeOrder) -> tuple[str, str]:
        """Begin an upgrade; returns the source and the version as the contract names them.

        Whatever is wrong with it is told by the status, as clients expect; but Conflict is raised
        while another one is under way.
        """
        if self.running:
            raise Conflict(f"an upgrade to {self._status.version} is under way")
        version = order.version or "latest"
        base = order.base_url or default_base(self._allowed)
        self._status = _Status("running", "starting", version[:64], timestamp())
        if self._settings.upgrade.development:
            self._end("failed", "skipped", "this server is in development mode")
        elif order.sha256 is not None and len(order.sha256) != 64:
            self._end("failed", "starting", "sha256 must have 64 hexadecimal digits")
        else:
            try:
                source = pick(self._allowed, version, base, bundled=runs_from_bundle())
            except SandkeeperError as error:
                self._end("failed", "starting", str(error))
            else:
                work = self._upgrade(source, (order.sha256 or "").lower(), self._task)
                self._task = asyncio.get_running_loop().create_task(work)
        return without_secrets(base), version

    async def _upgrade(
        self, source: Source, sha256: str, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})  # it may still be clearing away what it installed
        try:
            await self._prepare(source, sha256)
        except (SandkeeperError, OSError, UntrustedFile) as error:
            await self._failed(str(error))
        except Exception as error:
            await self._failed(f"internal error: {error!r}")
            raise
        finally:
            if not self.due:
                await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        """Remove all versions but the one that runs."""
        running = self._versions.running
        self._versions.clean(*([running] if running else []))

    async def _prepare(self, source: Source, sha256: str) -> None:
        # Most servers never need these.
        from packaging.version import Version

        from sandkeeper.upgrade.fetch import Fetcher
        from sandkeeper.upgrade.trial import Trial

        self._status.step = "download"
        await self._save()
        incoming = await asyncio.to_thread(self._versions.incoming)
        fetched = await Fetcher(incoming, self._started, self._progress).fetch(source, sha256)
        self._status.version, self._status.step = fetched.version, "validate"
        if Version(fetched.version) == Version(__version__):
            self._end("completed", "skipped", "")
            return
        if Version(fetched.version) < Version(__version__) and not self._settings.upgrade.downgrade:
            raise Unprocessable(f"{fetched.version} is older than {__version__}, which runs")
        await self._save()
        index = source.rule.place if source.rule.kind == "index" else self._index()
        made = await self._versions.install(fetched, self._environment.snapshot(), index)
        self._status.binary_path = str(made.python)
        await Trial(
            made,
            self._settings.state_dir / "runs",
            self._variables,
            self._settings.token,
            self._children,
            self._settings.upgrade.seconds,
        ).run()
        self._status.step = "replace"
        await self._save()
        if self._busy():
            self._status.step = "validate"
            raise Conflict("an export or a restore is running: ask again when it has ended")
        self._successor = made
        self.when_due()

    def _index(self) -> str:
        """Return the permitted index for what a wheel requires; empty without one."""
        return next((rule.place for rule in self._allowed if rule.kind == "index"), "")

    def _started(self, place: str) -> None:
        self._status.download_url = without_secrets(place)

    def _progress(self, size: int) -> None:
        self._status.bytes_downloaded = size

    def _end(self, status: str, step: str, error: str) -> None:
        self._status.status, self._status.step, self._status.error = status, step, error
        if error:
            self._log.error(
                f"the upgrade failed: {error}", source="audit", action="upgrade_failed",
                version=self._status.version,
            )  # fmt: skip

    async def _failed(self, why: str) -> None:
        self._end("failed", self._status.step, why)
        await self._save()

    async def _save(self) -> None:
        """Keep the status; a disk that does not take it must not end the upgrade."""
        try:
            await asyncio.to_thread(write_atomically, self._path, msgspec.json.encode(self._status))
        except OSError as error:
            self._log.error(f"the status of the upgrade is not kept: {error.strerror}")

    # The change

    def replace(
        self,
        listeners: Sequence[socket.socket],
        connections: Sequence[HeldConnection],
        *,
        held: int,
        carried: Sequence[str],
        nofile: int,
    ) -> None:
        """Become the new version, after all services have stopped; raises OSError.

        `held` and the rest are fields of upgrade.handover.Handover.
        """
        assert self._successor is not None
        settings = self._settings
        document = Handover(
            listeners=[listener.fileno() for listener in listeners],
            connections=list(connections),
            variables=dict(self._variables),
            host=settings.host,
            port=settings.port,
            command=settings.command,
            user=settings.user,
            held=held,
            carried=list(carried),
            nofile=nofile,
            count=self.count,
        )
        successor = Successor(
            self._successor, self._environment.snapshot(), settings.upgrade.seconds
        )
        become(successor, document, _reachable(listeners[0]))


def _reachable(listener: socket.socket) -> tuple[str, int]:
    """Return where a listening socket can be reached from here."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port
