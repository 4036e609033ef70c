"""Sockets and who owns them, from /proc alone.

/proc/net/{tcp,tcp6,udp,udp6} name each socket by its inode (proc_pid_net(5)); /proc/<pid>/fd
links to the same inodes (proc_pid_fd(5)). Joined they say which process holds which socket,
without a helper program. Only sockets of the server's own network namespace are seen: no others
can be reached from it.
"""

import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from sandkeeper.core.procs import Process, read_processes, tree_of

__all__ = ["Socket", "is_loopback", "is_routable", "listeners", "routable_ports", "sockets_of"]

TABLES = (("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6"))
STATES = {
    b"01": "ESTAB",
    b"02": "SYN-SENT",
    b"03": "SYN-RECV",
    b"04": "FIN-WAIT-1",
    b"05": "FIN-WAIT-2",
    b"06": "TIME-WAIT",
    b"07": "UNCONN",
    b"08": "CLOSE-WAIT",
    b"09": "LAST-ACK",
    b"0A": "LISTEN",
    b"0B": "CLOSING",
    b"0C": "SYN-RECV",
}
WAITING = frozenset({"", "LISTEN", "UNCONN"})
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Socket:
    """A TCP or UDP socket and the process that holds it; no remote end is `""` and 0."""

    pid: int
    process_name: str
    protocol: str
    local_addr: str
    local_port: int
    remote_addr: str
    remote_port: int
    state: str

    @property
    def listening(self) -> bool:
        """Whether it waits for others: LISTEN, or a bound UDP socket without a peer."""
        return self.state in WAITING


def is_loopback(address: str) -> bool:
    """Say whether only this machine reaches `address`; brackets and zones (`%lo`) are ignored."""
    bare = address.strip("[]").partition("%")[0]
    try:
        parsed = ip_address(bare)
    except ValueError:
        return bare == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def is_routable(state: str, address: str) -> bool:
    """Say whether a socket can be reached from outside: it waits, and not on loopback."""
    return state in WAITING and not is_loopback(address)


def sockets_of(pid: int) -> list[Socket]:
    """Return the sockets of a process, its descendants, group and session.

    Blocks (some milliseconds for a thousand sockets): call it in a thread. A socket that several
    processes share is told once, for the eldest. Raises OSError when /proc/net cannot be read.
    """
    processes = read_processes()
    return _join(tree_of(pid, processes), processes, listening_only=False)


def listeners() -> list[Socket]:
    """Return all sockets that wait for others; pid 0 and no name where the holder is hidden."""
    processes = read_processes()
    return _join(sorted(processes), processes, listening_only=True, orphans=True)


def routable_ports(pid: int) -> set[int]:
    """Return the ports on which the tree of `pid` can be reached from outside; blocks."""
    return {one.local_port for one in sockets_of(pid) if is_routable(one.state, one.local_addr)}


def _join(
    pids: Iterable[int],
    processes: Mapping[int, Process],
    *,
    listening_only: bool,
    orphans: bool = False,
) -> list[Socket]:
    owners = _owners(pids)
    if not owners and not orphans:
        return []
    found: dict[tuple[object, ...], Socket] = {}
    for protocol, table in TABLES:
        for inode, local, remote, state in _rows(table, listening_only):
            pid = owners.get(inode)
            if pid is None and not orphans:
                continue
            pid = pid or 0
            name = processes[pid].name if pid in processes else ""
            made = _socket(pid, name, protocol, local, remote, state)
            found.setdefault(_key(made), made)
    return list(found.values())


def _key(one: Socket) -> tuple[object, ...]:
    """What tells two sockets apart: several processes may listen on one port (SO_REUSEPORT)."""
    remote = (one.remote_addr, one.remote_port)
    return (one.protocol, one.local_addr, one.local_port, *remote, one.state)


def _socket(pid: int, name: str, protocol: str, local: bytes, remote: bytes, state: str) -> Socket:
    address, port = _endpoint(local)
    peer, peer_port = ("", 0) if state in WAITING else _endpoint(remote)
    return Socket(pid, name, protocol, address, port, peer, peer_port, state)


def _owners(pids: Iterable[int]) -> dict[bytes, int]:
    """Map the inodes of sockets to the first of `pids` that holds them."""
    owners: dict[bytes, int] = {}
    for pid in pids:
        folder = b"/proc/%d/fd/" % pid
        try:
            numbers = os.listdir(folder)
        except OSError:  # it has ended, or belongs to another user
            continue
        for number in numbers:
            try:
                target = os.readlink(folder + number)
            except OSError:
                continue
            if target.startswith(b"socket:["):
                owners.setdefault(target[8:-1], pid)
    return owners


def _rows(table: str, listening_only: bool) -> Iterable[tuple[bytes, bytes, bytes, str]]:
    """Yield (inode, local, remote, state) of each socket of a table; IPv6 may be absent."""
    try:
        data = _read(f"/proc/self/net/{table}")
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[1:]:
        fields = line.split(None, 10)
        if len(fields) < 10:
            continue
        state = STATES.get(fields[3], "UNKNOWN")
        if not listening_only or state in WAITING:
            yield fields[9], fields[1], fields[2], state


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, READ_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def _endpoint(text: bytes) -> tuple[str, int]:
    address, _, port = text.partition(b":")
    return _address(address), int(port, 16)


@lru_cache(maxsize=4096)
def _address(text: bytes) -> str:
    """Translate the kernel's hexadecimal words, which stand in the machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
