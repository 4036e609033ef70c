"""What E2B's two wires are given: the services inside a sandbox, and the control plane."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.control.calls import ControlCalls
    from sandkeeper.api.control.machine import ThisMachine
    from sandkeeper.api.e2b.defaults import DefaultsStore
    from sandkeeper.api.e2b.server import E2bServer

__all__ = ["E2bWires", "e2b_areas", "e2b_wires"]


class E2bWires:
    """Makes both when they are asked for; event loop's thread only, but for `_server`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._defaults: DefaultsStore | None = None
        self._machine: ThisMachine | None = None

    def inside(self) -> list[BaseRoute]:
        """Return the routes inside a sandbox."""
        from sandkeeper.api.e2b.routes import E2bDoor, routes

        return routes(E2bDoor(self._server))

    def control(self) -> list[BaseRoute]:
        """Return those of the control plane."""
        from sandkeeper.api.control.routes import ControlDoor, routes

        return routes(ControlDoor(self._calls))

    async def machine(self) -> "ThisMachine":
        """Return this machine as a source of sandboxes."""
        if self._machine is None:
            from sandkeeper.api.control.machine import ThisMachine
            from sandkeeper.linux.children.adopted import boot_id
            from sandkeeper.observability.machine_use import MachineUse

            sandbox = self._sandbox
            self._machine = ThisMachine(
                state=sandbox.settings.state_dir,
                boot=boot_id(),
                log=sandbox.log,
                processes=sandbox.processes,
                terminals=sandbox.terminals,
                users=sandbox.users,
                use=MachineUse(),
                set_env=self._set_env,
                token=sandbox.settings.rights.token,
            )
            self._machine.begin()
        return self._machine

    def variables(self) -> Mapping[str, str]:
        """Return the variables of the sandbox, which all its programs have."""
        return self._kept_defaults().now.env_vars

    def folder(self) -> str:
        """Return where the code of E2B's clients begins: its user's home unless `/init` says."""
        return self._kept_defaults().now.workdir or "~"

    def _set_env(self, env: Mapping[str, str], trusted: bool) -> None:
        self._kept_defaults().set_env(env, trusted=trusted)

    async def _calls(self) -> "ControlCalls":
        from sandkeeper.api.control.calls import ControlCalls
        from sandkeeper.api.edge.rights import Right, standing_of

        machine = await self.machine()
        return ControlCalls(
            lambda request: machine if standing_of(request).right >= Right.USER else None,
            self._sandbox.access,
        )

    async def _away(self, name: str) -> str:
        from sandkeeper.api.control.machine import is_one_of_ours

        return (await self.machine()).away(name) if is_one_of_ours(name) else ""

    def _kept_defaults(self) -> "DefaultsStore":
        from sandkeeper.api.e2b.defaults import DefaultsStore

        if self._defaults is None:
            self._defaults = DefaultsStore(self._sandbox.settings.state_dir, self._sandbox.log)
        return self._defaults

    def _server(self) -> "E2bServer":
        """Load what answers E2B's clients inside a sandbox; blocks."""
        return _server_of(self._sandbox, self._kept_defaults(), self._away)


def _server_of(
    sandbox: Sandbox, defaults: "DefaultsStore", away: Callable[[str], Awaitable[str]]
) -> "E2bServer":
    from sandkeeper.api.e2b.files import FileCalls
    from sandkeeper.api.e2b.filesystem import FilesystemService
    from sandkeeper.api.e2b.people import People
    from sandkeeper.api.e2b.process import ProcessService
    from sandkeeper.api.e2b.server import E2bServer
    from sandkeeper.api.e2b.system import SystemCalls
    from sandkeeper.observability.machine_use import MachineUse

    rights, users, files = sandbox.settings.rights, sandbox.users, sandbox.files
    access, turns = sandbox.access, sandbox.turns
    people = People(users, sandbox.environment, defaults)
    process = ProcessService(
        processes=sandbox.processes,
        terminals=sandbox.terminals,
        files=files,
        people=people,
        environment=sandbox.environment,
        access=access,
        turns=turns,
    )
    filesystem = FilesystemService(
        files=files,
        copies=sandbox.copies,
        watches=sandbox.watches,
        people=people,
        access=access,
        turns=turns,
    )
    return E2bServer(
        process=process,
        filesystem=filesystem,
        files=FileCalls(files=files, people=people, users=users),
        system=SystemCalls(defaults=defaults, rights=rights, users=users, use=MachineUse()),
        people=people,
        users=users,
        rights=rights,
        away=away,
    )


def e2b_wires(sandbox: Sandbox) -> "Callable[[], E2bWires]":
    """Return what makes them when they are first asked for."""

    @cache
    def wires() -> E2bWires:
        return E2bWires(sandbox)

    return wires


def e2b_areas(sandbox: Sandbox, wires: "Callable[[], E2bWires]") -> list[Area]:
    """Return those of E2B's clients: none when they are switched off."""
    settings = sandbox.settings
    if not settings.e2b.enabled:
        return []
    if (settings.state_dir / "control.json").exists():  # there is a sandbox that has its time
        sandbox.when_started.append(lambda: wires().machine())
    inside = ("process.Process", "filesystem.Filesystem", "files", "envs", "init", "e2b")
    control = ("sandboxes", "v2", "templates", "volumes", "snapshots", "secrets")
    return [
        Area(inside, lambda: wires().inside(), own_words=True),
        Area(control, lambda: wires().control(), own_words=True),
    ]
