"""What E2B's orchestrator and its clients ask about the machine: `/envs`, `/init`, `/metrics`."""

import asyncio
import hmac
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.e2b.defaults import Defaults, DefaultsStore
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import plain_json
from sandkeeper.api.edge.rights import ENVIRONMENT, standing_of
from sandkeeper.errors import BadInput, Conflict
from sandkeeper.linux.users import Users
from sandkeeper.observability.machine_use import MachineUse
from sandkeeper.settings import RightsSettings

__all__ = ["SystemCalls"]

BODY_BYTES = 1 << 20


class InitCall(msgspec.Struct, rename="camel"):
    """The body of `/init`; what is missing stays as it is. The time of ours is the kernel's."""

    env_vars: dict[str, str] | None = None
    access_token: str | None = None
    default_user: str | None = None
    default_workdir: str | None = None
    volume_mounts: list[Any] = []
    ca_bundle: str | None = None


class SystemCalls:
    """Answers them; raises SandkeeperError."""

    def __init__(
        self, *, defaults: DefaultsStore, rights: RightsSettings, users: Users, use: MachineUse
    ) -> None:
        self._defaults = defaults
        self._rights = rights
        self._users = users
        self._use = use

    async def envs(self, _request: Request) -> Response:
        """Tell the variables that every program on this wire starts with."""
        return plain_json(self._defaults.now.env_vars)

    async def init(self, request: Request) -> Response:
        """Set what every call starts from; needs the operator."""
        standing_of(request).check(ENVIRONMENT)
        call = await read_json(request, InitCall, BODY_BYTES)
        if call.volume_mounts:
            raise BadInput("volumeMounts: this server mounts drives (/drives/mount)")
        if call.ca_bundle:
            raise BadInput("caBundle: this server trusts the certificates of its machine")
        if call.access_token is not None:
            self._check_token(call.access_token)
        self._users.named(call.default_user or "")
        known = self._defaults.now
        made = Defaults(
            known.env_vars if call.env_vars is None else call.env_vars,
            known.user if call.default_user is None else call.default_user,
            known.workdir if call.default_workdir is None else call.default_workdir,
            trusted=True,
        )
        await asyncio.to_thread(self._defaults.change, made)
        return Response(None, 204)

    def _check_token(self, token: str) -> None:
        given = token.encode("utf-8", "replace")
        tokens = self._rights.tokens
        if token and not any(hmac.compare_digest(given, one.encode()) for one in tokens):
            raise Conflict("accessToken: the token is SANDKEEPER_TOKEN, which is set at the start")

    async def metrics(self, _request: Request) -> Response:
        """Tell how much of the machine is used."""
        use = await asyncio.to_thread(self._use.look)
        return plain_json(
            {
                "ts": int(use.time),
                "cpu_count": use.cpu_count,
                "cpu_used_pct": use.cpu_percent,
                "mem_total_mib": use.memory_total >> 20,
                "mem_used_mib": use.memory_used >> 20,
                "mem_total": use.memory_total,
                "mem_used": use.memory_used,
                "mem_cache": use.memory_cache,
                "disk_used": use.disk_used,
                "disk_total": use.disk_total,
            }
        )
