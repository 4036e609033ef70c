"""Sandboxes by the thousand, on nodes that do not exist: what the control plane takes of them."""

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import cluster
import pytest
from cluster import wait
from pools import Fleet

COUNT = int(os.environ.get("SANDKEEPER_FLEET_MANY") or 1000)
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


def ready(fleet: Fleet) -> int:
    one = '{.status.conditions[?(@.type=="Ready")].status}'
    path = f'jsonpath={{range .items[*]}}{one}{{" "}}{{end}}'
    words = ("sandboxes.agents.x-k8s.io", "-n", "many", "--chunk-size=0", "-o", path)
    return fleet.kubectl("get", *words).count("True")


@pytest.mark.timeout(3600)
def test_sandboxes_by_the_thousand_get_ready_and_go(
    many: Fleet, figures: Callable[[str, Any], None]
) -> None:
    made = many.cluster
    before = {name: made.seconds(name) for name in WORKED}
    parts = [range(start, min(start + 250, COUNT)) for start in range(0, COUNT, 250)]
    failed: list[Exception] = []

    def create(part: range) -> None:
        text = "\n".join(json.dumps(sandbox(number)) for number in part)
        try:
            many.kubectl("create", "-f", "-", text=text)
        except RuntimeError as error:
            failed.append(error)

    started = time.monotonic()
    workers = [threading.Thread(target=create, args=(part,)) for part in parts]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    created = time.monotonic() - started
    assert failed == []
    wait(lambda: ready(many) == COUNT, f"{COUNT} Sandboxes", 1800)
    lasted = time.monotonic() - started
    for name in WORKED:
        used = made.seconds(name) - before[name]
        each = f"{used:.0f} s of a processor ({used / COUNT * 1000:.0f} ms each)"
        figures(f"{COUNT} Sandboxes: {name}", f"{each}, {made.resident(name) / 2**20:.0f} MiB")
    figures(f"{COUNT} Sandboxes: created, all ready", f"{created:.0f} s, {lasted:.0f} s")

    started = time.monotonic()
    many.kubectl("delete", "namespace", "many", "--timeout=1800s")
    figures(f"{COUNT} Sandboxes: deleted", f"{time.monotonic() - started:.0f} s")
