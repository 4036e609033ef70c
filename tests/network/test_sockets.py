"""Sockets of real process trees: who owns them, and which can be reached from outside."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.harness import until

from sandkeeper.linux import procs, procstat
from sandkeeper.linux.procs import group_members, tree_of
from sandkeeper.network import sockdiag
from sandkeeper.network.sockets import (
    Socket,
    is_loopback,
    is_routable,
    listeners,
    routable_ports,
    sockets_of,
)

LISTEN = """
import signal, socket, sys
kept = []
for kind in sys.argv[1:]:
    family = socket.AF_INET6 if ':' in kind.partition('/')[2] else socket.AF_INET
    proto, _, address = kind.partition('/')
    sock = socket.socket(family, socket.SOCK_DGRAM if proto == 'udp' else socket.SOCK_STREAM)
    if proto == 'dual':
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, 0))
    if proto != 'udp':
        sock.listen()
    kept.append(sock)
    print(sock.getsockname()[1], flush=True)
signal.pause()
"""

Start = Callable[..., tuple[subprocess.Popen, list[int]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a shell in its own session that runs the listener as the given command line says."""
    made: list[subprocess.Popen] = []

    def run(*kinds: str, shell: str = '"$@"') -> tuple[subprocess.Popen, list[int]]:
        argv = [sys.executable, "-S", "-c", LISTEN, *kinds]
        child = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *argv],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        made.append(child)
        assert child.stdout is not None
        return child, [int(child.stdout.readline()) for _ in kinds]

    yield run
    for child in made:
        for pid in [*tree_of(child.pid), *group_members(child.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_a_listener_on_every_address_is_told_with_its_holder(start: Start) -> None:
    child, (port,) = start("tcp/0.0.0.0", shell='"$@" & wait')

    (found,) = sockets_of(child.pid)

    assert (found.protocol, found.local_addr, found.local_port) == ("tcp", "0.0.0.0", port)
    assert (found.remote_addr, found.remote_port, found.state) == ("", 0, "LISTEN")
    assert found.pid != child.pid
    assert found.process_name.startswith("python")


def test_ports_of_loopback_are_told_but_not_routable(start: Start) -> None:
    child, ports = start("tcp/127.0.0.1", "tcp/::1", "tcp/::ffff:127.0.0.1", "udp/127.0.0.1")

    assert sorted(one.local_port for one in sockets_of(child.pid)) == sorted(ports)
    assert routable_ports(child.pid) == set()


def test_tcp_and_bound_udp_of_both_families_are_routable(start: Start) -> None:
    child, ports = start("tcp/0.0.0.0", "tcp/::", "dual/::", "udp/0.0.0.0", "udp/::")

    assert routable_ports(child.pid) == set(ports)
    states = {one.local_port: (one.protocol, one.state) for one in sockets_of(child.pid)}
    assert states[ports[3]] == ("udp", "UNCONN")
    assert states[ports[1]] == ("tcp", "LISTEN")


def test_a_daemon_that_forked_twice_counts_by_its_group(start: Start) -> None:
    child, (port,) = start("tcp/0.0.0.0", shell='("$@" &) ; exec sleep 1000')

    (found,) = sockets_of(child.pid)
    parent = procs.read_process(found.pid)
    assert parent is not None
    assert parent.parent != child.pid
    assert routable_ports(child.pid) == {port}


def test_a_group_outlives_its_leader(start: Start) -> None:
    child, (port,) = start("tcp/0.0.0.0", shell='"$@" & exit 0')
    child.wait()

    assert procs.read_process(child.pid) is None
    assert routable_ports(child.pid) == {port}
    assert len(group_members(child.pid)) == 1


def test_another_tree_with_a_number_that_contains_ours_does_not_count() -> None:
    def one(pid: int, parent: int, group: int) -> procs.Process:
        return procs.Process(pid, parent, group, group, "S", 0, "x")

    table = {n: one(n, p, g) for n, p, g in [(12, 1, 12), (123, 1, 123), (1234, 123, 123)]}

    assert tree_of(12, table) == [12]
    assert tree_of(123, table) == [123, 1234]


def test_init_is_not_expanded_to_the_whole_machine(start: Start) -> None:
    start("tcp/0.0.0.0")

    assert tree_of(1) == [1]
    assert tree_of(0) == []
    assert tree_of(-5) == []


def test_a_zombie_is_no_member_of_its_group() -> None:
    child = subprocess.Popen(["/bin/true"], start_new_session=True)
    try:
        until(lambda: (seen := procs.read_process(child.pid)) and not seen.alive)
        assert group_members(child.pid) == []
    finally:
        child.wait()


def test_connections_do_not_hide_the_listener(start: Start) -> None:
    child, (port,) = start("tcp/127.0.0.1")
    with (
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)),
    ):
        mine = [one for one in sockets_of(os.getpid()) if one.remote_port == port]
        theirs = sockets_of(child.pid)

    assert [one.state for one in theirs] == ["LISTEN"]  # not accepted: held by no process
    assert [(one.state, one.remote_addr) for one in mine] == [("ESTAB", "127.0.0.1")] * 2


def test_both_ways_to_ask_the_kernel_tell_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_args: int) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "no sock_diag")

    kinds = ["tcp/0.0.0.0", "tcp/::1", "dual/::", "udp/127.0.0.1", "udp/::1", "tcp/127.0.0.1"]
    child, ports = start(*kinds)
    with socket.create_connection(("127.0.0.1", ports[-1])):
        fast = {*sockets_of(child.pid), *sockets_of(os.getpid())}
        monkeypatch.setattr(sockdiag, "dump", missing)
        slow = {*sockets_of(child.pid), *sockets_of(os.getpid())}

    assert len(fast) >= len(kinds) + 1
    # The text of /proc does not say whether an IPv6 wildcard serves IPv4.
    assert {replace(one, local_addr=one.local_addr.replace("*", "::")) for one in fast} == slow


def test_a_listener_bound_to_the_loopback_device_is_not_routable(start: Start) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        bound.bind(("0.0.0.0", 0))
        bound.listen()
        port = bound.getsockname()[1]

        assert any(one.local_addr == "0.0.0.0%lo" for one in sockets_of(os.getpid()))
        assert port not in routable_ports(os.getpid())


def test_all_listeners_of_the_machine_are_told_with_their_processes(start: Start) -> None:
    child, (port,) = start("tcp/127.0.0.1")

    found = listeners()

    assert any(one.local_port == port and one.pid in tree_of(child.pid) for one in found)
    assert all(one.listening for one in found)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        *[("127.0.0.1", True), ("127.0.0.53%lo", True), ("127.8.9.10", True), ("::1", True)],
        *[("[::1]", True), ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False), ("*", False)],
        *[("0.0.0.0", False), ("::", False), ("fe80::1%eth0", False), ("localhost", True)],
        *[("0.0.0.0%lo", True), ("*%eth0", False)],
    ],
)
def test_loopback_is_told_by_the_address_not_its_spelling(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    ("state", "routable"), [("LISTEN", True), ("UNCONN", True), ("", True), ("ESTAB", False)]
)
def test_only_waiting_sockets_are_routable(state: str, routable: bool) -> None:
    assert is_routable(state, "0.0.0.0") is routable


@given(st.binary(max_size=64).filter(lambda name: b"\n" not in name))
def test_any_name_of_a_process_is_read(name: bytes) -> None:
    rest = b" S 1 2 3 " + b" ".join(b"%d" % n for n in range(15)) + b" 77 0\n"

    seen = procstat.parse_stat(b"42 (" + name + b")" + rest)

    assert seen is not None
    assert (seen[0], seen[1][:4], seen[1][19]) == (name, [b"S", b"1", b"2", b"3"], b"77")


def test_a_socket_is_a_value() -> None:
    one = Socket(1, "x", "tcp", "0.0.0.0", 80, "", 0, "LISTEN")

    assert one == Socket(1, "x", "tcp", "0.0.0.0", 80, "", 0, "LISTEN")
