"""Egress: the token-adding proxy on loopback and the merged certificates, kept in the environment.

Children never see a token: their proxy variables name the loopback proxy, which reads the token
file for each request. Set-up is repeated by `reapply` whenever the environment was reloaded.
"""

import asyncio
import errno
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sandkeeper.egress.ca import BadCertificates, merge_bundle, named_certificates
from sandkeeper.egress.token import (
    PROXY_NAMES,
    Template,
    TokenFile,
    find_templates,
    upstream_of,
)
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import Damaged, decoded, read_own
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_folder, write_trusted
from sandkeeper.log.lines import Log, timestamp
from sandkeeper.network.pacing import unpace
from sandkeeper.settings import EgressSettings, Environment

if TYPE_CHECKING:
    from sandkeeper.egress.proxy import EgressProxy, EgressRoute

__all__ = ["Egress"]

BIND_TRIES = 20
BIND_WAIT = 0.1
RESOLVE_SECONDS = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _SavedTemplate(msgspec.Struct, rename="camel"):
    name: str
    template: str
    file_path: str


class _Saved(msgspec.Struct, rename="camel"):
    """What a restart needs once the environment holds our own values instead of the operator's."""

    version: int = 2
    saved_at: str = ""
    templates: list[_SavedTemplate] = []
    port: int = 0
    ca_base: str = ""


class Egress:
    """Owns the proxy, its listeners and the state file."""

    def __init__(
        self,
        settings: EgressSettings,
        environment: Environment,
        log: Log,
        workload: Identity | None = None,
    ) -> None:
        """Build; `workload` is who must not choose what is read here or written."""
        self._settings = settings
        self._workload = workload
        self._environment = environment
        self._log = log
        self._route: EgressRoute | None = None
        self._templates: list[Template] = []
        self._proxy: EgressProxy | None = None
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._resolving: asyncio.Task[None] | None = None
        self._saved = _Saved()
        self._turn = asyncio.Lock()
        self.port = 0

    async def start(self) -> None:
        """Set up what the environment asks for; failures are logged, never fatal."""
        self._saved = await asyncio.to_thread(self._load)
        await self.reapply()

    async def reapply(self) -> None:
        """Set up again after the environment changed; the port and open connections stay."""
        async with self._turn:
            await self._apply_certificates()
            await self._apply_proxy()

    async def stop(self) -> None:
        """Close the proxy; the environment stays as it is."""
        await self._stop_resolving()
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting.clear()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._proxy is not None:
            await self._proxy.close()

    async def _apply_certificates(self) -> None:
        text = self._environment.get("SANDBOX_EXTRA_CA_CERTS")
        if not text.strip():
            return
        merged = self._settings.merged_ca
        base = self._environment.get("SSL_CERT_FILE")
        if base == str(merged):  # our own work of last time: extending it again would double it
            base = self._saved.ca_base
        try:
            extra, named = await asyncio.to_thread(named_certificates, text)
            bundle = await asyncio.to_thread(
                merge_bundle, extra, base=base, merged=merged, named=named
            )
        except (BadCertificates, OSError, UntrustedFile) as error:
            self._log.error(f"SANDBOX_EXTRA_CA_CERTS: extra certificates are not used: {error}")
            return
        if bundle.warning:
            self._log.warning(bundle.warning)
        self._saved.ca_base = bundle.base
        await self._save()
        whole = dict.fromkeys(
            ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(bundle.merged)
        )
        self._environment.apply({**whole, "NODE_EXTRA_CA_CERTS": str(bundle.extra)})

    async def _apply_proxy(self) -> None:
        templates = self._visible_templates()
        if not templates:
            return
        try:
            self._route = await self._make_route(templates[0])
        except (ValueError, OSError) as error:
            self._log.error(f"egress proxy is off: {error}")
            return
        self._templates = templates
        if not self._listeners and not await self._listen():
            self._start_resolving()
            return
        await self._stop_resolving()
        self._point_at_proxy()
        self._saved.templates = [
            _SavedTemplate(item.name, item.text, item.file_path) for item in templates
        ]
        self._saved.port = self.port
        await self._save()

    def _visible_templates(self) -> list[Template]:
        """Return the operator's templates; the saved ones if the environment only has our URL."""
        found = find_templates(self._environment.snapshot())
        if found:
            return found
        ours = {"", f"http://localhost:{self._saved.port}"}
        if any(self._environment.get(name) not in ours for name in PROXY_NAMES):
            return []  # another proxy was set since: that is the operator's last word
        saved = (Template.of(item.name, item.template) for item in self._saved.templates)
        return [template for template in saved if template is not None]

    async def _make_route(self, template: Template) -> "EgressRoute":
        upstream = upstream_of(template)
        # Reads the certificates from disk, by the variables just set.
        tls = await asyncio.to_thread(ssl.create_default_context) if upstream.tls else None
        token = self._route.token if self._route else None
        if token is None or token.path != template.file_path:
            token = TokenFile(template.file_path, self._workload, self._log.warning)
        from sandkeeper.egress.proxy import EgressRoute

        return EgressRoute(upstream, token, tls)

    def _point_at_proxy(self) -> None:
        url = f"http://localhost:{self.port}"
        values = dict.fromkeys((template.name for template in self._templates), url)
        for name in ("NO_PROXY", "no_proxy"):
            before = [part for part in self._environment.get(name).split(",") if part.strip()]
            known = {part.strip() for part in before}
            values[name] = ",".join([*before, *(host for host in LOOPBACK if host not in known)])
        self._environment.apply(values)

    async def _listen(self) -> bool:
        port = self._saved.port or self._settings.port
        try:
            first = await _bind(socket.AF_INET, "127.0.0.1", port)
        except OSError as error:
            self._log.error(f"egress proxy cannot listen on port {port}: {error.strerror}")
            if self._workload is None or self._workload.is_ours:
                return False
            # It can have taken the port itself, to be given the token in place of the proxy.
            first = await _bind(socket.AF_INET, "127.0.0.1", 0)
        self._listeners = [first]
        self.port = first.getsockname()[1]
        try:
            self._listeners.append(await _bind(socket.AF_INET6, "::1", self.port))
        except OSError as error:  # a machine without IPv6 has nobody who would come that way
            self._log.info(f"egress proxy listens on IPv4 only: {error.strerror}")
        from sandkeeper.egress.proxy import EgressProxy  # and h11, for the few that have one

        self._proxy = self._proxy or EgressProxy(lambda: self._route, self._log.error)
        self._accepting = [
            asyncio.create_task(self._proxy.listen(listener)) for listener in self._listeners
        ]
        return True

    def _start_resolving(self) -> None:
        """Without a listener the token itself must go into the environment, again and again."""
        if self._resolving is None:
            self._resolving = asyncio.create_task(self._resolve())

    async def _stop_resolving(self) -> None:
        task, self._resolving = self._resolving, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _resolve(self) -> None:
        while True:
            route = self._route
            token = await route.token.get(fresh=True) if route else ""
            if token:
                self._environment.apply(
                    {template.name: template.resolved(token) for template in self._templates}
                )
            await asyncio.sleep(RESOLVE_SECONDS)

    def _load(self) -> _Saved:
        try:
            data = _read(self._settings.state_file)
            saved = decoded(data, _Saved) if data else _Saved()
        except (OSError, UntrustedFile, Damaged) as error:
            self._log.warning(f"egress state is ignored: {error}")
            return _Saved()
        return saved if saved.version == 2 and 0 <= saved.port < 65536 else _Saved()

    async def _save(self) -> None:
        self._saved.saved_at = timestamp()
        data = msgspec.json.encode(self._saved)
        try:
            await asyncio.to_thread(write_trusted, self._settings.state_file, data, folders=0o700)
        except (OSError, UntrustedFile) as error:
            self._log.error(f"egress state is not saved: {error}")


def _read(path: Path) -> bytes | None:
    """Return what we saved: it may lie anywhere, but is no link, and nobody else rules there."""
    try:
        folder = open_trusted_folder(path.parent)
    except FileNotFoundError:
        return None
    try:
        return read_own(Path(f"/proc/self/fd/{folder}") / path.name)
    finally:
        os.close(folder)


async def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """Listen; only a port in use (a server that is just ending) is worth another try."""
    for left in range(BIND_TRIES, -1, -1):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            unpace(sock)
            sock.bind((host, port))
            sock.listen(1024)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or not left:
                raise
        else:
            return sock
        await asyncio.sleep(BIND_WAIT)
    raise OSError(errno.EADDRINUSE, "port is in use")
