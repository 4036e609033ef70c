"""The server itself: welcome, health, upgrade."""

import os
import sys
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from sandkeeper.api.edge.connections.plain import PlainAnswer
from sandkeeper.api.edge.respond import encode_json, json_response
from sandkeeper.api.edge.rights import OPEN, UPGRADE, USER
from sandkeeper.api.edge.routing import empty_head, route
from sandkeeper.api.edge.subject import caller
from sandkeeper.log.access import Access
from sandkeeper.numerals import go_duration
from sandkeeper.observability.lifetime import Lifetime
from sandkeeper.upgrade.service import Upgrade, UpgradeOrder
from sandkeeper.upgrade.source import without_secrets

__all__ = ["SystemHandlers", "routes"]

WELCOME = {
    "message": "sandkeeper is running",
    "documentation": "all routes: swagger/index.html, swagger/doc.json, openapi.json; the wire "
    "contract is Blaxel's sandbox API",
    "description": "Processes, files, terminals and ports of this sandbox over HTTP",
}

STARTED = "Upgrade initiated. Process state saved. The server will upgrade shortly."
BODY_BYTES = 64 << 10


class SystemHandlers:
    """Handlers over the server itself."""

    def __init__(self, *, lifetime: Lifetime, upgrade: Upgrade, access: Access) -> None:
        self._lifetime = lifetime
        self._upgrade = upgrade
        self._access = access

    async def welcome(self, _request: Request) -> Response:
        """Say what this is."""
        return json_response(WELCOME)

    async def panic(self, _request: Request) -> Response:
        """Fail, so that one can see what a failure does: an empty 500, and the server lives."""
        raise RuntimeError("asked to panic")

    async def health(self, _request: Request) -> Response:
        """Say that the server answers, since when and in which version."""
        return json_response(self._health())

    def health_now(self, _scope: Scope, _body: bytes) -> PlainAnswer:
        """Say it at once."""
        return PlainAnswer(encode_json(self._health()))

    async def upgrade(self, request: Request) -> Response:
        """Begin an upgrade and answer at once; /health tells how it goes."""
        from sandkeeper.api.edge.request_body import read_body  # more than all the rest of it

        body = await read_body(request, BODY_BYTES)
        try:
            order = msgspec.json.decode(body, type=UpgradeOrder)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            order = UpgradeOrder()  # the contract ignores a bad body
        try:
            base, version = self._upgrade.request(order)
        finally:
            self._access.audit(
                "upgrade",
                caller(request),
                version=order.version or "latest",
                base_url=without_secrets(order.base_url or ""),
            )
        return json_response({"baseUrl": base, "message": STARTED, "version": version})

    def _health(self) -> dict[str, Any]:
        machine = os.uname().machine
        status = self._lifetime.status(self._upgrade.count, self._upgrade.status())
        return {
            "status": "ok",
            "version": status.version,
            "gitCommit": status.git_commit,
            "buildTime": status.build_time,
            "goVersion": f"python{sys.version.split()[0]}",
            "os": "linux",
            "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
            "uptime": go_duration(round(status.uptime)),
            "uptimeSeconds": status.uptime,
            "upgradeCount": status.upgrade_count,
            "startedAt": status.started_at,
            "lastUpgrade": status.last_upgrade,
        }


def routes(handlers: SystemHandlers, *, development: bool) -> list[BaseRoute]:
    """Return the routes of this area; `/debug/panic` in development only."""
    return [
        *([route("/debug/panic", handlers.panic, need=USER)] if development else []),
        route("/", handlers.welcome, "GET", "POST", "PUT", "DELETE", "PATCH", need=USER),
        route("/health", handlers.health, need=OPEN, plain=handlers.health_now),
        route("/health", empty_head, "HEAD", need=OPEN),
        route("/upgrade", handlers.upgrade, "POST", need=UPGRADE),
        route("/upgrade", empty_head, "HEAD", need=USER),
    ]
