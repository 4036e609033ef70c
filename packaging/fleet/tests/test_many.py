"""Sandboxes by the thousand, on nodes that do not exist: what the control plane takes of them."""

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import cluster
import httpx
import pytest
from daemons import wait
from pools import Fleet
from replica import KEY, Replica, add_key

COUNT = int(os.environ.get("SANDKEEPER_FLEET_MANY") or 1000)
SECONDS = 1200 + COUNT
SANDBOXES = "sandboxes.agents.x-k8s.io"
WORKED = ("kube-apiserver", "etcd", "agent-sandbox-controller", "kube-scheduler", "kwok")


def sandbox(number: int) -> dict[str, Any]:
    """Return a Sandbox whose Pod only kwok's nodes take."""
    return {
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {"name": f"many-{number}", "namespace": "many"},
        "spec": {
            "podTemplate": {
                "spec": {
                    "nodeSelector": {"type": "kwok"},
                    "tolerations": [{"key": "type", "operator": "Equal", "value": "kwok"}],
                    "containers": [{"name": "sandbox", "image": "sandkeeper"}],
                }
            }
        },
    }


@pytest.fixture(scope="module")
def many(fleet: Fleet) -> Any:
    """The cluster, with nodes of kwok."""
    cluster.kwok(fleet.cluster)
    fleet.kubectl("create", "namespace", "many")
    fleet.wait_for_account("many")
    return fleet


def until_ready(fleet: Fleet, count: int, kind: str, *which: str) -> float:
    """Watch until as many of a kind have been ready; return when, on the monotonic clock.

    A watch, since a list of thousands again and again would be most of the API server's work.
    """
    form = 'jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}'
    words = ["kubectl", f"--kubeconfig={fleet.cluster.kubeconfig}", "get", kind, *which]
    words += ["--watch", "-o", form]
    seen: set[str] = set()
    while len(seen) < count:  # the API server ends a watch when it likes; the next one lists first
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as told:
            assert told.stdout is not None
            for line in told.stdout:
                name, _, state = line.strip().partition(" ")
                if state == "True":
                    seen.add(name)
                if len(seen) == count:
                    break
            at = time.monotonic()
            told.kill()
    return at


@pytest.mark.timeout(SECONDS)
def test_sandboxes_by_the_thousand_get_ready_and_go(
    many: Fleet, figures: Callable[[str, Any], None]
) -> None:
    made = many.cluster
    before = {name: made.seconds(name) for name in WORKED}
    parts = [range(start, min(start + 250, COUNT)) for start in range(0, COUNT, 250)]

    def create(part: range) -> None:
        text = "\n".join(json.dumps(sandbox(number)) for number in part)
        many.kubectl("create", "-f", "-", text=text)

    started = time.monotonic()
    with ThreadPoolExecutor(1) as watching, ThreadPoolExecutor(4) as workers:
        watched = watching.submit(until_ready, many, COUNT, SANDBOXES, "-n", "many")
        list(workers.map(create, parts))
        created = time.monotonic() - started
        lasted = watched.result() - started
    for name in WORKED:
        used = made.seconds(name) - before[name]
        each = f"{used:.0f} s of a processor ({used / COUNT * 1000:.0f} ms each)"
        figures(f"{COUNT} Sandboxes: {name}", f"{each}, {made.resident(name) / 2**20:.0f} MiB")
    figures(f"{COUNT} Sandboxes: created, all ready", f"{created:.0f} s, {lasted:.0f} s")

    started = time.monotonic()
    many.kubectl("delete", "namespace", "many", "--timeout=1800s")
    figures(f"{COUNT} Sandboxes: deleted", f"{time.monotonic() - started:.0f} s")


CREATIONS = max(100, COUNT // 4)
BARE = "bare=one"


def bare_claim(number: int) -> str:
    """Return what the fleet makes, as somebody else would make it."""
    return json.dumps(
        {
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxClaim",
            "metadata": {"name": f"bare-{number}", "labels": {"bare": "one"}},
            "spec": {
                "warmPoolRef": {"name": "cold"},
                "lifecycle": {
                    "shutdownTime": "2099-01-01T00:00:00Z",
                    "shutdownPolicy": "Delete",
                },
            },
        }
    )


def by_kubectl(fleet: Fleet) -> float:
    """Return how many claims a second get ready that kubectl makes; they are deleted then."""
    started = time.monotonic()
    text = "\n".join(bare_claim(number) for number in range(CREATIONS))
    with ThreadPoolExecutor(1) as making:
        made = making.submit(fleet.kubectl, "create", "-f", "-", text=text)
        lasted = until_ready(fleet, CREATIONS, "sandboxclaims", "-l", BARE) - started
        made.result()
    fleet.kubectl("delete", "sandboxclaims", "-l", BARE, "--timeout=600s")
    pods = ("pods", "--field-selector", "status.phase!=Failed", "-o", "name")
    # What still goes would be the next ones' burden.
    wait(lambda: fleet.kubectl("get", *pods).count("bare-") == 0, "the end of their Pods", 600)
    return CREATIONS / lasted


class Watchman:
    """Asks for a page and for a sandbox, straight and through the fleet, again and again."""

    def __init__(self, replica: Replica, box: str, address: str) -> None:
        straight = f"http://{address}:8080/health"
        ways = (
            ("page", f"{replica.url}/v2/sandboxes?limit=100", {"X-API-KEY": KEY}),
            ("led", f"{replica.url}/health", {"E2b-Sandbox-Id": box}),
            ("straight", straight, {"E2b-Sandbox-Id": box}),
        )
        self._ways = ways
        self._end = threading.Event()
        self.took: dict[str, list[float]] = {name: [] for name, _, _ in ways}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask for as long as the block lasts."""
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(self._ask)
            try:
                yield
            finally:
                self._end.set()
                asked.result()

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not self._end.wait(0.1):
                for name, url, headers in self._ways:
                    started = time.perf_counter()
                    assert client.get(url, headers=headers).is_success
                    self.took[name].append(time.perf_counter() - started)

    def told(self, name: str) -> str:
        """Say how long one took: the median and the 99th of a hundred."""
        took = sorted(self.took[name])
        late = took[int(len(took) * 0.99)]
        return f"p50 {statistics.median(took) * 1000:.1f} ms, p99 {late * 1000:.1f} ms"


@pytest.mark.timeout(SECONDS)
def test_creations_through_the_fleet_are_as_fast_as_bare_claims(
    many: Fleet, guarded: str, figures: Callable[[str, Any], None]
) -> None:
    """The API server is the limit; and lists and ways to sandboxes go on meanwhile."""
    pod = "/spec/podTemplate/spec"
    kwoks = [{"key": "type", "operator": "Equal", "value": "kwok"}]
    many.pool(
        "cold",
        0,
        {"op": "add", "path": f"{pod}/nodeSelector", "value": {"type": "kwok"}},
        {"op": "add", "path": f"{pod}/tolerations", "value": kwoks},
        {"op": "remove", "path": f"{pod}/containers/0/startupProbe"},
    )
    add_key(many)
    replica = Replica(many, "replica-many", seconds=900)
    made = many.cluster
    try:
        with httpx.Client(
            base_url=replica.url, headers={"X-API-KEY": KEY}, trust_env=False, timeout=900,
            limits=httpx.Limits(max_connections=CREATIONS),
        ) as client, ThreadPoolExecutor(CREATIONS) as workers:  # fmt: skip

            def create(template: str) -> str:
                body = {"templateID": template, "timeout": 3600}
                reply = client.post("/v2/sandboxes", json=body)
                assert reply.status_code == 201, reply.text
                return str(reply.json()["sandboxID"])

            box = create(guarded)
            address = many.get("sandboxclaim", box)["status"]["sandbox"]["podIPs"][0]
            bare = by_kubectl(many)
            used, theirs = replica.seconds(), made.seconds("kube-apiserver")
            started = time.monotonic()
            ids = list(workers.map(create, ["cold"] * CREATIONS))
            rate = CREATIONS / (time.monotonic() - started)
            used, theirs = replica.seconds() - used, made.seconds("kube-apiserver") - theirs
            memory = replica.resident()
            # Not while the rate is measured: who asks takes a processor, too.
            watchman = Watchman(replica, box, address)
            with watchman.watching():
                ids += workers.map(create, ["cold"] * (CREATIONS // 4))
                gone = workers.map(lambda one: client.delete(f"/sandboxes/{one}").status_code, ids)
                assert set(gone) == {204}
            assert len(set(ids)) == CREATIONS + CREATIONS // 4
            client.delete(f"/sandboxes/{box}").raise_for_status()
    finally:
        replica.kill()
    what = f"{CREATIONS} creations at once"
    figures(f"{what}: a second; bare claims by kubectl", f"{rate:.1f}; {bare:.1f}")
    figures(f"{what}: the fleet's processor each", f"{used / CREATIONS * 1000:.1f} ms")
    figures(f"{what}: the API server's each", f"{theirs / CREATIONS * 1000:.0f} ms")
    figures("the fleet's memory then", f"{memory / 2**20:.0f} MiB")
    figures("a page of 100 meanwhile", watchman.told("page"))
    figures("GET /health of a sandbox, led", watchman.told("led"))
    figures("the same, straight", watchman.told("straight"))
    many.kubectl("delete", "sandboxwarmpool", "cold")
    assert rate >= 0.8 * bare
