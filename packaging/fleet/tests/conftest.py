"""What `make fleet-test` needs: one cluster for all, with this machine as its node, and pools."""

import os
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import command
import node
import pytest
import yaml
from pools import Fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """One cluster; its folder is told to scripts/fleet-test, which ends what this did not."""
    folder = os.environ.get("SANDKEEPER_FLEET_STATE") or tempfile.mkdtemp(prefix="sk-fleet-")
    with command.running(Path(folder)) as made:
        node.up(made)
        assert os.environ.get("KUBECONFIG") == str(made.kubeconfig), "scripts/fleet-test says it"
        yield Fleet(made)


@pytest.fixture(scope="session")
def figures() -> Callable[[str, Any], None]:
    """Note a figure; scripts/fleet-test shows them at its end."""

    def note(what: str, value: Any) -> None:
        path = os.environ.get("SANDKEEPER_FLEET_FIGURES")
        if path:
            with Path(path).open("a") as kept:
                kept.write(f"| {what} | {value} |\n")

    return note


@pytest.fixture(scope="session")
def guarded(fleet: Fleet) -> str:
    """A pool of deploy/kubernetes as it is, with its token."""
    fleet.pool("guarded", 2)
    fleet.filled("guarded", 2)
    return "guarded"


@pytest.fixture(scope="session")
def open_pool(fleet: Fleet) -> str:
    """A pool without a token, for clients that can send none."""
    container = "/spec/podTemplate/spec/containers/0"
    fleet.pool("open", 2, {"op": "remove", "path": f"{container}/env/0"})
    fleet.filled("open", 2)
    return "open"


@pytest.fixture(scope="session")
def their_runtime(fleet: Fleet) -> str:
    """A pool of agent-sandbox's own runtime: its program, of its module, with its requirements."""
    place = cluster.CACHE / "python-runtime"
    if not (place / "venv" / "made").exists():
        shutil.rmtree(place / "venv", ignore_errors=True)
        venv.create(place / "venv", with_pip=False, symlinks=True)
        needed = ["fastapi<1", "uvicorn<1", "python-multipart<1"]
        pip = [f"{cluster.ROOT}/scripts/pip", f"{place}/venv/bin/python", "install", "-q"]
        subprocess.run([*pip, *needed], check=True)
        (place / "venv" / "made").touch()
    module = cluster.module_folder("sigs.k8s.io/agent-sandbox")
    source = module / "examples/python-runtime-sandbox/main.py"
    (place / "main.py").write_bytes(source.read_bytes())
    volumes, mounts = node.volumes()
    container = {
        "name": "sandbox",
        "image": "fleet/python-runtime:1",
        "imagePullPolicy": "Never",
        "workingDir": str(place),
        "args": ["main:app", "--host", "0.0.0.0", "--port", "8888", "--log-level", "trace"],
        "ports": [{"name": "http", "containerPort": 8888}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        "volumeMounts": mounts,
    }
    user = {"runAsNonRoot": True, "runAsUser": 1000}
    pod = {"containers": [container], "volumes": volumes, "securityContext": user}
    made = [
        {
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxTemplate",
            "metadata": {"name": "theirs"},
            "spec": {"podTemplate": {"spec": pod}, "networkPolicyManagement": "Unmanaged"},
        },
        {
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxWarmPool",
            "metadata": {"name": "theirs"},
            "spec": {"replicas": 2, "sandboxTemplateRef": {"name": "theirs"}},
        },
    ]
    fleet.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(made))
    fleet.filled("theirs", 2)
    return "theirs"
