"""`sandkeeper fleet` in front of a real cluster: replicas of it, and a key for its clients."""

import json
import os
import subprocess
from typing import Any

import httpx
from cluster import ROOT
from daemons import started_at, wait
from pools import TOKEN, Fleet
from tests.harness import free_port

KEY = "e2b_" + "0" * 40
SECONDS = 30
"""How long a creation waits; what it leaves behind ends by itself half a minute later."""


def add_key(fleet: Fleet) -> None:
    """Have there be the Secret of a key."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "team-one", "labels": {"fleet.sandkeeper.dev/api-key": "true"}},
        "stringData": {"key": KEY},
    }
    fleet.kubectl("apply", "-f", "-", text=json.dumps(secret))


class Replica:
    """A `sandkeeper fleet` on a port of its own."""

    def __init__(self, fleet: Fleet, name: str, seconds: int = SECONDS) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        env = {
            **os.environ,
            "SANDKEEPER_TOKEN": TOKEN,
            "SANDKEEPER_FLEET_KUBECONFIG": str(fleet.cluster.kubeconfig),
            "SANDKEEPER_FLEET_TEMPLATE": "guarded",
            "SANDKEEPER_FLEET_START_SECONDS": str(seconds),
            "SANDKEEPER_LOG": str(fleet.cluster.folder / f"{name}.log"),
        }
        command = [f"{ROOT}/.venv/bin/sandkeeper", "fleet", "--host", "127.0.0.1"]
        self.process = subprocess.Popen([*command, "--port", str(self.port)], env=env)
        wait(self._ready, f"the replica {name}", 60)

    def _ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def options(self) -> dict[str, Any]:
        """What points a client at this replica."""
        return {"api_url": self.url, "sandbox_url": self.url, "api_key": KEY}

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def seconds(self) -> float:
        """Return how much time of a processor it has had."""
        assert started_at(self.process.pid)
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Return its memory in bytes."""
        with open(f"/proc/{self.process.pid}/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
