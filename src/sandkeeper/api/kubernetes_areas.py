"""What the wires of agent-sandbox are given."""

from functools import cache, partial
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.errors import NotInstalled
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.kubernetes.root import Root
    from sandkeeper.api.kubernetes.runs import Runs

__all__ = ["kubernetes_areas"]

FORKS = "GRPC_ENABLE_FORK_SUPPORT"


def kubernetes_areas(sandbox: Sandbox) -> list[Area]:
    """Return those of REST; gRPC is started with the server where it has a port."""
    if sandbox.settings.kubernetes.grpc_port:
        sandbox.when_started.append(partial(_start_grpc, sandbox))
    return [
        Area(("v1",), partial(_sandboxd_routes, sandbox), own_words=True),
        Area(("python-runtime",), partial(_runtime_routes, sandbox), own_words=True),
    ]


@cache
def _root(folder: str) -> "Root":
    from sandkeeper.api.kubernetes.root import Root

    return Root(folder)


def _root_of(sandbox: Sandbox) -> "Root":
    return _root(sandbox.settings.kubernetes.root or sandbox.settings.workdir)


def _runs(sandbox: Sandbox) -> "Runs":
    from sandkeeper.api.kubernetes.runs import Runs

    return Runs(
        processes=sandbox.processes,
        work=sandbox.file_work,
        users=sandbox.users,
        root=_root_of(sandbox),
        access=sandbox.access,
    )


def _sandboxd_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.kubernetes import files, sandboxd

    apart = sandbox.identity is not None
    handlers = sandboxd.SandboxdHandlers(
        files=files.SandboxFiles(sandbox.files, _root_of(sandbox)),
        uptime=lambda: sandbox.lifetime.uptime,
        is_serving=lambda: sandbox.readiness.serving,
        variables=lambda: sandbox.environment.for_workload(apart=apart),
    )
    return sandboxd.routes(handlers)


def _runtime_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.kubernetes import files, runtime

    handlers = runtime.RuntimeHandlers(
        runs=_runs(sandbox),
        files=files.SandboxFiles(sandbox.files, _root_of(sandbox)),
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return runtime.routes(handlers)


async def _start_grpc(sandbox: Sandbox) -> None:
    """Start the server of gRPC; raises Unavailable when its port is taken, NotInstalled."""
    before = sandbox.environment.get(FORKS)
    # gRPC would run code of its own in a child between fork and exec, and crash there (SIGSEGV).
    # It reads this once, while it starts; children are not to inherit it.
    sandbox.environment.apply({FORKS: "0"})
    try:
        await _begin_grpc(sandbox)
    finally:
        sandbox.environment.apply({FORKS: before}, remove=() if before else (FORKS,))


async def _begin_grpc(sandbox: Sandbox) -> None:
    try:
        from sandkeeper.api.kubernetes.grpc_server import GrpcServer
    except ImportError as error:
        raise NotInstalled(
            f"SANDKEEPER_GRPC_PORT needs the extra kubernetes ({error}): "
            "pip install 'sandkeeper[kubernetes]'"
        ) from None
    from sandkeeper.api.edge.auth import Accepted, Doorkeeper

    settings = sandbox.settings
    server = GrpcServer(
        users=sandbox.users,
        runs=_runs(sandbox),
        processes=sandbox.processes,
        terminals=sandbox.terminals,
        doorkeeper=Doorkeeper(
            settings.rights,
            accepted=Accepted(settings.rights, apart=sandbox.identity is not None),
            open_paths=(),
        ),
        freeze=sandbox.archive.freeze,
        access=sandbox.access,
        turns=sandbox.turns,
        log=sandbox.log,
    )
    await server.start(settings.host, settings.kubernetes.grpc_port)
    sandbox.when_stopping.append(server.stop)
