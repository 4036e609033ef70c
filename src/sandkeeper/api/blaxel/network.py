"""Ports of processes, monitors with callbacks, all listening ports."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, route
from sandkeeper.api.schemas.network import (
    ListeningPort,
    MonitorReply,
    MonitorRequest,
    PortInfo,
    ProcessPorts,
)
from sandkeeper.errors import BadInput, Unprocessable
from sandkeeper.network.monitors import PortMonitors
from sandkeeper.network.ports import Ports
from sandkeeper.numerals import atoi

__all__ = ["NetworkHandlers", "routes"]


def _pid(request: Request) -> int:
    """Read the pid as Go's strconv.Atoi does; raises BadInput `invalid PID`."""
    try:
        return atoi(request.path_params["pid"])
    except ValueError:
        raise BadInput("invalid PID") from None


class NetworkHandlers:
    """Handlers over the port services."""

    def __init__(self, *, ports: Ports, monitors: PortMonitors, body_limit: int) -> None:
        self._ports = ports
        self._monitors = monitors
        self._body_limit = body_limit

    async def of_process(self, request: Request) -> Response:
        """Tell the sockets of a process tree; an unknown pid has none."""
        pid = _pid(request)
        try:
            found = await self._ports.of_tree(pid)
        except OSError as error:
            raise Unprocessable(f"could not read the sockets: {error.strerror}") from error
        return json_response(ProcessPorts(pid, [PortInfo.of(one) for one in found]))

    async def all(self, _request: Request) -> Response:
        """Tell every socket of the sandbox that waits for others, by port."""
        try:
            found = await self._ports.listeners()
        except OSError as error:
            raise Unprocessable(f"could not read the sockets: {error.strerror}") from error
        found.sort(key=lambda one: (one.local_port, one.protocol, one.local_addr))
        return json_response({"ports": [ListeningPort.of(one) for one in found]})

    async def monitor(self, request: Request) -> Response:
        """Begin to tell a callback of new ports."""
        pid = _pid(request)
        wanted = await read_json(request, MonitorRequest, self._body_limit)
        await self._monitors.add(pid, wanted.callback)
        return json_response(MonitorReply("", "Port monitoring started"))

    async def stop(self, request: Request) -> Response:
        """Stop telling anyone of this process."""
        self._monitors.remove(_pid(request))
        return json_response(MonitorReply("", "Port monitoring stopped"))


def routes(handlers: NetworkHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/network/ports", handlers.all, need=USER),
        route("/network/process/{pid}/ports", handlers.of_process, need=USER),
        route("/network/process/{pid}/ports", empty_head, "HEAD", need=USER),
        route("/network/process/{pid}/monitor", handlers.monitor, "POST", need=USER),
        route("/network/process/{pid}/monitor", handlers.stop, "DELETE", need=USER),
    ]
