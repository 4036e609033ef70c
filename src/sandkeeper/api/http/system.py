"""The server itself: welcome, health."""

import platform
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.respond import json_response
from sandkeeper.api.routing import empty_head, route
from sandkeeper.services.sandbox import Sandbox

__all__ = ["routes"]

WELCOME = {
    "message": "sandkeeper is running",
    "documentation": "all routes: swagger/index.html, swagger/doc.json, openapi.json; the wire "
    "contract is Blaxel's sandbox API",
    "description": "Processes, files, terminals and ports of this sandbox over HTTP",
}


def go_duration(seconds: float) -> str:
    """Write a duration as Go does: `1h2m3.5s`, `153.03ms`."""
    if 0 < seconds < 1:
        unit, factor = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
        return f"{seconds * factor:.6f}".rstrip("0").rstrip(".") + unit
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


class SystemHandlers:
    """Handlers over the sandbox itself."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def welcome(self, _request: Request) -> Response:
        """Say what this is."""
        return json_response(WELCOME)

    async def panic(self, _request: Request) -> Response:
        """Fail, so that one can see what a failure does: an empty 500, and the server lives."""
        raise RuntimeError("asked to panic")

    async def health(self, _request: Request) -> Response:
        """Say that the server answers, since when and in which version."""
        return json_response(self._health())

    def _health(self) -> dict[str, Any]:
        status = self._sandbox.status()
        return {
            "status": "ok",
            "version": status.version,
            "gitCommit": status.git_commit,
            "buildTime": status.build_time,
            "goVersion": f"python{platform.python_version()}",
            "os": "linux",
            "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                platform.machine(), platform.machine()
            ),
            "uptime": go_duration(status.uptime),
            "uptimeSeconds": status.uptime,
            "upgradeCount": status.upgrade_count,
            "startedAt": status.started_at,
            "lastUpgrade": status.last_upgrade,
        }


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return the routes of this area."""
    handlers = SystemHandlers(sandbox)
    development = sandbox.environment.get("BL_ENV") == "dev"
    return [
        *([route("/debug/panic", handlers.panic)] if development else []),
        route("/", handlers.welcome, "GET", "POST", "PUT", "DELETE", "PATCH"),
        route("/health", handlers.health),
        route("/health", empty_head, "HEAD"),
    ]
