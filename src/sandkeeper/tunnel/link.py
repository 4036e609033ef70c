"""The tunnel's interface, by netlink: everything here blocks and runs in a worker thread.

The kernel's WireGuard is used where there is one; else wireguard-go serves a TUN device and is
configured over its socket (the cross-platform interface of WireGuard).
"""

import base64
import errno
import ipaddress
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from sandkeeper.tunnel.config import Network, TunnelConfig
from sandkeeper.tunnel.routes import blocked_networks, covers, tunnel_networks

__all__ = ["Link", "Route", "bring_up", "index_of", "make_kernel_link", "remove", "set_keys"]

SOCKETS = "/var/run/wireguard"
SOCKET_SECONDS = 5.0
PORT_SECONDS = 3.0
PORT_POLL = 10
"""Milliseconds between two looks."""
UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENODEV, errno.EAFNOSUPPORT, errno.EINVAL}


class Route(msgspec.Struct, frozen=True):
    """A route of ours that is not on the interface and so does not vanish with it."""

    network: str
    kind: str = "unicast"
    gateway: str = ""
    device: int = 0

    def arguments(self) -> dict[str, Any]:
        """Return it in pyroute2's words."""
        version = ipaddress.ip_network(self.network).version
        found: dict[str, Any] = {
            "dst": self.network,
            "family": socket.AF_INET if version == 4 else socket.AF_INET6,
        }
        if self.kind != "unicast":
            found["type"] = self.kind
        if self.gateway:
            found["gateway"] = self.gateway
        if self.device:
            found["oif"] = self.device
        return found


class Link(msgspec.Struct):
    """An interface of ours; `control` names the socket of wireguard-go, which runs as `pid`.

    Both are empty for the kernel's WireGuard.
    """

    index: int
    control: str = ""
    pid: int = 0
    routes: list[Route] = msgspec.field(default_factory=list)


def _netlink() -> Any:
    from pyroute2 import IPRoute  # 0.1 s and several megabytes: only who has a tunnel pays

    return IPRoute()


def index_of(name: str) -> int:
    """Return the index of an interface, or 0."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def make_kernel_link(name: str) -> Link | None:
    """Make an interface of the kernel's WireGuard; None where the kernel has none.

    Raises OSError.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as netlink:
        try:
            netlink.link("add", ifname=name, kind="wireguard")
        except NetlinkError as error:
            if error.code in UNSUPPORTED:
                return None
            raise OSError(error.code, os.strerror(error.code)) from None
    return Link(index_of(name))


def set_keys(link: Link, name: str, config: TunnelConfig, address: str) -> None:
    """Give the interface its key and its peer; raises OSError."""
    if link.control:
        _ask(link.control, _settings(config, address))
        return
    from pyroute2 import WireGuard
    from pyroute2.netlink.exceptions import NetlinkError

    peer = {
        "public_key": base64.b64encode(config.peer_public_key).decode(),
        "endpoint_addr": address,
        "endpoint_port": config.peer_port,
        "persistent_keepalive": config.keepalive,
        "allowed_ips": [str(network) for network in config.allowed_ips],
    }
    key = base64.b64encode(config.private_key).decode()
    try:
        with WireGuard() as wireguard:
            wireguard.set(name, private_key=key, listen_port=config.listen_port, peer=peer)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def _settings(config: TunnelConfig, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    lines = [
        "set=1",
        f"private_key={config.private_key.hex()}",
        "replace_peers=true",
        f"public_key={config.peer_public_key.hex()}",
        f"endpoint={host}:{config.peer_port}",
        f"persistent_keepalive_interval={config.keepalive}",
        "replace_allowed_ips=true",
        *(f"allowed_ip={network}" for network in config.allowed_ips),
    ]
    return "\n".join(lines)


def _ask(control: str, request: str) -> dict[str, str]:
    """Send one request to wireguard-go; raises OSError with the number it answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOCKET_SECONDS)
        sock.connect(f"{SOCKETS}/{control}.sock")
        sock.sendall(request.encode() + b"\n\n")
        data = b""
        while not data.endswith(b"\n\n") and len(data) < 1 << 20:
            chunk = sock.recv(65536)
            if not chunk:
                break
            data += chunk
    answer = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
    number = abs(int(answer.get("errno", str(errno.EIO))))
    if number:
        raise OSError(number, os.strerror(number))
    return answer


def bring_up(link: Link, config: TunnelConfig, address: str) -> None:
    """Give a configured interface its name, address and routes; raises OSError.

    What has been done is in `link`, so that `remove` undoes a half-finished one as well.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with _netlink() as netlink:
            _bring_up(netlink, link, config, address)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
    if link.control:
        # Only now: the tunnel of before may have held the same port.
        _ask(link.control, f"set=1\nlisten_port={config.listen_port}")
        _wait_for_port(link.pid, config.listen_port)


def _wait_for_port(pid: int, port: int) -> None:
    """Wait until wireguard-go has its port.

    Asked before its device is up, it binds some time later and tells nobody when that fails; only
    its descriptors show it.
    """
    poller = select.poll()
    for _ in range(int(PORT_SECONDS * 1000 / PORT_POLL)):
        if _sockets_on(port) & _sockets_of(pid):
            return
        poller.poll(PORT_POLL)
    raise OSError(errno.EADDRINUSE, f"port {port} is in use")


def _sockets_on(port: int) -> set[str]:
    """Return the inodes of UDP sockets bound to a port (proc_net(5))."""
    found = set()
    for table in ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"):
        with suppress(OSError), open(table, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _sockets_of(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(entry.path).removeprefix("socket:[").removesuffix("]"))
    return found


def _bring_up(netlink: Any, link: Link, config: TunnelConfig, address: str) -> None:
    networks = tunnel_networks(config)
    if covers(networks, address):
        _pin(netlink, link, address)
    netlink.link("set", index=link.index, ifname=config.interface_name, mtu=config.mtu)
    local = config.local_ip
    netlink.addr("add", index=link.index, address=str(local.ip), prefixlen=local.network.prefixlen)
    netlink.link("set", index=link.index, state="up")
    for network in networks:
        with suppress_exists():
            netlink.route("add", **Route(str(network), device=link.index).arguments())
    for network in blocked_networks(config):
        _block(netlink, link, network)


def _pin(netlink: Any, link: Link, address: str) -> None:
    """Keep the way to the peer itself outside of the tunnel, whatever the tunnel takes."""
    from pyroute2.netlink.exceptions import NetlinkError

    version = ipaddress.ip_address(address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        found = next(iter(netlink.route("get", dst=address, family=family)))
    except (NetlinkError, StopIteration):
        raise OSError(errno.ENETUNREACH, "no route to the peer") from None
    if found["type"] != 1:  # RTN_UNICAST; an address of this machine needs no route
        return
    route = Route(
        f"{address}/{32 if version == 4 else 128}",
        gateway=found.get_attr("RTA_GATEWAY") or "",
        device=found.get_attr("RTA_OIF") or 0,
    )
    with suppress_exists():  # the operator's own host route does the same, and stays the operator's
        netlink.route("add", **route.arguments())
        link.routes.append(route)


def _block(netlink: Any, link: Link, network: Network) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    route = Route(str(network), "unreachable")
    try:
        netlink.route("add", **route.arguments())
    except NetlinkError as error:
        # Without that family in the kernel there is nothing to block.
        if error.code not in UNSUPPORTED | {errno.EEXIST, errno.EACCES, errno.EPERM}:
            raise
    else:
        link.routes.append(route)


class suppress_exists:
    """Pass over a route that is there already."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        return getattr(error, "code", None) == errno.EEXIST


def remove(index: int, routes: Sequence[Route]) -> None:
    """Take an interface and the routes beside it away; what is gone already is fine.

    Raises OSError. wireguard-go ends by itself when its device is gone.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    gone = {errno.ENODEV, errno.ESRCH, errno.ENOENT}
    with _netlink() as netlink:
        for route in routes:
            with suppress(NetlinkError):
                netlink.route("del", **route.arguments())
        try:
            if index:
                netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code not in gone:
                raise OSError(error.code, os.strerror(error.code)) from None
