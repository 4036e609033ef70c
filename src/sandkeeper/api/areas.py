"""What each area of the API is given: the services and settings it uses, nothing else."""

from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.blaxel import (
    archive,
    codegen,
    drives,
    environment,
    logs,
    network,
    observability,
    processes,
    swagger,
    system,
    terminals,
    tunnel,
    waiting,
)
from sandkeeper.api.blaxel.description import Address
from sandkeeper.api.blaxel.files import content, more, search, trees, uploads, watch
from sandkeeper.api.console import terminal as console
from sandkeeper.api.console.terminal_page import TerminalPage
from sandkeeper.api.console.terminal_socket import TerminalSocket
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.mcp import edge as mcp
from sandkeeper.api.mcp.tool import Tool
from sandkeeper.api.port import links
from sandkeeper.api.port.proxy import PortRoute
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.blaxel.archive_calls import ArchiveCalls
    from sandkeeper.api.mcp.server import ToolServer

__all__ = ["all_routes", "all_tools"]


def all_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return every route, in the order in which they are tried."""
    routes: list[BaseRoute] = [
        *_process_routes(sandbox),
        *_file_routes(sandbox),
        *_network_routes(sandbox),
        *_machine_routes(sandbox),
        *_terminal_routes(sandbox),
        *mcp.routes(mcp.McpHandlers(partial(_tool_server, sandbox), sandbox.stopping)),
        *_server_routes(sandbox),
    ]
    description = swagger.SwaggerHandlers(
        address=Address.of(sandbox.environment.snapshot()),
        origins=sandbox.settings.edge.origins,
        described=routes,
    )
    routes += swagger.routes(description)  # it describes these, too
    return routes


def _process_routes(sandbox: Sandbox) -> list[BaseRoute]:
    held = processes.ProcessHandlers(
        processes=sandbox.processes,
        waiting=sandbox.waiting,
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        settings=sandbox.settings,
    )
    waits = waiting.WaitingHandlers(
        processes=sandbox.processes,
        files=sandbox.files,
        waiting=sandbox.waiting,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
    )
    texts = logs.LogHandlers(
        processes=sandbox.processes,
        pump=sandbox.pump,
        access=sandbox.access,
        turns=sandbox.turns,
        retention=sandbox.settings.retention,
    )
    return [*processes.routes(held), *waiting.routes(waits), *logs.routes(texts)]


def _file_routes(sandbox: Sandbox) -> list[BaseRoute]:
    files, stopping, settings = sandbox.files, sandbox.stopping, sandbox.settings
    plain = content.FileHandlers(files=files, stopping=stopping)
    whole = trees.TreeHandlers(
        files=files, trees=sandbox.trees, copies=sandbox.copies, stopping=stopping, plain=plain
    )
    besides = more.MoreHandlers(
        files=files,
        attributes=sandbox.attributes,
        archives=sandbox.archives,
        stopping=stopping,
    )
    sessions = uploads.UploadHandlers(
        files=files, uploads=sandbox.uploads, body_limit=settings.body_limit
    )
    finding = search.SearchHandlers(
        search=sandbox.search, grep=sandbox.grep, files=sandbox.files, stopping=stopping
    )
    noticing = watch.WatchHandlers(
        watches=sandbox.watches, changes=sandbox.changes, turns=sandbox.turns, files=sandbox.files
    )
    return [
        *trees.routes(whole),
        *content.routes(plain),
        *more.routes(besides),
        *uploads.routes(sessions),
        *search.routes(finding),
        *watch.routes(noticing),
    ]


def _network_routes(sandbox: Sandbox) -> list[BaseRoute]:
    handlers = network.NetworkHandlers(
        ports=sandbox.ports, monitors=sandbox.monitors, body_limit=sandbox.settings.body_limit
    )
    ports = PortRoute(sandbox.settings, sandbox.relay)
    opened = links.LinkHandlers(
        tickets=ports.doors.tickets,
        names=sandbox.settings.edge.port_names,
        gateways=Gateways(sandbox.settings.edge.gateways),
        access=sandbox.access,
        body_limit=sandbox.settings.body_limit,
    )
    return [*network.routes(handlers), *links.routes(opened), ports]


def _machine_routes(sandbox: Sandbox) -> list[BaseRoute]:
    access = sandbox.access
    code = codegen.CodegenHandlers(
        codegen=sandbox.codegen,
        files=sandbox.files,
        access=access,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    mounts = drives.DriveHandlers(
        drives=sandbox.drives,
        access=access,
        body_limit=sandbox.settings.body_limit,
        apart=sandbox.identity is not None,
    )
    variables = environment.EnvironmentHandlers(reload=sandbox.environment_reload, access=access)
    return [
        *environment.routes(variables),
        *codegen.routes(code),
        *drives.routes(mounts),
        *tunnel.routes(tunnel.TunnelHandlers(tunnel=sandbox.tunnel, access=access)),
        *archive.routes(archive.ArchiveHandlers(partial(_archive_calls, sandbox))),
    ]


def _archive_calls(sandbox: Sandbox) -> "ArchiveCalls":
    from sandkeeper.api.blaxel.archive_calls import ArchiveCalls

    return ArchiveCalls(
        archive=sandbox.archive, access=sandbox.access, body_limit=sandbox.settings.body_limit
    )


def _terminal_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return those of terminals: none when they are switched off."""
    if not sandbox.settings.terminal.enabled:
        return []
    page = TerminalPage(sandbox.settings.edge.origins)
    socket = TerminalSocket(terminals=sandbox.terminals, access=sandbox.access)
    handlers = terminals.TerminalHandlers(
        terminals=sandbox.terminals, access=sandbox.access, stopping=sandbox.stopping
    )
    return [*console.routes(page, socket), *terminals.routes(handlers)]


def _server_routes(sandbox: Sandbox) -> list[BaseRoute]:
    looks = observability.ObservabilityHandlers(readiness=sandbox.readiness, vitals=sandbox.vitals)
    itself = system.SystemHandlers(
        lifetime=sandbox.lifetime, upgrade=sandbox.upgrade, access=sandbox.access
    )
    development = sandbox.environment.get("BL_ENV") == "dev"
    return [*observability.routes(looks), *system.routes(itself, development=development)]


def all_tools(sandbox: Sandbox) -> list[Tool]:
    """Return every tool of `/mcp`; loads what they need."""
    from sandkeeper.api.mcp import code, files, processes, terminals, waiting

    access, mcp_wait = sandbox.access, sandbox.settings.mcp_wait
    held = processes.ProcessTools(
        processes=sandbox.processes,
        waiting=sandbox.waiting,
        access=access,
        settings=sandbox.settings,
    )
    waits = waiting.WatchingTools(
        processes=sandbox.processes,
        files=sandbox.files,
        waiting=sandbox.waiting,
        access=access,
        mcp_wait=mcp_wait,
    )
    edits = code.CodeTools(
        files=sandbox.files,
        codegen=sandbox.codegen,
        ripgrep=sandbox.ripgrep,
        access=access,
    )
    made = [*processes.tools(held), *waiting.tools(waits)]
    made += [*files.tools(files.FileTools(sandbox.files)), *code.tools(edits)]
    if sandbox.settings.terminal.enabled:
        screens = terminals.TerminalTools(
            terminals=sandbox.terminals, access=access, mcp_wait=mcp_wait
        )
        made += terminals.tools(screens)
    return made


def _tool_server(sandbox: Sandbox) -> "ToolServer":
    """Load the SDK of the protocol; takes half a second."""
    from sandkeeper.api.mcp.server import ToolServer

    return ToolServer(all_tools(sandbox), log=sandbox.log, freeze=sandbox.archive.freeze)
