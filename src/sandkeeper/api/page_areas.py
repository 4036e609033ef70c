"""What the pages for people are given: the console and the terminal page."""

from starlette.routing import BaseRoute

from sandkeeper.api.console import pages, session, terminal
from sandkeeper.api.console.terminal_page import TerminalPage
from sandkeeper.api.console.terminal_socket import TerminalSocket
from sandkeeper.api.edge.auth import Accepted
from sandkeeper.api.port.pages import Doors
from sandkeeper.sandbox import Sandbox

__all__ = ["PageAreas"]


class PageAreas:
    """The routes of pages, made on a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def console(self, doors: Doors) -> list[BaseRoute]:
        """Return the console's page and what signs in at it."""
        sandbox, settings = self._sandbox, self._sandbox.settings
        handlers = session.SessionHandlers(
            sessions=doors.sessions,
            accepted=Accepted(settings.rights, apart=sandbox.identity is not None),
            access=sandbox.access,
            facts=session.Facts(
                workdir=settings.workdir,
                home=sandbox.environment.get("HOME", ""),
                identity=sandbox.identity,
                terminals=settings.terminal.enabled,
            ),
        )
        return [*pages.routes(pages.Pages(settings.edge.origins)), *session.routes(handlers)]

    def terminal(self) -> list[BaseRoute]:
        """Return the terminal page and its WebSocket."""
        sandbox = self._sandbox
        page = TerminalPage(sandbox.settings.edge.origins)
        socket = TerminalSocket(
            terminals=sandbox.terminals, access=sandbox.access, users=sandbox.users
        )
        return terminal.routes(page, socket)
