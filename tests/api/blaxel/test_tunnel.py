"""The tunnel, for real: a server and a peer in two network namespaces of the test's own."""

import base64
import ctypes
import http.client
import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import Server, children_of, debian, needs_root, until

from sandkeeper.errors import Unprocessable
from sandkeeper.tunnel.config import parse_config
from sandkeeper.tunnel.routes import blocked_networks, tunnel_networks

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def key() -> tuple[str, str]:
    """Return a private key and its public one."""
    private = subprocess.run(["wg", "genkey"], check=True, capture_output=True, text=True).stdout
    public = subprocess.run(
        ["wg", "pubkey"], input=private, check=True, capture_output=True, text=True
    ).stdout
    return private.strip(), public.strip()


class Namespace:
    """A network namespace that lives as long as its holder process."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        own = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != own)
        self.path = f"/proc/{self.holder.pid}/ns/net"
        self.ip("link set lo up")

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net={self.path}", *argv]

    def ip(self, arguments: str) -> str:
        return self.out("ip", *arguments.split())

    def out(self, *argv: str) -> str:
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in a thread that is inside; its sockets stay inside."""
        result: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            with open(self.path) as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0
            try:
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Inside(Server):
    """A server in a namespace; asked from inside of it."""

    def __init__(self, folder: Path, namespace: Namespace, **options: Any) -> None:
        super().__init__(folder, **options)
        self.namespace = namespace

    def start(self) -> None:
        argv = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.folder / "stderr.log", "ab") as stderr:
            self.process = subprocess.Popen(
                self.namespace.command(*argv), env=self.env, stdout=stderr, stderr=stderr
            )
        until(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "stderr.log").read_text()
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        def run() -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            with closing(connection):
                connection.request(method, path, None if body is None else json.dumps(body))
                reply = connection.getresponse()
                return reply.status, json.loads(reply.read())

        return self.namespace.call(run)

    def put(self, config: Any) -> tuple[int, dict[str, Any]]:
        return self.ask("PUT", "/network/tunnel/config", {"config": encoded(config)})


def encoded(config: Any) -> str:
    return base64.b64encode(json.dumps(config).encode()).decode()


PRIVATE = base64.b64encode(b"p" * 32).decode()
PLAIN: dict[str, Any] = {
    "local_ip": "10.7.0.2/24",
    "peer_endpoint": "10.99.0.2:51821",
    "peer_public_key": PRIVATE,
    "private_key": PRIVATE,
}


class Peer:
    """The other end: WireGuard by the stock tools, an echo of the caller's address behind it."""

    def __init__(self, namespace: Namespace, server_public: str) -> None:
        self.namespace = namespace
        self.private, self.public = key()
        self.name = f"wgp{secrets.token_hex(5)}"
        self.socket = Path(f"/var/run/wireguard/{self.name}.sock")
        self.process = subprocess.Popen(
            namespace.command("wireguard-go", "-f", self.name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.socket.exists)
        command = ["wg", "set", self.name, "listen-port", "51821", "private-key", "/dev/stdin"]
        command += ["peer", server_public, "allowed-ips", "10.7.0.2/32,fd07::2/128"]
        subprocess.run(command, input=self.private, text=True, check=True)
        namespace.ip(f"addr add 10.7.0.1/24 dev {self.name}")
        namespace.ip(f"addr add fd07::1/64 dev {self.name} nodad")
        namespace.ip(f"link set {self.name} up")
        sockets = Path("/proc/thread-self/net/udp6")
        until(lambda: ":CA6D " in namespace.call(sockets.read_text))  # 51821
        self.listener = namespace.call(
            lambda: socket.create_server(("::", 9), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, address = self.listener.accept()
            except OSError:
                return
            with sock:
                sock.sendall(address[0].removeprefix("::ffff:").encode())

    def close(self) -> None:
        self.listener.close()
        self.process.kill()
        self.process.wait()
        self.socket.unlink()  # who is killed leaves it


@pytest.fixture(scope="module")
def _tools() -> None:
    debian("wireguard-go", "wireguard-tools", "iproute2")


@pytest.fixture(scope="module")
def keys(_tools: None) -> tuple[str, str]:
    return key()


@pytest.fixture(scope="module")
def near(_tools: None) -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


@pytest.fixture(scope="module")
def far(near: Namespace) -> Iterator[Namespace]:
    """The peer's namespace: next to the server's, and its way to everywhere else."""
    made = Namespace()
    near.ip(f"link add v0 type veth peer name v1 netns {made.holder.pid}")
    for namespace, device, number in ((near, "v0", 1), (made, "v1", 2)):
        namespace.ip(f"addr add 10.99.0.{number}/24 dev {device}")
        namespace.ip(f"addr add fd99::{number}/64 dev {device} nodad")
        namespace.ip(f"link set {device} up")
    near.ip("route add default via 10.99.0.2")
    near.ip("-6 route add default via fd99::2")
    made.ip("addr add 198.51.100.7/32 dev lo")
    made.ip("addr add 2001:db8::7/128 dev lo nodad")
    yield made
    made.close()


@pytest.fixture(scope="module")
def peer(far: Namespace, keys: tuple[str, str]) -> Iterator[Peer]:
    made = Peer(far, keys[1])
    yield made
    made.close()


@pytest.fixture(scope="module")
def inside(tmp_path_factory, near: Namespace, far: Namespace) -> Iterator[Inside]:
    with Inside(tmp_path_factory.mktemp("inside"), near) as running:
        yield running


@pytest.fixture
def config(peer: Peer, keys: tuple[str, str], inside: Inside) -> Iterator[dict[str, Any]]:
    """A configuration that works; the tunnel is taken away after the test."""
    yield {**PLAIN, "private_key": keys[0], "peer_public_key": peer.public}
    inside.ask("DELETE", "/network/tunnel")
    assert "wg0" not in inside.namespace.ip("link")


def seen_as(namespace: Namespace, address: str) -> str:
    """Return as whom the echo at `address` sees the namespace."""

    def run() -> str:
        with socket.create_connection((address, 9), timeout=60) as sock, sock.makefile() as text:
            return text.read()

    return namespace.call(run)


@needs_root
def test_traffic_goes_through_the_tunnel_and_only_what_should(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    status, body = inside.put(config)

    assert (status, body["message"]) == (200, "Tunnel configuration updated successfully")
    assert seen_as(near, "10.7.0.1") == "10.7.0.2"
    assert seen_as(near, "198.51.100.7") == "10.99.0.1"
    assert inside.ask("DELETE", "/network/tunnel") == (
        200,
        {"path": "", "message": "Tunnel disconnected"},
    )
    status, body = inside.ask("DELETE", "/network/tunnel")
    assert (status, body["error"]) == (400, "no WireGuard client is running")


@needs_root
def test_route_all_takes_everything_and_never_touches_the_default_route(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    before = near.ip("route show default"), near.ip("-6 route show default")

    assert inside.put({**config, "route_all": True})[0] == 200

    assert seen_as(near, "198.51.100.7") == "10.7.0.2"
    assert (near.ip("route show default"), near.ip("-6 route show default")) == before
    with pytest.raises(OSError):
        seen_as(near, "2001:db8::7")  # IPv6 has no way through this tunnel, so it has none at all
    assert "dev v0" in near.ip("route get 10.99.0.2")
    assert inside.ask("DELETE", "/network/tunnel")[0] == 200
    assert seen_as(near, "198.51.100.7") == "10.99.0.1"
    assert seen_as(near, "2001:db8::7") == "fd99::1"
    assert near.ip("route show 10.99.0.2") == ""


@needs_root
def test_allowed_networks_are_routed_in_both_families(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    networks = ["198.51.100.0/24", "fd07::/64", "10.7.0.0/24"]

    assert inside.put({**config, "allowed_ips": networks})[0] == 200

    assert seen_as(near, "198.51.100.7") == "10.7.0.2"
    assert "dev wg0" in near.ip("-6 route get fd07::1")


@needs_root
def test_an_ipv6_tunnel_to_an_ipv6_peer_carries_ipv6(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    six = {
        **config,
        "local_ip": "fd07::2/64",
        "peer_endpoint": "[fd99::2]:51821",
        "allowed_ips": ["::/0"],
        "route_all": True,
    }

    assert inside.put(six)[0] == 200

    assert seen_as(near, "2001:db8::7") == "fd07::2"
    with pytest.raises(OSError):
        seen_as(near, "198.51.100.7")


@needs_root
def test_a_replacement_that_fails_leaves_the_old_tunnel_working(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    assert inside.put({**config, "route_all": True})[0] == 200
    taken = near.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    taken.bind(("::", 51999))

    status, body = inside.put({**config, "listen_port": 51999, "route_all": True})

    taken.close()
    assert status == 500
    assert body["error"].startswith("failed to apply tunnel config: ")
    assert seen_as(near, "198.51.100.7") == "10.7.0.2"
    assert inside.put({**config, "peer_endpoint": "no such host:1"})[0] == 422
    assert inside.put({**config, "interface_name": "v0"})[0] == 422
    assert seen_as(near, "198.51.100.7") == "10.7.0.2"


@needs_root
def test_a_tunnel_is_replaced_again_and_again(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    for route_all in (False, True, True, False):
        assert inside.put({**config, "route_all": route_all, "mtu": 1300})[0] == 200
        wanted = "10.7.0.2" if route_all else "10.99.0.1"
        assert seen_as(near, "198.51.100.7") == wanted
    assert "mtu 1300" in near.ip("link show wg0")
    assert inside.ask("DELETE", "/network/tunnel")[0] == 200
    assert inside.put(config)[0] == 200
    assert "skt" not in near.ip("link")


@needs_root
def test_a_dead_wireguard_go_is_built_again(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    assert inside.put({**config, "route_all": True})[0] == 200
    (daemon,) = children_of(inside.pid, "wireguard-go")

    os.kill(daemon, signal.SIGKILL)

    def again() -> bool:
        try:
            return seen_as(near, "198.51.100.7") == "10.7.0.2"
        except OSError:
            return False

    until(again)


@needs_root
def test_with_the_peer_gone_the_api_answers_and_disconnect_works(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    lost = {**config, "peer_endpoint": "10.99.0.77:1", "route_all": True}
    assert inside.put(lost)[0] == 200

    assert inside.ask("GET", "/health")[0] == 200
    assert inside.ask("DELETE", "/network/tunnel")[0] == 200
    assert seen_as(near, "198.51.100.7") == "10.99.0.1"


@needs_root
def test_a_peer_without_a_route_is_an_error_and_not_a_silent_success(
    inside: Inside, config: dict[str, Any], near: Namespace
) -> None:
    near.ip("route del default via 10.99.0.2")
    try:
        far_away = {**config, "peer_endpoint": "203.0.113.1:1", "route_all": True}
        status, body = inside.put(far_away)
        assert status == 500
        assert "no route to the peer" in body["error"]
        assert "skt" not in near.ip("link")
    finally:
        near.ip("route add default via 10.99.0.2")


@needs_root
def test_the_environment_brings_a_tunnel_up_and_the_end_of_the_server_takes_it_away(
    tmp_path: Path, near: Namespace, peer: Peer, keys: tuple[str, str]
) -> None:
    config = {
        **PLAIN,
        "private_key": keys[0],
        "peer_public_key": peer.public,
        "interface_name": "wg7",
        "listen_port": 51877,
        "route_all": True,
    }
    own = Inside(tmp_path, near, env={"BL_NETWORKING_CONFIG": encoded(config)})
    with own:
        assert seen_as(near, "198.51.100.7") == "10.7.0.2"
        own.kill9()
        own.env["BL_NETWORKING_CONFIG"] = "nonsense"
        own.start()
        assert "wg7" not in near.ip("link")
        assert seen_as(near, "2001:db8::7") == "fd99::1"
        assert any("BL_NETWORKING_CONFIG" in line["msg"] for line in own.log_lines())
        own.stop()
        own.env["BL_NETWORKING_CONFIG"] = encoded(config)
        own.start()
        assert seen_as(near, "198.51.100.7") == "10.7.0.2"
    assert "wg7" not in near.ip("link")
    assert seen_as(near, "198.51.100.7") == "10.99.0.1"


def test_bad_requests_are_told_apart(server: Server) -> None:
    put = server.client.put
    assert put("/network/tunnel/config").status_code == 400
    assert put("/network/tunnel/config", json={}).status_code == 400
    assert put("/network/tunnel/config", json={"config": ""}).status_code == 400
    for config in ("!!!", encoded("text"), encoded({}), base64.b64encode(b"{").decode()):
        refused = put("/network/tunnel/config", json={"config": config})
        assert refused.status_code == 422
        assert "invalid tunnel config" in refused.json()["error"]
    assert server.client.delete("/network/tunnel").status_code == 400
    assert server.client.get("/network/tunnel/config").status_code == 404
    assert server.client.post("/network/tunnel/config").status_code == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("local_ip", value) for value in (None, "", "10.0.0.1", "x/24", "10.0.0.1/33", 5)),
        *(("peer_endpoint", value) for value in (None, "host", "host:", ":1", "host:0", "h:65536")),
        *(("peer_endpoint", value) for value in ("fe80::1:5", "[host]:1", "a b:1", "h:1x")),
        *((name, value) for name in ("private_key", "peer_public_key") for value in (None, "abc")),
        ("private_key", base64.b64encode(b"x" * 31).decode()),
        *(("mtu", value) for value in (10, 99999, "1420", True, -1)),
        *(("listen_port", value) for value in (-1, 65536)),
        *(("persistent_keepalive", value) for value in (-1, 65536)),
        *(("interface_name", value) for value in ("lo", "a/b", "a" * 16, "..", 5)),
        *(("allowed_ips", value) for value in ("0.0.0.0/0", ["x"], ["10.0.0.1"], [5])),
        ("route_all", "yes"),
    ],
)
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(Unprocessable) as refused:
        parse_config(encoded({**PLAIN, field: value}))

    assert str(refused.value).startswith("invalid tunnel config: ")
    assert field in str(refused.value)


def test_defaults_and_liberties_of_the_format() -> None:
    made = parse_config(encoded({**PLAIN, "Unknown": 1, "MTU": 0, "allowed_ips": None}))

    assert (made.mtu, made.listen_port, made.interface_name) == (1420, 51820, "wg0")
    assert (made.keepalive, made.route_all) == (25, False)
    assert [str(network) for network in made.allowed_ips] == ["0.0.0.0/0"]
    assert parse_config(encoded({**PLAIN, "persistent_keepalive": 0})).keepalive == 0
    made = parse_config(encoded({**PLAIN, "peer_endpoint": "[2001:db8::1]:5"}))
    assert (made.peer_host, made.peer_port) == ("2001:db8::1", 5)
    assert PRIVATE not in repr(made)


@given(
    st.lists(st.ip_addresses().map(lambda a: f"{a}/{8 if a.version == 4 else 32}"), max_size=5),
    st.booleans(),
)
def test_routes_cover_what_is_allowed_and_never_replace_a_default(
    networks: list[str], route_all: bool
) -> None:
    made = parse_config(encoded({**PLAIN, "allowed_ips": networks, "route_all": route_all}))

    routed = tunnel_networks(made)
    assert all(network.prefixlen for network in [*routed, *blocked_networks(made)])
    for network in made.allowed_ips:
        if network.prefixlen:
            assert network in routed
    everything = [*routed, *blocked_networks(made)]
    for probe in ("1.2.3.4", "200.1.1.1", "2001:db8::1", "fe00::1"):
        if route_all:
            assert any(ipaddress.ip_address(probe) in network for network in everything)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(data: bytes) -> None:
    with pytest.raises(Unprocessable):
        parse_config(data.decode("latin-1"))
    with pytest.raises(Unprocessable):
        parse_config(base64.b64encode(data).decode())
