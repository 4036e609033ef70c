"""Upgrades: nobody notices a good one, and a bad one is taken back."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, until
from tests.wheels import digest, make_wheel

OLD, NEW = "0.1.0", "99.1"
COUNTING = "i=0; while [ ! -e stop ]; do i=$((i+1)); echo line $i; sleep 0.002; done"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good wheel of a new version and its checksum."""
    folder = tmp_path_factory.mktemp("wheels")
    note(make_wheel(folder, NEW))
    return folder


@pytest.fixture
def upgradable(make_server: Callable[..., Server], wheels: Path) -> Callable[..., Server]:
    """Start servers that may be upgraded from the wheels, or from a folder of one's own."""

    def make(folder: Path = wheels, **options: Any) -> Server:
        env = {"SANDKEEPER_UPGRADE_ALLOW": f"{folder}/*.whl", **options.pop("env", {})}
        return make_server(env=env, **options)

    return make


def note(wheel: Path) -> Path:
    """Put the checksum beside a wheel."""
    wheel.with_name(wheel.name + ".sha256").write_text(f"{digest(wheel)}  {wheel.name}\n")
    return wheel


def ended(server: Server, timeout: float = 30.0) -> dict[str, Any]:
    """Wait until no upgrade is under way; returns /health."""

    def look() -> dict[str, Any] | None:
        try:
            health: dict[str, Any] = httpx.get(server.url + "/health", trust_env=False).json()
        except httpx.HTTPError:
            return None
        return None if health["lastUpgrade"]["status"] == "running" else health

    return until(look, timeout)


def upgrade(server: Server, **body: Any) -> dict[str, Any]:
    """Upgrade and wait for the end; returns /health."""
    reply = server.client.post("/upgrade", json=body)
    assert reply.status_code == 200, reply.text
    return ended(server)


def numbers(text: str) -> list[int]:
    """Return the numbers of counting lines."""
    return [int(line.removeprefix("stdout:").split()[1]) for line in text.splitlines()]


def count(server: Server) -> None:
    """Start a process that counts in lines, in the working folder."""
    body = {"command": COUNTING, "name": "counting", "workingDir": str(server.workdir)}
    assert server.client.post("/process", json=body).status_code == 200


def counted(server: Server) -> list[int]:
    """End the counting and return its lines, of which none is missing or there twice."""
    (server.workdir / "stop").touch()
    record = server.client.get("/process/counting/wait?timeout=10").json()
    assert (record["status"], record["exitCode"]) == ("completed", 0)
    with httpx.stream("GET", server.url + "/process/counting/logs/stream") as reply:
        lines = numbers("".join(reply.iter_text()))
    assert lines == list(range(1, len(lines) + 1))
    return lines


class Crowd:
    """Clients that ask all the time, on kept connections and on new ones."""

    def __init__(self, server: Server) -> None:
        self.answers: list[int] = []
        self.faults: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(kept, path, body))
            for kept in (True, False)
            for path, body in (
                ("/health", None),
                ("/process/counting", None),
                ("/process", {"command": "echo hello", "waitForCompletion": True}),
                ("/filesystem//tmp", None),
            )
        ]

    def _ask(self, kept: bool, path: str, body: Any) -> None:
        client = httpx.Client(base_url=self._server.url, timeout=20, trust_env=False)
        while not self._over.wait(0.1):
            try:
                if not kept:
                    client.close()
                    client = httpx.Client(base_url=self._server.url, timeout=20, trust_env=False)
                reply = client.post(path, json=body) if body else client.get(path)
                self.answers.append(reply.status_code)
                if reply.status_code != 200:
                    self.faults.append(f"{path}: {reply.status_code} {reply.text}")
            except httpx.HTTPError as error:
                self.faults.append(f"{path}: {error!r}")
        client.close()

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Reader(threading.Thread):
    """Follows the events of a process and comes again with its cursor when the stream breaks."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(daemon=True)
        self.text = ""
        self.ends: list[str] = []
        self._url = f"{server.url}/process/{name}/events"
        self.start()

    def run(self) -> None:
        cursor = 0
        while not self.ends or self.ends[-1] == "server stopping":
            with httpx.stream("GET", self._url, params={"cursor": cursor}, timeout=30) as reply:
                for line in reply.iter_lines():
                    event = json.loads(line)
                    cursor = event["offset"] + len(event.get("data", ""))
                    self.text += event.get("data", "")
                    if event["type"] == "end":
                        self.ends.append(event["reason"])


def test_under_load_no_request_fails_and_no_line_is_lost(
    upgradable: Callable[..., Server],
) -> None:
    own = upgradable()
    count(own)
    pid = own.pid

    reader = Reader(own, "counting")
    with Crowd(own) as crowd:
        until(lambda: len(crowd.answers) > 50)
        health = upgrade(own)
        before = len(crowd.answers)
        until(lambda: len(crowd.answers) > before + 50)

    assert crowd.faults == []
    assert set(crowd.answers) == {200}
    assert (health["version"], health["upgradeCount"]) == (NEW, 1)
    assert (health["lastUpgrade"]["status"], health["lastUpgrade"]["step"]) == (
        "completed",
        "completed",
    )
    assert own.process is not None
    assert own.process.poll() is None
    assert own.pid == pid
    lines = counted(own)
    reader.join(10)
    assert numbers(reader.text) == lines
    assert reader.ends == ["server stopping", "exited"]
    told = [line["msg"] for line in own.log_lines() if line.get("process-name") == "counting"]
    assert numbers("\n".join(told)) == lines
