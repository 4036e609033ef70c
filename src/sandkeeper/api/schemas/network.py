"""Wire structs of the network area."""

from typing import Any

import msgspec

from sandkeeper.network.sockets import Socket, is_routable

__all__ = ["ListeningPort", "MonitorReply", "MonitorRequest", "PortInfo", "ProcessPorts"]


class PortInfo(msgspec.Struct, rename="camel"):
    """One socket; `pid` is the process that holds it, a listener has no remote end."""

    pid: int
    protocol: str
    local_addr: str
    local_port: int
    remote_addr: str
    remote_port: int
    state: str
    process_name: str

    @classmethod
    def of(cls, one: Socket) -> "PortInfo":
        """Translate a socket."""
        return cls(**_fields(one))


class ListeningPort(PortInfo):
    """A socket that waits for others; `routable` says whether others can reach it."""

    routable: bool

    @classmethod
    def of(cls, one: Socket) -> "ListeningPort":
        """Translate a socket."""
        return cls(**_fields(one), routable=is_routable(one.state, one.local_addr))


class ProcessPorts(msgspec.Struct):
    """The sockets of a process tree."""

    pid: int
    ports: list[PortInfo]


class MonitorRequest(msgspec.Struct):
    """Whom to tell of new ports."""

    callback: str = ""


class MonitorReply(msgspec.Struct):
    """The contract's success message."""

    path: str
    message: str


def _fields(one: Socket) -> dict[str, Any]:
    return {name: getattr(one, name) for name in PortInfo.__struct_fields__}
