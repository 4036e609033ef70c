"""What each area of the API is given: the services and settings it uses, nothing else.

An area is loaded by the first request for it: what few ask for costs no start anything.
"""

from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.code_areas import code_areas, code_tools
from sandkeeper.api.e2b_areas import e2b_areas, e2b_wires
from sandkeeper.api.edge.routing import Area, Areas
from sandkeeper.api.git_areas import git_areas, git_tools
from sandkeeper.api.kubernetes_areas import kubernetes_areas
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.blaxel.archive_calls import ArchiveCalls
    from sandkeeper.api.blaxel.files.content import FileHandlers
    from sandkeeper.api.mcp.server import ToolServer
    from sandkeeper.api.mcp.tool import Tool
    from sandkeeper.api.page_areas import PageAreas
    from sandkeeper.api.port.pages import Doors

__all__ = ["all_areas", "all_routes", "all_tools", "port_doors"]


def all_areas(sandbox: Sandbox, doors: "Doors") -> Areas:
    """Return every area, in the order in which its routes are told."""
    wires = e2b_wires(sandbox)
    areas = [
        *e2b_areas(sandbox, wires),
        *kubernetes_areas(sandbox),
        Area(("process", "process-stats"), partial(_process_routes, sandbox)),
        *_file_areas(sandbox),
        Area(("network",), partial(_network_routes, sandbox, doors)),
        Area(("port", "port-keep"), lambda: _port_routes(sandbox, doors, made)),
        Area(("environment",), partial(_environment_routes, sandbox)),
        Area(("codegen",), partial(_codegen_routes, sandbox)),
        Area(("drives",), partial(_drive_routes, sandbox)),
        Area(("archive",), partial(_archive_routes, sandbox)),
        *git_areas(sandbox),
        *_terminal_areas(sandbox),
        *code_areas(sandbox, wires),
        Area(
            ("console", "console-session"), lambda: _pages(sandbox).console(doors), own_words=True
        ),
        Area(("mcp",), partial(_mcp_routes, sandbox)),
        Area(("ready", "metrics", "diagnostics"), partial(_looking_routes, sandbox), is_open=True),
        Area(("debug", "", "health", "upgrade"), partial(_server_routes, sandbox), is_open=True),
    ]
    made = Areas(areas)
    described = partial(_description_routes, sandbox, made)
    made.add(Area(("swagger", "openapi.json"), described))
    return made


def all_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return every route; loads all areas."""
    return all_areas(sandbox, port_doors(sandbox)).routes()


def port_doors(sandbox: Sandbox) -> "Doors":
    """Return who decides what pages behind `/port` may ask."""
    from sandkeeper.api.edge.tickets.sessions import Sessions
    from sandkeeper.api.port.pages import Doors
    from sandkeeper.api.port.tickets import Tickets
    from sandkeeper.linux.clocks import Ratchet

    tokens, settings = sandbox.settings.rights.tokens, sandbox.settings
    tickets = Tickets(settings.state_dir / "ports.key", tokens)
    sessions = Sessions(settings.state_dir, tokens, Ratchet().now)
    return Doors(tickets, sessions, tokens, restricted="*" not in settings.edge.origins)


def _process_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import logs, processes, waiting
    from sandkeeper.api.blaxel.running import figures, stdin

    held = processes.ProcessHandlers(
        processes=sandbox.processes,
        waiting=sandbox.waiting,
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        settings=sandbox.settings,
        users=sandbox.users,
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
    runs = sandbox.history.runs
    used = figures.FiguresHandlers(processes=sandbox.processes, meter=sandbox.meter, history=runs)
    plain = [*processes.routes(held), *waiting.routes(waits), *logs.routes(texts)]
    return [*plain, *stdin.routes(sandbox.processes, sandbox.access), *figures.routes(used)]


def _file_areas(sandbox: Sandbox) -> list[Area]:
    besides = ("stat", "attributes", "edit", "usage", "archive", "entries")
    return [
        Area(
            ("filesystem", "filesystem-copy", "filesystem-move"),
            partial(_tree_routes, sandbox),
        ),
        Area(tuple(f"filesystem-{name}" for name in besides), partial(_more_file_routes, sandbox)),
        Area(("filesystem-links",), partial(_link_routes, sandbox, opened=False)),
        Area(("filesystem-link",), partial(_link_routes, sandbox, opened=True), own_words=True),
        Area(("filesystem-multipart",), partial(_upload_routes, sandbox)),
        Area(
            ("filesystem-find", "filesystem-search", "filesystem-content-search"),
            partial(_search_routes, sandbox),
        ),
        Area(("watch", "filesystem-changes"), partial(_watch_routes, sandbox)),
    ]


def _file_handlers(sandbox: Sandbox) -> "FileHandlers":
    from sandkeeper.api.blaxel.files.content import FileHandlers

    return FileHandlers(files=sandbox.files, stopping=sandbox.stopping)


def _tree_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import content, trees

    plain = _file_handlers(sandbox)
    whole = trees.TreeHandlers(
        files=sandbox.files,
        trees=sandbox.trees,
        copies=sandbox.copies,
        stopping=sandbox.stopping,
        plain=plain,
    )
    return [*trees.routes(whole), *content.routes(plain)]


def _more_file_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import details, more

    besides = more.MoreHandlers(
        files=sandbox.files,
        attributes=sandbox.attributes,
        archives=sandbox.archives,
        stopping=sandbox.stopping,
    )
    entries = details.DetailHandlers(files=sandbox.files)
    return [*more.routes(besides), *details.routes(entries)]


def _link_routes(sandbox: Sandbox, *, opened: bool) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import links
    from sandkeeper.api.edge.tickets.signing import Signer
    from sandkeeper.linux.clocks import Ratchet

    state, now = sandbox.settings.state_dir, Ratchet().now
    handlers = links.FileLinkHandlers(
        files=sandbox.files,
        plain=_file_handlers(sandbox),
        signer=Signer(state / "ports.key", sandbox.settings.rights.tokens, now),
        generation=links.Generation(state / "links.generation"),
        now=now,
    )
    return links.opened_routes(handlers) if opened else links.routes(handlers)


def _upload_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import uploads

    sessions = uploads.UploadHandlers(
        files=sandbox.files,
        uploads=sandbox.uploads,
        body_limit=sandbox.settings.body_limit,
        stopping=sandbox.stopping,
    )
    return uploads.routes(sessions)


def _search_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import search

    finding = search.SearchHandlers(
        search=sandbox.search,
        grep=sandbox.grep,
        files=sandbox.files,
        stopping=sandbox.stopping,
    )
    return search.routes(finding)


def _watch_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.files import watch

    noticing = watch.WatchHandlers(
        watches=sandbox.watches, changes=sandbox.changes, turns=sandbox.turns, files=sandbox.files
    )
    return watch.routes(noticing)


def _network_routes(sandbox: Sandbox, doors: "Doors") -> list[BaseRoute]:
    from sandkeeper.api.blaxel import network, tunnel
    from sandkeeper.api.edge.subject import Gateways
    from sandkeeper.api.port import links, tcp

    held = network.NetworkHandlers(
        ports=sandbox.ports, monitors=sandbox.monitors, body_limit=sandbox.settings.body_limit
    )
    way = tunnel.TunnelHandlers(tunnel=sandbox.tunnel, access=sandbox.access)
    opened = links.LinkHandlers(
        tickets=doors.tickets,
        names=sandbox.settings.edge.port_names,
        gateways=Gateways(sandbox.settings.edge.gateways),
        access=sandbox.access,
        body_limit=sandbox.settings.body_limit,
    )
    bare = tcp.TcpHandlers(relay=sandbox.relay, access=sandbox.access)
    return [*network.routes(held), *links.routes(opened), *tcp.routes(bare), *tunnel.routes(way)]


def _port_routes(sandbox: Sandbox, doors: "Doors", areas: Areas) -> list[BaseRoute]:
    from sandkeeper.api.port.instead import Instead
    from sandkeeper.api.port.proxy import PortRoute

    settings = sandbox.settings
    instead = Instead(
        settings.code_ports,
        frozenset(settings.ports_besides),
        lambda: [*areas.below("execute"), *areas.below("contexts")],
    )
    return [PortRoute(settings, sandbox.relay, doors, instead)]


def _environment_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import environment

    variables = environment.EnvironmentHandlers(
        reload=sandbox.environment_reload, access=sandbox.access
    )
    return environment.routes(variables)


def _codegen_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import codegen

    code = codegen.CodegenHandlers(
        codegen=sandbox.codegen,
        files=sandbox.files,
        access=sandbox.access,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return codegen.routes(code)


def _drive_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import drives

    mounts = drives.DriveHandlers(
        drives=sandbox.drives,
        access=sandbox.access,
        body_limit=sandbox.settings.body_limit,
        apart=sandbox.identity is not None,
    )
    return drives.routes(mounts)


def _archive_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import archive

    return archive.routes(archive.ArchiveHandlers(partial(_archive_calls, sandbox)))


def _archive_calls(sandbox: Sandbox) -> "ArchiveCalls":
    from sandkeeper.api.blaxel.archive_calls import ArchiveCalls

    return ArchiveCalls(
        archive=sandbox.archive,
        access=sandbox.access,
        work=sandbox.file_work,
        body_limit=sandbox.settings.body_limit,
    )


def _terminal_areas(sandbox: Sandbox) -> list[Area]:
    """Return those of terminals: none when they are switched off."""
    if not sandbox.settings.terminal.enabled:
        return []
    return [
        Area(("terminal",), lambda: _pages(sandbox).terminal()),
        Area(("terminals",), partial(_terminal_routes, sandbox)),
    ]


def _pages(sandbox: Sandbox) -> "PageAreas":
    from sandkeeper.api.page_areas import PageAreas

    return PageAreas(sandbox)


def _terminal_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import terminals

    handlers = terminals.TerminalHandlers(
        terminals=sandbox.terminals,
        access=sandbox.access,
        stopping=sandbox.stopping,
        users=sandbox.users,
        turns=sandbox.turns,
    )
    return terminals.routes(handlers)


def _mcp_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.mcp import edge

    return edge.routes(edge.McpHandlers(partial(_tool_server, sandbox), sandbox.stopping))


def _looking_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import observability

    looks = observability.ObservabilityHandlers(
        readiness=sandbox.readiness, vitals=sandbox.vitals, history=sandbox.history
    )
    return observability.routes(looks)


def _server_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import system

    itself = system.SystemHandlers(
        lifetime=sandbox.lifetime, upgrade=sandbox.upgrade, access=sandbox.access
    )
    return system.routes(itself, development=sandbox.environment.get("BL_ENV") == "dev")


def _description_routes(sandbox: Sandbox, areas: Areas) -> list[BaseRoute]:
    from sandkeeper.api.blaxel import swagger
    from sandkeeper.api.blaxel.description import Address

    handlers = swagger.SwaggerHandlers(
        address=Address.of(sandbox.environment.snapshot()),
        origins=sandbox.settings.edge.origins,
        described=areas.routes_in_turn,
    )
    return swagger.routes(handlers)


def all_tools(sandbox: Sandbox) -> "list[Tool]":
    """Return every tool of `/mcp`; loads what they need."""
    from sandkeeper.api.mcp import code, files, processes, terminals, waiting

    access, mcp_wait = sandbox.access, sandbox.settings.mcp_wait
    held = processes.ProcessTools(
        processes=sandbox.processes,
        waiting=sandbox.waiting,
        access=access,
        settings=sandbox.settings,
        users=sandbox.users,
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
    made = [*processes.tools(held), *waiting.tools(waits), *code_tools(sandbox)]
    made += [*files.tools(files.FileTools(sandbox.files)), *code.tools(edits)]
    made += git_tools(sandbox)
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
