"""Looking at the server itself (readiness, metrics, diagnostics), and at what processes use."""

import asyncio
import os
import resource
import threading
from collections.abc import Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper import __version__
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import OPEN, USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.figures import AllFigures, OneFigures, RunFigures, figures_of
from sandkeeper.errors import Unprocessable
from sandkeeper.linux.clocks import rfc3339_utc
from sandkeeper.observability.heap import resident
from sandkeeper.observability.metrics import Requests, Vitals
from sandkeeper.observability.readiness import Readiness
from sandkeeper.processes.figures import Look, Meter
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

__all__ = ["FiguresHandlers", "ObservabilityHandlers", "figures_routes", "routes"]

CURSORS = 1000


class ObservabilityHandlers:
    """Handlers of `/ready`, `/metrics` and `/diagnostics`."""

    def __init__(self, *, readiness: Readiness, vitals: Vitals) -> None:
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
        reading = exposition(self._vitals)
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
            "cursors": [asdict(item) for item in lags[:CURSORS]],
            "cursorsOmitted": max(0, len(lags) - CURSORS),
            "pump": {"alive": vitals.pump.alive, **vitals.pump.statistics()},
            "log": {"alive": vitals.sink.alive, **vitals.sink.statistics()},
            "keeper": vitals.keeper.statistics(),
            "requests": _requests(vitals.requests),
            "tasks": len(asyncio.all_tasks()),
        }
        return json_response(page)


class FiguresHandlers:
    """Handlers of `/process-stats` and `/process/{identifier}/stats`."""

    def __init__(self, *, processes: Processes, meter: Meter) -> None:
        self._processes = processes
        self._meter = meter

    async def all(self, request: Request) -> Response:
        """Tell what every process uses that is not over."""
        running = [one for one in self._processes.all() if not one.is_over]
        look, records = await self._records(request, running)
        return json_response(AllFigures(_moment(look), look.cpu_count, records))

    async def one(self, request: Request) -> Response:
        """Tell what one process uses; what one that is over has used."""
        process = self._processes.get(segment(request.scope, 1), "process not found")
        look, (record,) = await self._records(request, [process])
        fields = msgspec.structs.asdict(record)
        return json_response(OneFigures(**fields, time=_moment(look), cpu_count=look.cpu_count))

    async def _records(
        self, request: Request, wanted: Sequence[Process]
    ) -> tuple[Look, list[RunFigures]]:
        look = await self._meter.look(wanted)
        if query_of(request).get("ports") != "true":
            return look, [figures_of(one, look.runs.get(one.meta.id), UNSET) for one in wanted]
        try:
            ports = await self._meter.ports()
        except OSError as error:
            raise Unprocessable(f"could not read the sockets: {error.strerror}") from error
        runs = [(one, one.meta.id) for one in wanted]
        return look, [figures_of(one, look.runs.get(id_), ports.get(id_, [])) for one, id_ in runs]


def _moment(look: Look) -> str:
    return rfc3339_utc(int(look.time * 1e6))


def figures_routes(handlers: FiguresHandlers) -> list[BaseRoute]:
    """Return the routes of what processes use."""
    return [
        route("/process-stats", handlers.all, need=USER),
        route("/process/{identifier}/stats", handlers.one, need=USER),
    ]


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
    ]
