"""Looking at the server itself: readiness, metrics, diagnostics."""

import asyncio
import os
import resource
import threading
from time import monotonic
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper import __version__
from sandkeeper.api.edge.query import since_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import OPEN, USER
from sandkeeper.api.edge.routing import route
from sandkeeper.observability.heap import resident
from sandkeeper.observability.history import History
from sandkeeper.observability.metrics import Requests, Vitals
from sandkeeper.observability.readiness import Readiness

__all__ = ["ObservabilityHandlers", "routes"]

CURSORS = 1000


class ObservabilityHandlers:
    """Handlers of `/ready`, `/metrics`, `/diagnostics` and `/diagnostics/history`."""

    def __init__(self, *, readiness: Readiness, vitals: Vitals, history: History) -> None:
        self._history = history
        self._readiness = readiness
        self._vitals = vitals

    async def ready(self, _request: Request) -> Response:
        """Say whether the server can do its work: 200, or 503 with the reasons."""
        checks = await self._readiness.check()
        good = all(found == "ok" for found in checks.values())
        return json_response({"ready": good, "checks": checks}, 200 if good else 503)

    async def metrics(self, request: Request) -> Response:
        """Give all figures as Prometheus text, or as OpenMetrics where that is preferred."""
        exposition = await asyncio.to_thread(_load)
        reading = exposition.of(self._vitals)
        accept = request.headers.get("accept", "")
        text, media_type = await asyncio.to_thread(reading.render, accept)
        return Response(text, headers={"Content-Type": media_type})

    async def diagnostics(self, _request: Request) -> Response:
        """Give what one asks when something seems slow: lags, queues, descriptors, sizes."""
        vitals = self._vitals
        lags = vitals.lags()
        page = {
            "version": __version__,
            "uptimeSeconds": monotonic() - vitals.since,
            "server": await asyncio.to_thread(_server),
            "loopDelaySeconds": vitals.loop_delay(),
            "processes": vitals.states(),
            "journals": vitals.journals(),
            "cursors": [msgspec.structs.asdict(item) for item in lags[:CURSORS]],
            "cursorsOmitted": max(0, len(lags) - CURSORS),
            "pump": {"alive": vitals.pump.alive, **vitals.pump.statistics()},
            "log": {"alive": vitals.sink.alive, **vitals.sink.statistics()},
            "keeper": vitals.keeper.statistics(),
            "requests": _requests(vitals.requests),
            "tasks": len(asyncio.all_tasks()),
        }
        return json_response(page)

    async def history(self, request: Request) -> Response:
        """Give the figures of the last quarter of an hour, or those after `since`."""
        return json_response(self._history.page(since_of(request)))


def _load() -> Any:
    from sandkeeper.observability.exposition import Exposition

    return Exposition


def _server() -> dict[str, Any]:
    """Return the server's own use of the machine (getrusage(2))."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": os.getpid(),
        "residentBytes": resident(),
        "cpuSeconds": usage.ru_utime + usage.ru_stime,
        "threads": threading.active_count(),
        "openFiles": len(os.listdir("/proc/self/fd")) - 1,
        "openFilesLimit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _requests(requests: Requests) -> dict[str, Any]:
    return {
        "inFlight": requests.in_flight,
        "websockets": requests.websockets,
        "answers": requests.answers(),
        "groups": {
            name or "root": {
                "answers": sum(group.statuses),
                "serverErrors": group.statuses[5],
                "longestSeconds": group.seconds.longest,
            }
            for name, group in requests.groups.items()
            if any(group.statuses)
        },
    }


def routes(handlers: ObservabilityHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/ready", handlers.ready, need=OPEN),
        route("/metrics", handlers.metrics, need=USER),
        route("/diagnostics", handlers.diagnostics, need=USER),
        route("/diagnostics/history", handlers.history, need=USER),
    ]
