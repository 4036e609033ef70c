"""A server that has run out of descriptors refuses, says so, and is as before afterwards."""

import contextlib
import itertools
import os
import resource
import signal
import socket
from pathlib import Path

import httpx
from tests.harness import Server, children_of, open_files, until, zombies_of


def limited(server: Server, spare: int) -> None:
    """Leave the server `spare` descriptors: the limit is on their numbers, which may have holes."""
    used = {int(name) for name in os.listdir(f"/proc/{server.pid}/fd")}
    free = itertools.filterfalse(used.__contains__, itertools.count())
    limit = next(itertools.islice(free, spare, None))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, 20_000))


def test_a_start_without_descriptors_is_a_422_at_every_step_of_it(make_server) -> None:
    observability = "sandkeeper.observability"
    often = {
        f"{observability}.history.EVERY_SECONDS": 0.05,
        f"{observability}.run_history.SHARE": 1.0,
        f"{observability}.figures.LOOK_SECONDS": 0.0,
    }
    server: Server = make_server(constants=often)

    def newest() -> float:
        return float(max(server.client.get("/diagnostics/history").json()["times"], default=0.0))

    server.run("echo warm")
    opened = server.client.post("/terminals", json={"sessionId": "dies", "shell": "/bin/sh"})
    leader = opened.json()["pid"]
    until(newest)
    before = children_of(server.pid)
    refusals = 0
    for spare in range(24):
        limited(server, spare)
        for stdin in (False, True):
            body = {"command": "sleep 300", "stdin": stdin, "name": f"p{spare}{stdin}"}
            reply = server.client.post("/process", json=body)
            assert reply.status_code in {200, 422}, reply.text
            if reply.status_code == 422:
                refusals += 1
                assert "too many open files" in reply.text.lower()
            else:
                assert server.client.delete(f"/process/p{spare}{stdin}/kill").status_code == 200
                until(lambda: children_of(server.pid) == before)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (20_000, 20_000))
    server.client.post("/process", json={"command": "sleep 300", "name": "rests"})
    limited(server, 0)
    os.kill(leader, signal.SIGKILL)
    until(lambda: leader not in children_of(server.pid))

    def is_told() -> bool:
        limited(server, 0)  # what ended gave some back
        return any("charts have no rows" in line["msg"] for line in server.log_lines())

    until(is_told)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (20_000, 20_000))
    last = newest()
    until(lambda: newest() > last)
    record = server.client.get("/terminals/dies").json()
    assert (record["status"], record["exitSignal"]) == ("exited", signal.SIGKILL)
    server.client.delete("/process/rests/kill")

    assert refusals > 5
    until(lambda: children_of(server.pid) == before - {leader})
    assert server.run("echo again")["stdout"] == "again\n"
    errors = [line for line in server.log_lines() if "unhandled" in line["msg"]]
    assert errors == []


def filled(server: Server, gate: Path, *, then: str) -> list[str]:
    """Start as many as may be, which write behind a gate; returns their names."""
    server.run("echo warm")
    os.mkfifo(gate)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (200, 20_000))
    names: list[str] = []
    while True:
        body = {"command": f"cat {gate}; echo gone; {then}", "name": f"r{len(names)}"}
        if server.client.post("/process", json=body).status_code == 422:
            assert len(names) > 10
            return names
        names.append(body["name"])


def open_gate(gate: Path) -> None:
    """Let through all that wait at a gate."""
    with contextlib.suppress(OSError):  # nobody waits at this moment
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))


def test_those_that_run_keep_enough_descriptors_for_their_output(make_server) -> None:
    """Starts are refused before those are gone, though all that run write their first at once."""
    server: Server = make_server()
    gate = server.workdir / "gate"
    names = filled(server, gate, then="exit")

    os.kill(server.pid, signal.SIGSTOP)
    until(lambda: open_gate(gate) or len(zombies_of(server.pid)) == len(names))
    os.kill(server.pid, signal.SIGCONT)

    ended = [server.client.get(f"/process/{name}/wait?timeout=60").json() for name in names]
    assert [made for made in ended if made.get("stdout") != "gone\n" or made["lostBytes"]] == []


def test_who_comes_to_look_is_let_in_however_many_processes_there_are(make_server) -> None:
    """What follows output for the server's own log holds none of the last descriptors either."""
    server: Server = make_server()
    gate = server.workdir / "gate"
    names = filled(server, gate, then="exec sleep 1000")
    held = len(open_files(server.pid))

    def written() -> int:
        with httpx.Client(base_url=server.client.base_url) as another:
            logs = [another.get(f"/process/{name}/logs").json()["logs"] for name in names]
        return logs.count("gone\n")

    until(lambda: open_gate(gate) or written() == len(names))
    until(lambda: sum(line["msg"] == "gone" for line in server.log_lines()) == len(names))
    until(lambda: len(open_files(server.pid)) < held + 4)


def test_clients_leave_descriptors_for_starts_files_and_output(make_server) -> None:
    """However many connect and follow: what is refused or given up is theirs."""
    server: Server = make_server()
    server.client.put("/filesystem/file", json={"content": "before"})
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (160, 20_000))
    body = {"command": "read go; echo $go", "stdin": True, "name": "quiet"}
    server.client.post("/process", json=body)
    follow = b"GET /process/quiet/logs/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as crowd:
        for _ in range(200):
            client = socket.create_connection(("127.0.0.1", server.port))
            crowd.enter_context(client).sendall(follow)
        refused = crowd.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        until(lambda: refused.recv(1 << 10) or True)

        assert server.client.post("/process/quiet/stdin", content=b"here\n").status_code == 200
        ended = server.client.get("/process/quiet/wait?timeout=60").json()
        assert (ended["stdout"], ended["lostBytes"]) == ("here\n", 0)
        assert server.run("echo started")["stdout"] == "started\n"
        written = server.client.put("/filesystem/file", json={"content": "after"})
        assert (written.status_code, server.client.get("/ready").status_code) == (200, 200)
    until(lambda: server.client.get("/health", headers={"Connection": "close"}).status_code == 200)
    errors = [line for line in server.log_lines() if "unhandled" in line["msg"]]
    assert errors == []
