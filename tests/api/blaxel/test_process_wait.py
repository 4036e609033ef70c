"""Waiting: completion, ports, time limits, and `GET /process/{id}/wait`."""

import socket
import time
from typing import Any

import pytest
from tests.harness import Server, free_port, open_files, until

LISTEN = (
    'exec python3 -c "import signal,socket; '
    "s=[socket.create_server(('{host}', p)) for p in {ports}]; signal.alarm(60); signal.pause()\""
)


def post(server: Server, **body):
    began = time.monotonic()
    reply = server.client.post("/process", json=body)
    return reply, time.monotonic() - began


def kill(server: Server, name: str) -> None:
    server.client.delete(f"/process/{name}/kill")


def test_a_port_can_be_used_as_soon_as_the_answer_is_here(server: Server) -> None:
    ports = [free_port(), free_port()]
    reply, _ = post(
        server,
        name="two-ports",
        command=LISTEN.format(host="0.0.0.0", ports=ports),
        waitForPorts=ports,
        timeout=60,
    )

    assert (reply.status_code, reply.json()["status"]) == (200, "running")
    for port in ports:
        socket.create_connection(("127.0.0.1", port)).close()
    kill(server, "two-ports")


def test_a_killed_group_frees_its_ports(server: Server) -> None:
    port = free_port()
    for _ in range(2):
        reply, _ = post(
            server,
            name="again",
            command=f"({LISTEN.format(host='0.0.0.0', ports=[port])}) & wait",
            waitForPorts=[port],
            timeout=60,
        )
        assert reply.status_code == 200, reply.text
        kill(server, "again")
        assert server.client.get("/process/again/wait").json()["status"] == "killed"


def test_a_loopback_listener_is_not_ready(server: Server) -> None:
    port = free_port()
    reply, _ = post(
        server,
        name="loopback",
        command=LISTEN.format(host="127.0.0.1", ports=[port]),
        waitForPorts=[port],
        timeout=1,
    )

    assert (reply.status_code, reply.json()["error"]) == (
        422,
        "process timed out waiting for ports after 1 seconds",
    )


def test_somebody_elses_listener_does_not_count(server: Server) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        reply, _ = post(server, command="sleep 30", waitForPorts=[port], timeout=1)

    assert reply.status_code == 422


def test_ports_that_nobody_can_open_any_more_fail_at_once(server: Server) -> None:
    for extra in ({}, {"timeout": 119}):
        reply, took = post(server, command="exit 3", waitForPorts=[free_port()], **extra)

        assert reply.status_code == 422
        assert "exit code 3" in reply.json()["error"]
        assert took < 25


def test_a_daemon_that_outlives_its_shell_still_counts(server: Server) -> None:
    port = free_port()
    reply, _ = post(
        server,
        name="daemon",
        command=f"({LISTEN.format(host='0.0.0.0', ports=[port])}) & exit 0",
        waitForPorts=[port],
        timeout=60,
    )

    assert reply.status_code == 200
    server.run(f"fuser -k {port}/tcp || pkill -f '[c]reate_server.*{port}'")


def test_a_wait_past_its_timeout_is_422_and_the_process_is_killed(server: Server) -> None:
    reply, took = post(server, name="late", command="sleep 30", waitForCompletion=True, timeout=1)
    ended = server.client.get("/process/late").json()

    assert (reply.status_code, reply.json()["error"]) == (422, "process timed out after 1 seconds")
    assert 0.9 < took < 25
    assert (ended["status"], ended["exitCode"], ended["exitReason"]) == ("killed", -1, "timeout")


def test_a_timeout_kills_without_any_wait_and_without_restart(server: Server) -> None:
    post(
        server,
        name="limited",
        command="sleep 30",
        timeout=1,
        restartOnFailure=True,
        maxRestarts=5,
    )
    ended = server.client.get("/process/limited/wait?timeout=60").json()

    assert (ended["status"], ended["exitCode"], ended["restartCount"]) == ("killed", -1, 0)
    assert ended["exitReason"] == "timeout"


def test_a_timeout_ends_a_back_off_too(server: Server) -> None:
    reply, took = post(
        server,
        command="exit 1",
        timeout=1,
        waitForCompletion=True,
        restartOnFailure=True,
        maxRestarts=-1,
    )

    assert reply.status_code == 422
    assert took < 60


@pytest.mark.parametrize("timeout", [0, None])
def test_no_positive_timeout_is_no_limit(server: Server, timeout: int | None) -> None:
    reply, _ = post(server, command="sleep 0.1", waitForCompletion=True, timeout=timeout)

    assert (reply.status_code, reply.json()["status"]) == (200, "completed")


def test_who_finishes_in_time_is_not_touched_by_the_limit(server: Server) -> None:
    reply, _ = post(server, command="exit 4", waitForCompletion=True, timeout=60)

    assert (reply.status_code, reply.json()["exitCode"]) == (200, 4)


def test_an_enormous_timeout_is_fine(server: Server) -> None:
    reply, _ = post(server, command="true", waitForCompletion=True, timeout=2**63 - 1)

    assert reply.status_code == 200


# GET …/wait


def test_wait_answers_when_it_is_over(server: Server) -> None:
    post(server, name="w1", command="sleep 0.2; exit 6")
    began = time.monotonic()
    ended = server.client.get("/process/w1/wait?timeout=30").json()

    assert (ended["status"], ended["exitCode"]) == ("failed", 6)
    assert time.monotonic() - began < 25


def test_wait_answers_running_when_its_time_is_up(server: Server) -> None:
    post(server, name="w2", command="sleep 30")
    began = time.monotonic()
    seen = server.client.get("/process/w2/wait?timeout=1").json()

    assert seen["status"] == "running"
    assert 0.9 < time.monotonic() - began < 25
    assert server.client.get("/process/w2").json()["status"] == "running"
    kill(server, "w2")


def test_wait_does_not_end_in_a_back_off(server: Server) -> None:
    post(server, name="w3", command="exit 1", restartOnFailure=True, maxRestarts=1)
    ended = server.client.get("/process/w3/wait?timeout=30").json()

    assert (ended["status"], ended["restartCount"]) == ("failed", 1)


@pytest.mark.parametrize("value", ["", "0", "9" * 30, "9" * 400, "9" * 5000, "%2B1"])
def test_a_long_timeout_is_clamped(server: Server, value: str) -> None:
    server.run("true", name="w4")

    assert server.client.get(f"/process/w4/wait?timeout={value}").status_code == 200
    assert server.client.get("/process/w4/wait").status_code == 200


@pytest.mark.parametrize("value", ["x", "abc", "-1", "1.5", "%C2%B2", "-" + "9" * 400, "1e3"])
def test_a_timeout_that_is_no_number_is_refused_by_its_name(server: Server, value: str) -> None:
    server.run("true", name="w4")

    reply = server.client.get(f"/process/w4/wait?timeout={value}")
    assert (reply.status_code, "invalid timeout: " in reply.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": -0.5, "keepAlive": True}, "timeout"),
        ({"timeout": 1e300}, "timeout"),
        ({"waitForPorts": [0]}, "waitForPorts: 0"),
        ({"waitForPorts": [80, 70000]}, "waitForPorts: 70000"),
        ({"waitForPorts": [-1]}, "waitForPorts: -1"),
        ({"maxRestarts": 1 << 70}, "maxRestarts"),
        ({"timeout": "5"}, "timeout"),
    ],
)
def test_a_number_of_a_start_that_makes_no_sense_is_refused_by_its_name(
    server: Server, fields: dict[str, Any], name: str
) -> None:
    reply = server.client.post("/process", json={"command": "true", "name": "n4", **fields})

    assert (reply.status_code, name in reply.json()["error"]) == (400, True), reply.text
    assert server.client.get("/process/n4").status_code == 404


def test_a_name_of_digits_is_found_where_no_process_has_that_pid(server: Server) -> None:
    server.run("echo named", name="4000123")
    pid = server.run("echo numbered")["pid"]
    server.run("echo shadowed", name=pid)

    assert server.client.get("/process/4000123").json()["stdout"] == "named\n"
    assert "named" in server.client.get("/process/4000123/logs").text
    assert server.client.get(f"/process/{pid}").json()["stdout"] == "numbered\n"
    assert server.client.get("/process/4000124").status_code == 404


def test_waiters_that_go_away_are_forgotten(make_server) -> None:
    own: Server = make_server()
    post(own, name="w5", command="sleep 60")
    request = b"GET /process/w5/wait?timeout=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", own.port)) for _ in range(30)]
    for sock in sockets:
        sock.sendall(request)
    until(lambda: open_sockets(own) > 30)
    for sock in sockets:
        sock.close()

    until(lambda: open_sockets(own) < 10)
    until(lambda: sum("/wait?timeout=100 499 " in x["msg"] for x in own.log_lines()) == 30)
    kill(own, "w5")


def open_sockets(server: Server) -> int:
    return sum(link.startswith("socket:") for link in open_files(server.pid))


@pytest.mark.parametrize(
    ("accept", "told"), [("application/json", 499), ("text/event-stream", 200)]
)
def test_a_port_wait_ends_with_its_client(make_server, accept: str, told: int) -> None:
    """A stream has begun with its status by then, while it waits for ports."""
    own: Server = make_server()
    body = b'{"name":"w6","command":"sleep 60","waitForPorts":[1]}'
    head = (
        f"POST /process HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", own.port)) as sock:
        sock.sendall(head.encode() + body)
        until(lambda: own.client.get("/process/w6").status_code == 200)

    until(lambda: [x for x in own.log_lines() if x["msg"].startswith(f"POST /process {told} ")])
    assert own.client.get("/process/w6").json()["status"] == "running"
    kill(own, "w6")
