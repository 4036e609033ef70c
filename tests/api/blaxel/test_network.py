"""The network area: ports of processes, monitors, all listening ports."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.harness import Server, until

LISTEN = """
import socket, sys
kept = []
for line in sys.stdin:
    kept.append(socket.create_server((line.strip(), 0)))
    print(kept[-1].getsockname()[1], flush=True)
"""


class Listener:
    """A process that listens where it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", LISTEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def open(self, address: str = "127.0.0.1") -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(address + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


class Callbacks:
    """A receiver of callbacks."""

    def __init__(self, *, status: int = 200, location: str = "") -> None:
        self.bodies: list[dict[str, int]] = []
        self.hold = threading.Event()
        self.hold.set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.hold.wait(100)
                size = int(self.headers["content-length"])
                owner.bodies.append(json.loads(self.rfile.read(size)))
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/told"
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    made = Callbacks()
    yield made
    made.close()


def test_ports_of_a_process_have_the_contracts_fields(server: Server, listener: Listener) -> None:
    port = listener.open("0.0.0.0")
    pid = listener.process.pid

    reply = server.client.get(f"/network/process/{pid}/ports")

    assert reply.status_code == 200
    assert reply.json() == {
        "pid": pid,
        "ports": [
            {
                "pid": pid,
                "protocol": "tcp",
                "localAddr": "0.0.0.0",
                "localPort": port,
                "remoteAddr": "",
                "remotePort": 0,
                "state": "LISTEN",
                "processName": reply.json()["ports"][0]["processName"],
            }
        ],
    }


@pytest.mark.parametrize(
    "pid",
    ["99999999", "-7", "+99999999", "0", "0" * 30 + "99999999", str(-1 << 63)],
)
def test_a_pid_that_nobody_has_has_no_ports(server: Server, pid: str) -> None:
    reply = server.client.get(f"/network/process/{pid.replace('+', '%2B')}/ports")

    assert (reply.status_code, reply.json()) == (200, {"pid": int(pid), "ports": []})


@pytest.mark.parametrize(
    "pid", ["abc", "1.5", "12x", "9" * 30, str(1 << 63), "1" * 5000, "1_0", "%20 1", "٣"]
)
def test_what_is_no_number_is_an_invalid_pid(server: Server, pid: str) -> None:
    for method, path in [("GET", "ports"), ("POST", "monitor"), ("DELETE", "monitor")]:
        reply = server.client.request(method, f"/network/process/{pid}/{path}")

        assert (reply.status_code, reply.json()) == (400, {"error": "invalid PID"})


def test_head_of_ports_is_bare_and_other_methods_are_unknown(server: Server) -> None:
    assert server.client.head("/network/process/abc/ports").status_code == 200
    assert server.client.head("/network/process/1/monitor").status_code == 404
    assert server.client.put("/network/process/1/ports").status_code == 404


def test_all_listening_ports_are_told_with_their_processes(
    server: Server, listener: Listener
) -> None:
    inside, outside = listener.open("127.0.0.1"), listener.open("0.0.0.0")

    ports = server.client.get("/network/ports").json()["ports"]

    told = {one["localPort"]: one for one in ports}
    assert (told[inside]["pid"], told[inside]["routable"]) == (listener.process.pid, False)
    assert told[outside]["routable"] is True
    assert told[server.port]["pid"] == server.pid
    assert [one["localPort"] for one in ports] == sorted(one["localPort"] for one in ports)


def test_a_callback_is_told_of_open_and_of_new_ports_once(
    server: Server, listener: Listener, callbacks: Callbacks
) -> None:
    pid = listener.process.pid
    first = listener.open()
    server.client.get(f"/network/process/{pid}/ports")  # looking must not swallow the notice

    reply = server.client.post(f"/network/process/{pid}/monitor", json={"callback": callbacks.url})
    assert reply.json() == {"path": "", "message": "Port monitoring started"}
    until(lambda: {"pid": pid, "port": first} in callbacks.bodies)
    second = listener.open()
    until(lambda: {"pid": pid, "port": second} in callbacks.bodies)

    assert [body["port"] for body in callbacks.bodies] == [first, second]


def test_connections_going_out_are_no_news(server: Server, callbacks: Callbacks) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        socket.create_connection(target.getsockname()) as going_out,
    ):
        path = f"/network/process/{os.getpid()}/monitor"
        server.client.post(path, json={"callback": callbacks.url})
        until(lambda: target.getsockname()[1] in {one["port"] for one in callbacks.bodies})
        server.client.delete(path)
        source = going_out.getsockname()[1]

    assert source not in {one["port"] for one in callbacks.bodies}


def test_stopping_drops_the_callbacks_and_works_without_any(
    server: Server, listener: Listener, callbacks: Callbacks
) -> None:
    path = f"/network/process/{listener.process.pid}/monitor"
    server.client.post(path, json={"callback": callbacks.url})
    first = listener.open()
    until(lambda: callbacks.bodies)

    for _ in range(2):
        reply = server.client.delete(path)
        assert reply.json() == {"path": "", "message": "Port monitoring stopped"}
    second = listener.open()
    other = Callbacks()
    server.client.post(path, json={"callback": other.url})
    until(lambda: len(other.bodies) == 2)  # a look after the second port opened
    other.close()

    assert [body["port"] for body in callbacks.bodies] == [first]
    assert second in {body["port"] for body in other.bodies}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "invalid request body: EOF"),
        (b"{", "invalid request body: "),
        (b'{"callback": 5}', "invalid request body: "),
        (b'{"callback": "file:///etc/passwd"}', "must be an http or https URL"),
        (b'{"callback": "http://"}', "must be an http or https URL"),
        (b'{"callback": "http://x:99999999/"}', "must be an http or https URL"),
    ],
)
def test_a_bad_monitor_request_is_a_400(server: Server, body: bytes, text: str) -> None:
    reply = server.client.post("/network/process/1/monitor", content=body)

    assert reply.status_code == 400
    assert text in reply.json()["error"]


def test_a_monitor_without_callback_is_accepted(server: Server) -> None:
    reply = server.client.post("/network/process/1/monitor", json={})

    assert "started" in reply.json()["message"]


def test_a_redirect_is_not_followed(server: Server, listener: Listener) -> None:
    target = Callbacks()
    redirecting = Callbacks(status=307, location=target.url)
    port = listener.open()
    path = f"/network/process/{listener.process.pid}/monitor"

    server.client.post(path, json={"callback": redirecting.url})
    until(lambda: redirecting.bodies)
    second = listener.open()
    until(lambda: len(redirecting.bodies) == 2)
    redirecting.close()
    target.close()

    assert [body["port"] for body in redirecting.bodies] == [port, second]
    assert target.bodies == []


def test_a_callback_that_hangs_delays_no_other_one(make_server, listener: Listener) -> None:
    # The server's patience with one that hangs, 5 s, must not be what lets the other one through.
    constants = {"sandkeeper.network.monitors.CALLBACK_SECONDS": 100.0}
    server: Server = make_server(constants=constants)
    hanging, quick = Callbacks(), Callbacks()
    hanging.hold.clear()
    listener.open()
    path = f"/network/process/{listener.process.pid}/monitor"

    server.client.post(path, json={"callback": hanging.url})
    server.client.post(path, json={"callback": quick.url})
    until(lambda: quick.bodies)
    hanging.hold.set()
    hanging.close()
    quick.close()
