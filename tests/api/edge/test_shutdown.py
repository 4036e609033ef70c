"""The end of the server: orderly, quick, and children go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from tests.harness import Server, alive, needs_root, until, zombies_of


def test_sigterm_ends_it_with_0_and_its_children_go_on(make_server) -> None:
    own: Server = make_server()
    pid = int(own.client.post("/process", json={"command": "exec sleep 100"}).json()["pid"])

    assert own.stop() == 0
    assert alive(pid)
    assert "processes that go on: 1" in own.log_path.read_text()

    own.start()
    record = own.client.get(f"/process/{pid}").json()
    assert record["status"] == "running"
    own.client.delete(f"/process/{pid}/kill")
    until(lambda: own.client.get(f"/process/{pid}").json()["status"] == "killed")


def test_who_connects_while_it_ends_is_answered_or_refused_and_never_reset(make_server) -> None:
    ending = "sandkeeper.api.edge.connections.ending"
    own: Server = make_server(constants={f"{ending}.NEWCOMER_SECONDS": 5.0})
    port = httpx.URL(own.url).port
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    waiting: list[socket.socket] = []

    def connect() -> bool:
        try:
            one = socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            return False
        waiting.append(one)
        one.sendall(ask)
        return True

    kept = socket.create_connection(("127.0.0.1", port), timeout=60)
    kept.sendall(ask)
    assert kept.recv(4096).startswith(b"HTTP/1.1 200")
    silent = socket.create_connection(("127.0.0.1", port), timeout=60)
    os.kill(own.pid, signal.SIGSTOP)
    # What comes now waits in the kernel, on a kept connection and on new ones, and so does the end.
    kept.sendall(ask)
    assert all(connect() for _ in range(20))
    os.kill(own.pid, signal.SIGTERM)
    os.kill(own.pid, signal.SIGCONT)
    until(lambda: not connect())

    waiting.append(kept)
    assert {one.recv(4096)[:12] for one in waiting} == {b"HTTP/1.1 200"}
    for one in (silent, *waiting):
        assert one.recv(1) == b""  # its end, and no reset
        one.close()
    assert own.stop() == 0


def test_what_a_thread_answers_at_the_end_says_that_the_connection_ends(make_server) -> None:
    own: Server = make_server()
    path = own.workdir / "fifo"
    own.client.get(f"/filesystem/{own.workdir}")  # the first of an area goes the long way
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    full = os.write(fifo, bytes(1 << 20))
    body = json.dumps({"content": "all of it"}).encode()
    head = f"PUT /filesystem/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", own.port), timeout=60) as one:
        one.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: "requests_in_flight 2.0" in own.client.get("/metrics").text, 30)
        own.client.close()
        os.kill(own.pid, signal.SIGTERM)
        until(lambda: not _accepts(own.port), 30)

        assert os.read(fifo, full) == bytes(full)
        with one.makefile("rb") as file:
            told = file.read()
    assert os.read(fifo, 100) == b"all of it"
    os.close(fifo)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in told
    assert own.stop() == 0


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    return True


AGAIN = """
import asyncio, uvloop
from types import SimpleNamespace
from sandkeeper.api.edge.connections.server import _Server

async def end():
    for _ in range(3000):
        ending = SimpleNamespace(left=None, handle_exit=lambda *_: None)
        with _Server.capture_signals(ending):
            pass
        print(flush=True)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(end())
"""


def test_at_no_moment_of_the_end_does_another_signal_kill() -> None:
    argv = [sys.executable, "-c", AGAIN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ending:
        assert ending.stdout is not None
        ending.stdout.readline()
        while ending.poll() is None:
            ending.send_signal(signal.SIGTERM)
            ending.stdout.readline()
        assert ending.returncode == 0


def test_open_streams_and_waits_do_not_hold_up_the_end(make_server) -> None:
    own: Server = make_server()
    own.client.post("/process", json={"command": "echo hi; exec sleep 100", "name": "s"})
    ends: dict[str, object] = {}

    def events() -> None:
        with httpx.stream("GET", own.url + "/process/s/events", timeout=30) as reply:
            ends["events"] = list(reply.iter_lines())[-1]

    def wait() -> None:
        ends["wait"] = httpx.get(own.url + "/process/s/wait?timeout=100", timeout=30).status_code

    threads = [threading.Thread(target=call) for call in (events, wait)]
    for thread in threads:
        thread.start()
    # Both, and the one that asks.
    until(lambda: "requests_in_flight 3.0" in own.client.get("/metrics").text)
    began = time.monotonic()

    assert own.stop() == 0
    assert time.monotonic() - began < 50
    for thread in threads:
        thread.join(60)
    assert '"reason":"server stopping"' in str(ends["events"])
    assert ends["wait"] == 503
    own.start()
    own.client.delete("/process/s/kill")


def test_it_stops_its_children_when_told_so(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_ON_SHUTDOWN": "stop"})
    pid = int(own.client.post("/process", json={"command": "exec sleep 100"}).json()["pid"])

    assert own.stop() == 0
    assert not alive(pid)


def test_the_startup_command_runs_in_the_root_folder_and_is_reaped(make_server) -> None:
    own: Server = make_server(args=["-c", "pwd; exit 3"])

    until(lambda: "exit code 3" in own.log_path.read_text())
    assert (own.folder / "stderr.log").read_text() == "/\n"
    until(lambda: not zombies_of(own.pid))
    assert own.client.get("/process").json() == []


@needs_root
def test_it_works_as_pid_1_and_reaps_orphans(tmp_path) -> None:
    script = (
        "import os,subprocess,sys,urllib.request,json,time\n"
        "subprocess.run(['mount','-t','proc','proc','/proc'],check=True)\n"
        "os.execv(sys.executable,[sys.executable,'-m','sandkeeper','--host','127.0.0.1',"
        "'--port','8080'])\n"
    )
    env = {**os.environ, "SANDKEEPER_STATE_DIR": str(tmp_path / "s"), "SANDKEEPER_LOG": "none"}
    command = ["unshare", "--fork", "--pid", "--mount", "--net", "--", "sh", "-c"]
    inner = f'ip link set lo up && exec {sys.executable} -c "$SCRIPT"'
    with subprocess.Popen([*command, inner], env={**env, "SCRIPT": script}) as outer:
        try:
            reply = until(lambda: _in_namespace(outer.pid, "(sleep 0.05 &) ; echo $PPID"))
            assert reply.splitlines()[0] == "1"
            until(lambda: "Z" not in _in_namespace(outer.pid, "sleep 0.1; ps -eo stat="))
        finally:
            inside = _inside(outer.pid)
            if inside:
                os.kill(inside, 9)


def _inside(outer: int) -> int:
    path = f"/proc/{outer}/task/{outer}/children"
    words = Path(path).read_text().split() if os.path.exists(path) else []
    return int(words[0]) if words else 0


def _in_namespace(outer: int, command: str) -> str:
    """Run a command through the API of the server that is PID 1 of its namespaces."""
    inside = _inside(outer)
    if not inside:
        return ""
    body = json.dumps({"command": command, "waitForCompletion": True})
    target = ["nsenter", "--target", str(inside), "--net", "--"]
    curl = ["curl", "-s", "-m", "5", "-d", body, "http://127.0.0.1:8080/process"]
    reply = subprocess.run([*target, *curl], capture_output=True, text=True, check=False).stdout
    if not reply:
        return ""
    return str(json.loads(reply)["stdout"])


def test_under_nohup_it_survives_a_hangup_and_its_children_hear_theirs(make_server) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, as from nohup(1)
    try:
        own: Server = make_server()
    finally:
        signal.signal(signal.SIGHUP, before)
    trap = "trap 'echo heard; exit 4' HUP; echo ready; while :; do sleep 0.05; done"
    own.client.post("/process", json={"command": trap, "name": "t"})
    ready = {"all": [{"log": {"text": "ready"}}]}
    assert own.client.post("/process/t/wait-for", json=ready).status_code == 200

    os.kill(own.pid, signal.SIGHUP)
    own.client.post("/process/t/signal", json={"signal": "SIGHUP"})

    record = own.client.get("/process/t/wait?timeout=60").json()
    assert (record["exitCode"], record["stdout"]) == (4, "ready\nheard\n")
