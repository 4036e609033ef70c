"""A cluster's stand-in, two replicas of a fleet, and real servers that play the Pods."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.apiserver import ApiServer
from tests.harness import Server, free_port, until

POD_TOKEN = "of-the-pods"
SECRET = "of-the-fleet"
DOMAIN = "fleet.test"
ALICE, BOB = "e2b_alice", "e2b_bob"


class Replica:
    """One `sandkeeper fleet`; `client` asks it as Alice."""

    def __init__(self, folder: Path, api: ApiServer, pod_port: int, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "fleet.log"
        self.env = {
            **os.environ,
            "SANDKEEPER_FLEET_KUBECONFIG": str(api.kubeconfig(folder / "kubeconfig")),
            "SANDKEEPER_FLEET_POD_PORT": str(pod_port),
            "SANDKEEPER_FLEET_DOMAIN": DOMAIN,
            "SANDKEEPER_TOKEN": POD_TOKEN,
            "SANDKEEPER_FLEET_SECRET": SECRET,
            "SANDKEEPER_LOG": str(self.log),
            **settings,
        }
        self._clients: list[httpx.Client] = []
        self.client = self.asking(ALICE)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it knows the cluster."""
        command = [sys.executable, "-m", "sandkeeper", "fleet", "--host", "127.0.0.1"]
        self.process = subprocess.Popen([*command, "--port", str(self.port)], env=self.env)
        until(self.is_ready, every=0.05)

    def is_ready(self) -> bool:
        """Say whether it says that it is."""
        assert self.process.poll() is None
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def asking(self, key: str) -> httpx.Client:
        """Return a client with a key."""
        headers = {"X-API-KEY": key}
        client = httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=False
        )
        self._clients.append(client)
        return client

    def create(self, **fields: Any) -> dict[str, Any]:
        """Make a sandbox as Alice."""
        headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
        body = {"templateID": "base", **fields}
        reply = self.client.post("/v2/sandboxes", json=body, headers=headers)
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        return made

    def listed(self, **query: Any) -> list[str]:
        """Return the ids of one page."""
        found = self.client.get("/v2/sandboxes", params=query).json()
        return [one["sandboxID"] for one in found]

    def stop(self) -> int:
        """End it, unless it has ended, and return its exit status."""
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


def add_key(api: ApiServer, name: str, key: str, **fields: str) -> None:
    """Make a Secret with an API key."""
    values = {"key": key, **fields}
    api.put(
        "secrets",
        name,
        metadata={"name": name, "labels": {"fleet.sandkeeper.dev/api-key": "true"}},
        data={one: base64.b64encode(value.encode()).decode() for one, value in values.items()},
    )


@pytest.fixture(scope="session")
def api() -> Iterator[ApiServer]:
    serving = ApiServer()
    limits = {"cpu": "1500m", "memory": "2Gi"}
    pod = {"spec": {"containers": [{"name": "sandbox", "resources": {"limits": limits}}]}}
    serving.put("sandboxtemplates", "python", spec={"podTemplate": pod})
    serving.put("sandboxwarmpools", "base", spec={"sandboxTemplateRef": {"name": "python"}})
    add_key(serving, "alice", ALICE)
    add_key(serving, "bob", BOB, sandboxes="2", seconds="600", templates="base, other")
    yield serving
    serving.close()
    assert serving.asked <= granted()


def granted() -> set[tuple[str, str]]:
    """Return what the Roles of `deploy/kubernetes/fleet` permit."""
    folder = Path(__file__).parents[2] / "deploy" / "kubernetes" / "fleet"
    files = [folder / "rbac.yaml", folder / "keys.yaml"]
    made = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    return {
        (verb, plural)
        for role in made
        if role["kind"] == "Role"
        for rule in role["rules"]
        for verb in rule["verbs"]
        for plural in rule["resources"]
    }


@pytest.fixture(scope="session")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server in every sandbox."""
    env = {
        "SANDKEEPER_TOKEN": POD_TOKEN,
        "SANDKEEPER_PORT_HOSTS": "{port}-{id}.*",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    with Server(tmp_path_factory.mktemp("pod"), env=env) as running:
        running.client.headers["Authorization"] = f"Bearer {POD_TOKEN}"
        yield running


@pytest.fixture(scope="session")
def make_replica(
    tmp_path_factory: pytest.TempPathFactory, api: ApiServer, pod: Server
) -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(**settings: str) -> Replica:
        made.append(Replica(tmp_path_factory.mktemp("fleet"), api, pod.port, **settings))
        return made[-1]

    yield make
    for one in made:
        assert one.stop() in {0, -9}
    for one in made:
        lines = [json.loads(line) for line in one.log.read_text().splitlines()]
        assert [one for one in lines if one["level"] == "error" and one["source"] != "access"] == []


@pytest.fixture(scope="session")
def _fleet(make_replica: Callable[..., Replica]) -> Replica:
    return make_replica()


@pytest.fixture
def fleet(_fleet: Replica) -> Replica:
    """Return a replica that has heard the end of what earlier tests made."""
    for key in (ALICE, BOB):
        asked = {"url": "/v2/sandboxes", "headers": {"X-API-KEY": key}}
        until(lambda asked=asked: _fleet.client.get(**asked).json() == [])
    return _fleet


@pytest.fixture(autouse=True)
def _nothing_is_left(api: ApiServer) -> Iterator[None]:
    yield
    api.call(lambda: [api.delete("sandboxclaims", name) for name in api_names(api)])


def api_names(api: ApiServer) -> list[str]:
    """Return the claims, on the server's loop."""
    return list(api.objects.get("sandboxclaims", {}))
