"""The WireGuard tunnel: one at a time, swapped only for one that could be made.

Order of a change: check the configuration and resolve the peer; make the new interface under a
name of its own and give it its keys; only then take the old one away and put the new one in its
place. If that last step fails, the old tunnel is built again.
"""

import asyncio
import os
import secrets
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.errors import BadInput, Internal, Task, Unprocessable, reason_of
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.daemon import Daemon
from sandkeeper.linux.children.programs import environment_for_root, own_program
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import (
    UntrustedFile,
    decoded,
    make_private_folder,
    read_own,
    write_atomically,
)
from sandkeeper.log.lines import Log
from sandkeeper.settings import Environment
from sandkeeper.tunnel.config import TunnelConfig, parse_config
from sandkeeper.tunnel.link import (
    SOCKETS,
    Link,
    Route,
    bring_up,
    index_of,
    make_kernel_link,
    remove,
    set_keys,
)

__all__ = ["Tunnel"]

RESOLVE_SECONDS = 5.0
START_SECONDS = 5.0
END_SECONDS = 5.0
BACKOFF_SECONDS = 60.0


class _Active(msgspec.Struct, eq=False):
    """The tunnel that runs: what it was made of, its interface and, in user space, its program."""

    config: TunnelConfig
    link: Link
    daemon: Daemon | None
    watch: asyncio.Task[None] | None = None


class _SavedRoute(msgspec.Struct):
    network: str
    kind: str
    gateway: str
    device: int


class _Saved(msgspec.Struct):
    """What a server that was killed leaves behind; no keys."""

    name: str
    index: int
    routes: list[_SavedRoute]


class Tunnel:
    """Applies and removes the configuration."""

    def __init__(
        self,
        state_dir: Path,
        environment: Environment,
        children: Children,
        log: Log,
        workload: Identity | None = None,
    ) -> None:
        """Build; `workload` is who must not choose which program runs as ours."""
        self._workload = workload
        self._folder = state_dir / "tunnel"
        self._environment = environment
        self._children = children
        self._log = log
        self._active: _Active | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Clear what a killed server left, then apply `BL_NETWORKING_CONFIG`; never fatal."""
        await self._clear_remains()
        text = self._environment.get("BL_NETWORKING_CONFIG")
        if not text:
            return
        try:
            await self.apply(text)
        except (Unprocessable, Internal) as error:
            self._log.warning(f"BL_NETWORKING_CONFIG: {error}")

    async def stop(self) -> None:
        """Take the tunnel away with the server."""
        with suppress(BadInput, Internal):
            await self.disconnect()

    async def apply(self, text: str) -> None:
        """Replace the tunnel by the one described (base64 of JSON).

        Raises Unprocessable for a bad description, Internal when the machine refuses; the tunnel
        of before runs on in both cases.
        """
        config = parse_config(text)
        address = await _resolve(config)
        async with self._turn:
            self._refuse_foreign_name(config)
            try:
                await self._swap(config, address)
            except (OSError, UntrustedFile, ImportError) as error:
                reason = str(error) if isinstance(error, UntrustedFile) else _reason(error)
                raise Internal(reason, task=Task.APPLY_TUNNEL) from None

    async def disconnect(self) -> None:
        """Take the tunnel away; raises BadInput when there is none, Internal when it fails."""
        async with self._turn:
            active = self._active
            if active is None:
                raise BadInput("no WireGuard client is running")
            try:
                await self._take_away(active)
            except OSError as error:
                raise Internal(_reason(error), task=Task.STOP_TUNNEL) from None
            self._active = None

    def _refuse_foreign_name(self, config: TunnelConfig) -> None:
        index = index_of(config.interface_name)
        if index and (self._active is None or self._active.link.index != index):
            raise Unprocessable(
                "interface_name: there is another interface of this name", task=Task.ACCEPT_TUNNEL
            )

    async def _swap(self, config: TunnelConfig, address: str) -> None:
        link, daemon = await self._make(config, address)
        before = self._active
        try:
            if before is not None:
                await self._take_away(before)
                self._active = None
            await asyncio.to_thread(bring_up, link, config, address)
        except BaseException:
            await self._discard(link, daemon)
            if before is not None and self._active is None:
                await self._restore(before.config)
            raise
        self._active = await self._running(config, link, daemon)

    async def _make(self, config: TunnelConfig, address: str) -> tuple[Link, Daemon | None]:
        """Make an interface under a name of its own and give it its keys; raises OSError."""
        name = "skt" + secrets.token_hex(4)
        link = await asyncio.to_thread(make_kernel_link, name)
        daemon = None
        if link is None:
            link, daemon = await self._make_in_user_space(name)
        try:
            await asyncio.to_thread(set_keys, link, name, config, address)
        except BaseException:
            await self._discard(link, daemon)
            raise
        return link, daemon

    async def _make_in_user_space(self, name: str) -> tuple[Link, Daemon]:
        inherited = self._environment.for_children()
        env = await asyncio.to_thread(environment_for_root, inherited, self._workload)
        on_path = shutil.which("wireguard-go", path=env.get("PATH") or os.defpath)
        program = on_path or own_program("wireguard-go")
        if not program:
            raise OSError("the kernel has no WireGuard and wireguard-go is not installed")
        await asyncio.to_thread(make_private_folder, self._folder)
        env["LOG_LEVEL"] = "error"
        log = self._folder / "wireguard-go.log"
        daemon = await Daemon.start(self._children, [program, "-f", name], env, log)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not (os.path.exists(f"{SOCKETS}/{name}.sock") and index_of(name)):
                    if await daemon.ends_within(0.02):
                        raise OSError(f"wireguard-go ended: {daemon.tail() or 'without a word'}")
        except BaseException:
            await daemon.kill()
            raise
        return Link(index_of(name), control=name, pid=daemon.pid), daemon

    async def _running(self, config: TunnelConfig, link: Link, daemon: Daemon | None) -> _Active:
        active = _Active(config, link, daemon)
        await self._save(active)
        if daemon is not None:
            active.watch = asyncio.create_task(self._watching(active, daemon))
        return active

    async def _take_away(self, active: _Active) -> None:
        """Remove interface and routes; raises OSError, and then the tunnel is still there."""
        watch, active.watch = active.watch, None
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await asyncio.to_thread(remove, active.link.index, active.link.routes)
        await self._end(active.daemon)
        await self._save(None)

    async def _discard(self, link: Link, daemon: Daemon | None) -> None:
        try:
            await asyncio.to_thread(remove, link.index, link.routes)
        except OSError as error:
            self._log.error(f"an unfinished tunnel is left: {_reason(error)}")
        await self._end(daemon)

    async def _end(self, daemon: Daemon | None) -> None:
        """Let wireguard-go notice that its device has gone, and see to it that it ends."""
        if daemon is not None and not await daemon.ends_within(END_SECONDS):
            await daemon.kill()

    async def _restore(self, config: TunnelConfig) -> None:
        """Build the old tunnel again after a failed change."""
        try:
            address = await _resolve(config)
            link, daemon = await self._make(config, address)
            try:
                await asyncio.to_thread(bring_up, link, config, address)
            except BaseException:
                await self._discard(link, daemon)
                raise
            self._active = await self._running(config, link, daemon)
        except (OSError, Unprocessable) as error:
            self._log.error(f"the tunnel of before cannot be restored: {_reason(error)}")

    async def _watching(self, active: _Active, daemon: Daemon) -> None:
        """Build the tunnel again when its program ends."""
        await daemon.wait()
        pause = 1.0
        while True:
            async with self._turn:
                if self._active is not None and self._active is not active:
                    return
                self._log.error(f"wireguard-go ended ({daemon.tail()}); building the tunnel again")
                with suppress(OSError):
                    await asyncio.to_thread(remove, 0, active.link.routes)
                self._active = active
                await self._restore(active.config)
                if self._active is not active:
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_SECONDS)

    async def _clear_remains(self) -> None:
        try:
            data = await asyncio.to_thread(read_own, self._folder / "tunnel.json")
            if not data:
                return
            saved = decoded(data, _Saved)
            routes = [Route(r.network, r.kind, r.gateway, r.device) for r in saved.routes]
            index = saved.index if index_of(saved.name) == saved.index else 0
            await asyncio.to_thread(remove, index, routes)
            await self._save(None)
        except Exception as error:  # noqa: BLE001 - what is noted may name anything
            self._log.warning(f"remains of an earlier tunnel are not cleared: {error!r}")

    async def _save(self, active: _Active | None) -> None:
        path = self._folder / "tunnel.json"
        try:
            if active is None:
                await asyncio.to_thread(path.unlink, missing_ok=True)
                return
            saved = _Saved(
                active.config.interface_name,
                active.link.index,
                [_SavedRoute(r.network, r.kind, r.gateway, r.device) for r in active.link.routes],
            )
            await asyncio.to_thread(make_private_folder, self._folder)
            await asyncio.to_thread(write_atomically, path, msgspec.json.encode(saved))
        except (OSError, UntrustedFile) as error:
            self._log.error(f"the tunnel's state is not saved: {error}")


async def _resolve(config: TunnelConfig) -> str:
    """Return the peer's address; raises Unprocessable when its name cannot be resolved."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(
                config.peer_host, config.peer_port, type=socket.SOCK_DGRAM
            )
    except (OSError, UnicodeError):
        raise Unprocessable(
            f"peer_endpoint: {config.peer_host} cannot be resolved", task=Task.ACCEPT_TUNNEL
        ) from None
    return str(found[0][4][0])


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return reason_of(error)
