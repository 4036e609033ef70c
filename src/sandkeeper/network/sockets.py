"""Sockets and who owns them.

The kernel names each socket by its inode, in sock_diag(7) or, where that is missing, in
/proc/net/{tcp,tcp6,udp,udp6} (proc_pid_net(5)); /proc/<pid>/fd links to the same inodes
(proc_pid_fd(5)). Joined they say which process holds which socket, without a helper program. Only
sockets of the server's own network namespace are seen: no others can be reached from it.
"""

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from sandkeeper.linux.addresses import is_loopback
from sandkeeper.linux.procs import Process, Trees, read_processes, tree_of
from sandkeeper.network import sockdiag
from sandkeeper.network.sockdiag import Row

__all__ = [
    "Socket",
    "TreePorts",
    "is_routable",
    "listeners",
    "listening_addresses",
    "listening_trees",
    "routable_ports",
    "sockets_of",
]

TABLES = (
    ("tcp", "tcp", socket.AF_INET, socket.IPPROTO_TCP),
    ("tcp", "tcp6", socket.AF_INET6, socket.IPPROTO_TCP),
    ("udp", "udp", socket.AF_INET, socket.IPPROTO_UDP),
    ("udp", "udp6", socket.AF_INET6, socket.IPPROTO_UDP),
)
STATES = (
    *("", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN"),
    *("CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV"),
)
"""The names ss(8) gives to the kernel's numbers (net/tcp_states.h)."""
WAITING = frozenset({"", "LISTEN", "UNCONN"})
READ_BYTES = 1 << 16


class Socket(msgspec.Struct, frozen=True):
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


def is_routable(state: str, address: str) -> bool:
    """Say whether a socket can be reached from outside: it waits, and not on loopback."""
    return state in WAITING and not is_loopback(address)


def sockets_of(pid: int, *, waiting_only: bool = False) -> list[Socket]:
    """Return the sockets of a process, its descendants, group and session.

    Blocks (some milliseconds for a thousand sockets): call it in a thread. A socket that several
    processes share is told once, for the eldest. Raises OSError when /proc cannot be read.
    """
    processes = read_processes()
    return _join(tree_of(pid, processes), processes, waiting_only=waiting_only)


def listeners() -> list[Socket]:
    """Return all sockets that wait for others; pid 0 and no name where the holder is hidden."""
    processes = read_processes()
    return _join(sorted(processes), processes, waiting_only=True, orphans=True)


def routable_ports(pid: int) -> set[int]:
    """Return the ports on which the tree of `pid` can be reached from outside; blocks."""
    found = sockets_of(pid, waiting_only=True)
    return {one.local_port for one in found if is_routable(one.state, one.local_addr)}


def listening_addresses(port: int) -> list[str]:
    """Return the addresses other than wildcards that someone listens on for TCP; blocks."""
    found = [
        row.local_addr
        for protocol, row in _rows(waiting_only=True)
        if protocol == "tcp" and row.local_port == port
    ]
    return [address for address in found if address not in {"0.0.0.0", "::", "*"}]


class TreePorts(NamedTuple):
    """The ports a process tree listens on, and those of them that others can reach."""

    listening: set[int]
    routable: set[int]


def listening_trees(pids: Iterable[int]) -> dict[int, TreePorts | None]:
    """Return what each tree listens on, in one pass for all; None: nothing of it lives."""
    processes = read_processes()
    whole = Trees(processes)
    trees = {pid: whole.of(pid) for pid in pids}
    members = dict.fromkeys(member for tree in trees.values() for member in tree)
    ports: dict[int, TreePorts] = {}
    owners = _owners(members, all_holders=True)
    for _, row in _rows(waiting_only=True) if owners else ():
        for holder in owners.get(row.inode, ()):
            mine = ports.setdefault(holder, TreePorts(set(), set()))
            mine.listening.add(row.local_port)
            if not is_loopback(row.local_addr):
                mine.routable.add(row.local_port)
    return {pid: _of_tree(tree, processes, ports) for pid, tree in trees.items()}


def _of_tree(
    tree: list[int], processes: Mapping[int, Process], ports: Mapping[int, TreePorts]
) -> TreePorts | None:
    if not any(processes[member].alive for member in tree if member in processes):
        return None
    found = [ports[member] for member in tree if member in ports]
    return TreePorts(
        set().union(*(one.listening for one in found)),
        set().union(*(one.routable for one in found)),
    )


def _join(
    pids: Iterable[int],
    processes: Mapping[int, Process],
    *,
    waiting_only: bool,
    orphans: bool = False,
) -> list[Socket]:
    owners = _owners(pids)
    if not owners and not orphans:
        return []
    found: dict[tuple[object, ...], Socket] = {}
    for protocol, row in _rows(waiting_only):
        holders = owners.get(row.inode)
        if holders or orphans:
            made = _socket(protocol, row, processes.get(holders[0] if holders else 0))
            found.setdefault(_key(made), made)
    return list(found.values())


def _key(one: Socket) -> tuple[object, ...]:
    """What tells two sockets apart: several processes may listen on one port (SO_REUSEPORT)."""
    remote = (one.remote_addr, one.remote_port)
    return (one.protocol, one.local_addr, one.local_port, *remote, one.state)


def _socket(protocol: str, row: Row, holder: Process | None) -> Socket:
    state = STATES[row.state] if row.state < len(STATES) else "UNKNOWN"
    waiting = state in WAITING
    return Socket(
        pid=holder.pid if holder else 0,
        process_name=holder.name if holder else "",
        protocol=protocol,
        local_addr=row.local_addr,
        local_port=row.local_port,
        remote_addr="" if waiting else row.remote_addr,
        remote_port=0 if waiting else row.remote_port,
        state=state,
    )


def _owners(pids: Iterable[int], *, all_holders: bool = False) -> dict[int, list[int]]:
    """Map the inodes of sockets to the first of `pids` that holds them, or to all that do."""
    owners: dict[int, list[int]] = {}
    # A thread that acts for somebody else may still look at its own process, which they could not.
    hidden = os.getpid() if os.geteuid() != os.getuid() else 0
    for pid in pids:
        if pid == hidden:
            continue
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
                holders = owners.setdefault(int(target[8:-1]), [])
                if all_holders or not holders:
                    holders.append(pid)
    return owners


def _rows(waiting_only: bool) -> Iterator[tuple[str, Row]]:
    """Yield each socket with its protocol, by sock_diag where the kernel has it, else by /proc."""
    states = sockdiag.WAITING if waiting_only else sockdiag.ALL
    for protocol, table, family, number in TABLES:
        try:
            rows = list(sockdiag.dump(family, number, states))
        except OSError:
            rows = [row for row in _table(table) if states >> row.state & 1]
        for row in rows:
            yield protocol, row


def _table(name: str) -> Iterator[Row]:
    """Yield the rows of a table of /proc/net; a kernel without IPv6 has none for it."""
    try:
        data = _read(f"/proc/self/net/{name}")
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[1:]:
        fields = line.split(None, 10)
        if len(fields) >= 10 and fields[9] != b"0":
            state = int(fields[3], 16)
            yield Row(int(fields[9]), state, *_endpoint(fields[1]), *_endpoint(fields[2]))


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
