"""A Python with kernels and what plots and tables need, as a sandbox has it: made once, kept."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.harness import BASE_PYTHON, Server

__all__ = ["Context", "context", "environment", "events", "kernel_python"]

ROOT = Path(__file__).parent.parent
PATIENCE = 240
"""Seconds: a busy machine may take long to start kernels, and to make a cache of fonts."""
WANTED = ROOT / "tests" / "interpreter" / "requirements.txt"


def kernel_python() -> Path:
    """Return the folder of a virtual environment with the packages of WANTED; made at need."""
    text = WANTED.read_bytes()
    made = hashlib.sha256(text + sys.version.encode()).hexdigest()[:12]
    folder = Path(sys.prefix) / f".kernels-{made}"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            made_by = [sys.executable, "-m", "venv", "--without-pip", "--clear", folder]
            subprocess.run(made_by, check=True)
            # Most of it is never imported, and what is gets compiled then.
            options = ["install", "-q", "--no-compile", "--only-binary", ":all:"]
            pip = [ROOT / "scripts" / "pip", folder / "bin" / "python", *options]
            by = {**os.environ, "PYTHON": BASE_PYTHON}
            subprocess.run([*pip, "-r", WANTED], env=by, check=True)
            (folder / "made").touch()
    return folder


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a server whose sandbox has these kernels."""
    path = f"{kernel_python() / 'bin'}:{os.environ['PATH']}"
    # What a test leaves running ends with its server.
    return {"PATH": path, "SANDKEEPER_ON_SHUTDOWN": "stop", **more}


class Context:
    """One context of a server."""

    def __init__(self, server: Server, record: dict[str, Any]) -> None:
        self.server = server
        self.id: str = record["id"]
        self.record = record

    @property
    def client(self) -> httpx.Client:
        """The server's client."""
        return self.server.client

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/code/contexts/{self.id}"

    def now(self) -> dict[str, Any]:
        """Return how it stands."""
        found: dict[str, Any] = self.client.get(self.path).json()
        return found

    def run(self, code: str, **fields: Any) -> dict[str, Any]:
        """Run code and wait; returns the answer."""
        body = {"code": code, **fields}
        reply = self.client.post(f"{self.path}/execute", json=body, timeout=PATIENCE)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def start(self, code: str, **fields: Any) -> str:
        """Have code run in the background; returns the id of the execution."""
        body = {"code": code, "background": True, **fields}
        reply = self.client.post(f"{self.path}/execute", json=body)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    def post(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Do something to it."""
        reply = self.client.post(f"{self.path}/{verb}", json=fields)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def stream(self, code: str, accept: str = "application/x-ndjson") -> Iterator[dict[str, Any]]:
        """Run code and yield its events as they come."""
        with self.client.stream(
            "POST", f"{self.path}/execute", json={"code": code}, headers={"Accept": accept}
        ) as reply:
            assert reply.status_code == 200
            for one in map(json.loads, reply.iter_lines()):
                if one["type"] != "heartbeat":  # these come where a machine is busy
                    yield one


def context(server: Server, **fields: Any) -> Context:
    """Return a new context."""
    reply = server.client.post("/code/contexts", json=fields, timeout=PATIENCE)
    assert reply.status_code == 201, reply.text
    return Context(server, reply.json())


def events(server: Server, execution: str, cursor: int = 0) -> list[dict[str, Any]]:
    """Return what an execution said from a cursor on, up to its end."""
    path = f"/code/executions/{execution}/events?cursor={cursor}"
    with server.client.stream("GET", path, headers={"Accept": "application/x-ndjson"}) as reply:
        assert reply.status_code == 200
        found = [json.loads(line) for line in reply.iter_lines()]
    return [one for one in found if one["type"] != "heartbeat"]
