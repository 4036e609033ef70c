"""Pools of real Pods in a cluster that has this machine as its node."""

import json
from typing import Any

import chart
import cluster
import daemons
import node

TOKEN = "fleet-test"


class Fleet:
    """A cluster with a real node, and what is tested in it."""

    def __init__(self, made: cluster.Cluster) -> None:
        self.cluster = made
        self.kubectl, self.get = made.kubectl, made.get

    def pool(self, name: str, replicas: int, *steps: dict[str, Any], variant: str = "base") -> None:
        """Make a pool of real Pods of deploy/kubernetes, after some steps of a JSON patch."""
        volumes, mounts = node.volumes()
        pod = "/spec/podTemplate/spec"
        container = f"{pod}/containers/0"
        more = [
            {"op": "add", "path": f"{container}/imagePullPolicy", "value": "Never"},
            *({"op": "add", "path": f"{container}/volumeMounts/-", "value": one} for one in mounts),
            *(
                {"op": "add", "path": "/spec/podTemplate/spec/volumes/-", "value": one}
                for one in volumes
            ),
            *steps,
        ]
        made = chart.render(chart.KUSTOMIZE / variant)
        for one in made:
            if one["kind"] == "SandboxTemplate":
                for step in more:
                    chart.change(one, step)
                one["metadata"]["name"] = name
            if one["kind"] == "SandboxWarmPool":
                one["metadata"]["name"] = name
                one["spec"] = {"replicas": replicas, "sandboxTemplateRef": {"name": name}}
            if one["kind"] == "Secret":
                one.pop("data")
                one["stringData"] = {"token": TOKEN}
        text = "\n".join(json.dumps(one) for one in made)
        self.kubectl("apply", "-f", "-", text=text)

    def wait_for_account(self, namespace: str) -> None:
        """Wait until a namespace has what Pods need."""
        kind = ("serviceaccounts", "-n", namespace)
        daemons.wait(lambda: self.get(*kind)["items"], "a service account", 60)

    def filled(self, name: str, replicas: int, timeout: float = 300.0) -> None:
        """Wait until a pool has as many ready sandboxes."""
        daemons.wait(
            lambda: (
                self.get("sandboxwarmpool", name).get("status", {}).get("readyReplicas", 0)
                >= replicas
            ),
            f"a pool of {replicas}: {self.kubectl('get', 'pods')}",
            timeout,
        )
