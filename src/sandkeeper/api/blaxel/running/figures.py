"""What processes use: `/process-stats` and `/process/{identifier}/stats`, now and until now."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.query import query_of, since_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.figures import AllFigures, OneFigures, RunFigures, figures_of
from sandkeeper.errors import Task, Unprocessable
from sandkeeper.linux.clocks import rfc3339_utc
from sandkeeper.observability.figures import Look, Meter
from sandkeeper.observability.run_history import RunHistory
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

__all__ = ["FiguresHandlers", "routes"]


class FiguresHandlers:
    """Handlers over the meter and the history."""

    def __init__(self, *, processes: Processes, meter: Meter, history: RunHistory) -> None:
        self._history = history
        self._processes = processes
        self._meter = meter

    async def all(self, request: Request) -> Response:
        """Tell what every process uses that is not over."""
        running = [one for one in self._processes.all() if not one.is_over]
        look, records = await self._records(request, running)
        return json_response(AllFigures(_moment(look), look.cpu_count, records))

    async def one(self, request: Request) -> Response:
        """Tell what one process uses; what one that is over has used."""
        process = self._processes.get(segment(request.scope, 1), Task.SHOW_PROCESS)
        look, (record,) = await self._records(request, [process])
        fields = msgspec.structs.asdict(record)
        return json_response(OneFigures(**fields, time=_moment(look), cpu_count=look.cpu_count))

    async def past(self, request: Request) -> Response:
        """Tell what one process has used in the last quarter of an hour, or since a time."""
        process = self._processes.get(segment(request.scope, 1), Task.SHOW_PROCESS)
        return json_response(self._history.page(process, since_of(request)))

    async def _records(
        self, request: Request, wanted: Sequence[Process]
    ) -> tuple[Look, list[RunFigures]]:
        look = await self._meter.look(wanted)
        if not query_of(request).flag("ports"):
            return look, [figures_of(one, look.runs.get(one.meta.id), UNSET) for one in wanted]
        try:
            ports = await self._meter.ports()
        except OSError as error:
            raise Unprocessable(f"could not read the sockets: {error.strerror}") from error
        runs = [(one, one.meta.id) for one in wanted]
        return look, [figures_of(one, look.runs.get(id_), ports.get(id_, [])) for one, id_ in runs]


def _moment(look: Look) -> str:
    return rfc3339_utc(int(look.time * 1e6))


def routes(handlers: FiguresHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/process-stats", handlers.all, need=USER),
        route("/process/{identifier}/stats", handlers.one, need=USER),
        route("/process/{identifier}/stats/history", handlers.past, need=USER),
    ]
