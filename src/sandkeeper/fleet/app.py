"""What a replica answers: E2B's control plane, its own health, and what is for sandboxes."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.control.calls import ControlCalls
from sandkeeper.api.control.routes import ControlDoor, routes
from sandkeeper.api.control.source import SandboxSource
from sandkeeper.api.edge.bodies.room import Room
from sandkeeper.api.edge.connections.outgoing import Outgoing
from sandkeeper.api.edge.connections.plain import PlainRoutes
from sandkeeper.api.edge.connections.reply import Reply
from sandkeeper.api.edge.cors import Cors
from sandkeeper.api.edge.hosts import Gate
from sandkeeper.api.edge.middleware import Edge
from sandkeeper.api.edge.respond import error_response, json_response, not_found
from sandkeeper.api.edge.rights import OPEN, Right, Standing
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.tokens import offers
from sandkeeper.api.edge.tracing import Traces
from sandkeeper.api.edge.urls import PORT_NAME
from sandkeeper.errors import BadInput, SandkeeperError, Unavailable
from sandkeeper.fleet.routing import Routing, check, mark
from sandkeeper.fleet.teams import TeamSource
from sandkeeper.settings import RightsSettings
from sandkeeper.tracecontext import Tracing

if TYPE_CHECKING:
    from sandkeeper.fleet.services import FleetServices
    from sandkeeper.observability.exposition import Exposition

__all__ = ["FleetEdge", "create_app"]

BODIES_BYTES = 64 << 20


class FleetEdge(Edge):
    """The edge, which knows requests for sandboxes by name or by field."""

    def _mark(self, scope: Scope) -> None:
        super()._mark(scope)
        mark(scope)

    def plain(self, scope: Scope, body: bytes, reply: Reply) -> bool | Coroutine[None, None, None]:
        """Return False: nothing is answered the short way."""
        return False


class _Doors:
    """Lets pass what is for a sandbox: its own server says who may. All else is for the gate."""

    def opens(self, scope: Scope, gate: Gate) -> bool:
        """Say whether a request goes on as it is; raises as the gate does, or `check`."""
        if PORT_NAME in scope:
            check(scope)
        else:
            gate.check(scope)
        return True

    def shown(self, scope: Scope) -> str:
        """Return the path of a request for the log."""
        path: str = scope["path"]
        return f"//{scope[PORT_NAME].host}{path}" if PORT_NAME in scope else path


class _Nobody:
    """Every request passes the doors above; who asks is found out by what answers."""

    def admits(self, _scope: Scope) -> bool:
        """Say whether a request may go on."""
        return True


def create_app(services: "FleetServices") -> FleetEdge:
    """Build the application on services that are (or will be) started."""
    settings, own = services.settings, services.fleet.settings.otlp
    gateways = Gateways(settings.edge.gateways)
    outgoing = Outgoing(settings.edge.answers_limit)
    calls = ControlCalls(partial(_source_of, services), services.access)

    async def load() -> ControlCalls:
        return calls

    router = Router([*_own_routes(services), *routes(ControlDoor(load))], default=_unrouted)
    router.redirect_slashes = False
    app = ExceptionMiddleware(
        _split(Routing(services.fleet, services.keys, services.relay, gateways), router),
        handlers={SandkeeperError: _on_error},
    )
    names = ("sandboxes", "v2", "port", "health", "ready", "metrics")
    services.requests.name_groups(names)
    services.requests.answers = outgoing.statistics
    services.figures = partial(_figures, services)
    spans = None if services.otlp is None else services.otlp.spans(names)
    return FleetEdge(
        app,
        access=services.access,
        log=services.log,
        doorkeeper=_Nobody(),
        processing_time=False,
        requests=services.requests,
        traces=Traces(Tracing(own.sampler, own.ratio), spans.request if spans else None),
        cors=Cors(settings.edge.origins),
        doors=_Doors(),
        gate=Gate(settings.edge, gateways, guarded=True, beyond=True),
        port_names=settings.edge.port_names,
        e2b=False,
        runtime_port=0,
        gateways=gateways,
        room=Room(BODIES_BYTES),
        outgoing=outgoing,
        plain=PlainRoutes(),
        say=str,
    )


def _split(routing: ASGIApp, others: ASGIApp) -> ASGIApp:
    async def split(scope: Scope, receive: Receive, send: Send) -> None:
        await (routing if PORT_NAME in scope else others)(scope, receive, send)

    return split


def _source_of(services: "FleetServices", request: Request) -> SandboxSource | None:
    """Return the sandboxes of whoever asks; None for a key that is none.

    Raises Unavailable before the cluster is known.
    """
    if not services.knows_all:
        raise Unavailable("the cluster is not known yet: try again")
    team = services.keys.team_of(offers(request.scope))
    if team is None:
        return None
    Standing(Right.USER, RightsSettings()).into(request.scope)
    return TeamSource(services.fleet, team)


def _figures(services: "FleetServices") -> "Callable[[], Exposition]":
    from sandkeeper.fleet.exposition import exposition

    return partial(exposition, services)


def _own_routes(services: "FleetServices") -> list[BaseRoute]:
    async def health(_request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(_request: Request) -> Response:
        checks = services.checks()
        good = all(found == "ok" for found in checks.values())
        return json_response({"ready": good, "checks": checks}, 200 if good else 503)

    async def metrics(request: Request) -> Response:
        reading = _figures(services)()
        accept = request.headers.get("accept", "")
        text, media_type = await asyncio.to_thread(reading.render, accept)
        return Response(text, headers={"Content-Type": media_type})

    return [
        route("/health", health, "GET", "HEAD", need=OPEN),
        route("/ready", ready, need=OPEN),
        route("/metrics", metrics, need=OPEN),
    ]


async def _unrouted(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
    await not_found()(scope, receive, send)


async def _on_error(_request: Request, error: Exception) -> Response:
    return error_response(error if isinstance(error, SandkeeperError) else BadInput(str(error)))
