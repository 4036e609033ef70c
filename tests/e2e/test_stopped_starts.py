"""A workload that stops, kills or traces whatever it may holds up nobody but itself."""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.harness import Server, children_of, needs_root, stop_all_of, until, words_of

pytestmark = [needs_root, pytest.mark.timeout(300)]

UID = 61118  # of these tests alone: all its processes are stopped
PATIENCE = {
    "sandkeeper.linux.children.children.START_SECONDS": 3.0,
    "sandkeeper.search.content.SEARCH_SECONDS": 4.0,
}
"""In place of 10 and 60 s: every request here waits until the server's patience is over."""
HEALTH_SECONDS = 20.0
"""Ten times what a busy machine needs; a server that waits for the workload takes for ever."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Server(folder, args=["--user", str(UID)], constants=PATIENCE) as running:
            os.chown(running.workdir, UID, UID)
            (running.workdir / "words").write_text("needle\n")
            yield running


def ask(method: str, path: str, **options) -> Callable[[Server], httpx.Response]:
    return lambda server: httpx.request(
        method, server.url + path, timeout=150, trust_env=False, **options
    )


STARTS = {
    "process": ask("POST", "/process", json={"command": "true"}),
    "process that is waited for": ask(
        "POST", "/process", json={"command": "true", "waitForCompletion": True, "timeout": 4}
    ),
    "process with limits": ask(
        "POST", "/process", json={"command": "true", "limits": {"openFiles": 64}}
    ),
    "terminal": ask("POST", "/terminals", json={}),
    "search": ask("GET", "/filesystem-content-search/.?query=needle"),
}


@contextmanager
def healthy(server: Server) -> Iterator[None]:
    """Fail if /health keeps somebody waiting meanwhile."""
    over = threading.Event()
    slowest = [0.0]

    def look() -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False, verify=False) as client:
            while not over.wait(0.05):
                began = time.monotonic()
                client.get("/health").raise_for_status()
                slowest[0] = max(slowest[0], time.monotonic() - began)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield
        finally:
            over.set()
            looking.result()
    assert slowest[0] < HEALTH_SECONDS


def end_everything(server: Server) -> None:
    for process in server.client.get("/process").json():
        server.client.delete(f"/process/{process['name']}/kill")
    for terminal in server.client.get("/terminals").json():
        server.client.delete(f"/terminals/{terminal['id']}")


@pytest.mark.parametrize("route", STARTS)
def test_starts_answer_while_the_workload_stops_all_it_may(server: Server, route: str) -> None:
    assert server.run("true")["exitCode"] == 0
    end_everything(server)
    before = until(lambda: children_of(server.pid))
    descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
    stopper = stop_all_of(UID)
    try:
        with healthy(server), ThreadPoolExecutor(10) as pool:
            replies = list(pool.map(lambda _: STARTS[route](server), range(10)))
    finally:
        stopper.kill()
        stopper.wait()

    for reply in replies:
        assert reply.status_code < 500 or reply.json()["error"]
    end_everything(server)
    until(lambda: children_of(server.pid) == before)
    until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= descriptors + 2)
    assert server.run("echo again")["stdout"] == "again\n"


def test_a_search_whose_program_is_stopped_midway_ends(server: Server) -> None:
    """One that is killed midway ends as well; the answer is an error, or what was found."""
    many = server.workdir / "many"
    many.mkdir(exist_ok=True)
    for number in range(2000):
        (many / str(number)).write_text("needle\n" * 50)
    os.chown(many, UID, UID)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        stopper = server.client.post(
            "/process",
            json={"command": f"until pkill -{int(number)} -x rg; do :; done", "name": f"s{number}"},
        )
        assert stopper.status_code == 200
        with healthy(server):
            reply = ask("GET", f"/filesystem-content-search/{many}?query=needle")(server)
        server.client.delete(f"/process/s{number}/kill")
        assert reply.status_code == 200 or reply.json()["error"]
        until(lambda: not children_of(server.pid, "rg"))


def test_the_workload_can_neither_stop_nor_trace_the_spawner(server: Server) -> None:
    children = children_of(server.pid)
    spawner = next(pid for pid in children if b"spawner" in b" ".join(words_of(pid)))

    said = server.run(f"kill -STOP {spawner}; cat /proc/{spawner}/environ; ls /proc/{spawner}/fd")

    assert said["exitCode"] != 0
    assert said["stdout"] == ""
    assert said["stderr"].lower().count("denied") + said["stderr"].count("not permitted") == 3
    assert server.run("true")["exitCode"] == 0


def test_a_program_that_cannot_be_executed_is_told_as_before(server: Server) -> None:
    reply = server.client.post("/terminals", json={"shell": "/nowhere/sh"})

    assert reply.status_code == 422
    assert "no such file" in reply.json()["error"]


def test_the_default_folder_is_not_one_that_is_closed_to_the_user(tmp_path: Path) -> None:
    """The server's own working directory may lie below a folder of root's."""
    closed = tmp_path / "closed"
    (closed / "below").mkdir(parents=True)
    closed.chmod(0o700)
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running = Server(folder, args=["--user", str(UID)])
        with contextlib.ExitStack() as stack:
            stack.push(running.__exit__)
            os.chdir(closed / "below")
            try:
                running.start()
            finally:
                os.chdir(before)
            assert running.run("pwd")["stdout"] == "/\n"
