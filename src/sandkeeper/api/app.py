"""The ASGI application: the layers around the routes, and errors to responses in one place."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.areas import all_areas, port_doors
from sandkeeper.api.edge.auth import Accepted, Acting, Doorkeeper, know
from sandkeeper.api.edge.bodies.room import Room
from sandkeeper.api.edge.connections.exchange import BARE
from sandkeeper.api.edge.connections.outgoing import Outgoing
from sandkeeper.api.edge.connections.plain import PlainRoutes
from sandkeeper.api.edge.cors import Cors
from sandkeeper.api.edge.frozen import guard
from sandkeeper.api.edge.hosts import Gate
from sandkeeper.api.edge.middleware import Doors, Edge
from sandkeeper.api.edge.respond import error_response, not_found, wrong_method
from sandkeeper.api.edge.rights import open_paths, protect
from sandkeeper.api.edge.routing import AreaRouter, Areas, methods_of
from sandkeeper.api.edge.streaming import Disconnected
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.tracing import Traces
from sandkeeper.api.edge.urls import PORT_NAME, with_prefix
from sandkeeper.api.warming import Warming
from sandkeeper.errors import BadInput, SandkeeperError
from sandkeeper.linux.addresses import is_loopback
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Settings

__all__ = ["create_app"]


def create_app(sandbox: Sandbox) -> Edge:
    """Build the application on a sandbox that is (or will be) started."""
    doors = port_doors(sandbox)
    areas = all_areas(sandbox, doors)
    areas.prepared_by(partial(_prepare, sandbox))
    sandbox.vitals.requests.name_groups(areas.firsts)
    router = AreaRouter(areas, default=partial(partial, _unrouted))
    app = ExceptionMiddleware(
        _by_name(areas, Acting(_protect_slashes(router), sandbox.users)),
        handlers={
            Disconnected: _on_disconnect,
            SandkeeperError: _on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
        },
    )
    settings = sandbox.settings
    runtime = bool(settings.kubernetes.runtime_port)
    warming = Warming(areas, sandbox.vitals.requests, runtime=runtime)
    sandbox.when_started.append(warming.begin)
    gateways = Gateways(settings.edge.gateways)
    outgoing = Outgoing(settings.edge.answers_limit)
    sandbox.vitals.requests.answers = outgoing.statistics
    return Edge(
        app,
        access=sandbox.access,
        log=sandbox.log,
        doorkeeper=Doorkeeper(
            settings.rights,
            accepted=Accepted(settings.rights, apart=sandbox.identity is not None),
            sessions=doors.sessions,
            open_paths=open_paths(areas.open_routes()),
            own_words=areas.own_words(),
        ),
        processing_time=settings.processing_time,
        requests=sandbox.vitals.requests,
        cors=Cors(settings.edge.origins),
        doors=_meant(settings, doors),
        gate=Gate(
            settings.edge,
            gateways,
            guarded=bool(settings.token),
            beyond=not is_loopback(settings.host),
            terminal_origins=settings.terminal.origins,
        ),
        port_names=settings.edge.port_names,
        e2b=settings.e2b.enabled,
        runtime_port=settings.kubernetes.runtime_port,
        room=Room(_room(settings)),
        outgoing=outgoing,
        gateways=gateways,
        # Where there are several users, what a request may see depends on who asks.
        plain=PlainRoutes() if sandbox.users.any_allowed else areas.plain,
        say=_sentence,
        traces=Traces(sandbox.tracing, sandbox.spans_for(sandbox.vitals.requests.groups)),
    )


def _meant(settings: Settings, doors: Doors) -> Doors:
    """Have a server that knows its name in a fleet take nothing that is for another."""
    if not settings.kubernetes.name:
        return doors
    from sandkeeper.api.port.meant import MeantDoors

    return MeantDoors(doors, settings.kubernetes.name)


def _room(settings: Settings) -> int:
    """Return what all bodies together may take: at least two of the largest."""
    largest = max(settings.body_limit, settings.files.write_limit)
    return max(settings.bodies_limit, 2 * largest)


def _prepare(sandbox: Sandbox, routes: list[BaseRoute]) -> None:
    """Put in front of routes what asks for rights and for a sandbox that is not frozen."""
    guard(routes, sandbox.archive.freeze)
    protect(routes)
    know(routes)


async def _on_error(_request: Request, error: Exception) -> Response:
    known = error if isinstance(error, SandkeeperError) else BadInput(str(error))
    return error_response(known, _sentence)


def _sentence(error: SandkeeperError) -> str:
    """Say an error as the contract does, whose table is loaded with the first of them."""
    from sandkeeper.api.blaxel.sentences import sentence

    return sentence(error)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(b"", 499)  # for the access log; nobody reads it


async def _on_http_error(_request: Request, error: Exception) -> Response:
    """Starlette raises for broken forms."""
    return error_response(BadInput(str(getattr(error, "detail", error))))


def _by_name(areas: Areas, others: ASGIApp) -> ASGIApp:
    """Have what came by the host name of a port go there, whatever its path."""

    async def by_name(scope: Scope, receive: Receive, send: Send) -> None:
        if PORT_NAME in scope:
            await areas.below("port")[0].handle(scope, receive, send)
        else:
            await others(scope, receive, send)

    return by_name


def _protect_slashes(router: ASGIApp) -> ASGIApp:
    """Keep an encoded slash inside one segment of a process path.

    Names are fully percent-encoded by the clients; decoded once, `a%2Fb` would become two
    segments and match no route.
    """

    async def protected(scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path", b"")
        if raw.startswith((b"/process/", b"/terminals/")) and b"%2f" in raw.lower():
            scope = {**scope, "path": raw.decode("latin-1").replace("%2F", "%252F")}
        await router(scope, receive, send)

    return protected


async def _unrouted(
    routes: Sequence[BaseRoute], scope: Scope, receive: Receive, send: Send
) -> None:
    """Redirect when only a slash at the end is missing or too much; else 404, or 405 (`pinned`)."""
    if scope["type"] == "websocket":
        await receive()
        await not_found()(scope, receive, send)
        return
    response = _slash_redirect(routes, scope)
    if response is not None:
        scope[BARE] = True  # the contract's redirects come before everything else
    elif allowed := _other_methods(routes, scope):
        response = wrong_method(scope["method"], allowed)
    response = response or not_found()
    await response(scope, receive, send)


def _other_methods(routes: Sequence[BaseRoute], scope: Scope) -> set[str]:
    """Return what a path takes instead; the contract has HEAD where it names it, else 404."""
    from sandkeeper.api.blaxel.pinned import is_pinned  # what clients ask for is there

    pinned = scope["method"] == "HEAD" or is_pinned(scope["path"])
    return set() if pinned else methods_of(routes, scope)


def _slash_redirect(routes: Sequence[BaseRoute], scope: Scope) -> Response | None:
    path: str = scope["path"]
    other = path[:-1] if path.endswith("/") else path + "/"
    if not other or path == "/":
        return None
    candidate: dict[str, Any] = {**scope, "path": other}
    if not any(made.matches(candidate)[0] == Match.FULL for made in routes):
        return None
    raw = scope["raw_path"].decode("latin-1")
    target = raw[:-1] if path.endswith("/") else raw + "/"
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    target = with_prefix(scope, target)
    if target.startswith("//"):
        return None  # a browser reads that as another host
    status = 301 if scope["method"] == "GET" else 307
    return Response(b"", status, {"Location": target})
