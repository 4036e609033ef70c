"""The network of a machine without any init: the loopback, and what the kernel's command line says.

`ip=` is the parameter of Documentation/admin-guide/nfs/nfsroot.rst, which distributions' kernels do
not obey themselves:

    ip=<address>:<server>:<gateway>:<netmask>:<host name>:<device>:…

An address without a netmask may have a prefix length instead (10.0.2.15/24). `off`, `none`, `dhcp`
and its like set nothing here.
"""

import fcntl
import os
import re
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Interface

__all__ = ["loopback_up", "set_up_network"]

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)


def loopback_up() -> list[str]:
    """Switch the loopback device on; returns what went wrong."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            asked = struct.pack("16sH22x", b"lo", 0)
            _, flags = struct.unpack("16sH22x", fcntl.ioctl(sock, SIOCGIFFLAGS, asked))
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
    except OSError as error:
        return [f"there is no loopback: {error.strerror}"]
    return []


def set_up_network(cmdline: str) -> list[str]:
    """Give the device of `ip=` its address and the way out; returns what went wrong."""
    found = re.search(r"(?:^|\s)ip=(\d\S*)", cmdline)
    if found is None:
        return []
    words: list[str] = [*str(found[1]).split(":"), *[""] * 6]
    address, gateway, netmask, device = words[0], words[2], words[3], words[5]
    try:
        given = IPv4Interface(f"{address}/{netmask}" if netmask else address)
        _set(device or _first_device(), given, gateway)
    except (OSError, ValueError) as error:
        return [f"ip={found[1]}: {getattr(error, 'strerror', None) or error}"]
    return []


def _first_device() -> str:
    names = sorted(name for name in os.listdir("/sys/class/net") if name != "lo")
    if not names:
        raise ValueError("there is no network device")
    return names[0]


def _set(device: str, address: IPv4Interface, gateway: str) -> None:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname=device) or (0,)
            if not index:
                raise ValueError(f"there is no device {device}")
            netlink.link("set", index=index, state="up")
            length = address.network.prefixlen
            netlink.addr("replace", index=index, address=str(address.ip), prefixlen=length)
            if gateway:
                netlink.route("replace", dst="default", gateway=gateway)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
    with suppress(FileExistsError), open("/etc/resolv.conf", "x", encoding="ascii") as file:
        file.write(f"nameserver {gateway}\n")
