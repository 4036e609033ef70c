"""The image: what tools of others make of it, and the server as process 1 of it."""

import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from machines import NAME, ROOT
from tests.harness import free_port, until, zombies_of

IMAGE = ROOT / "dist" / f"{NAME}.oci.tar"
SECONDS = 300


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as a runtime bundle (OCI runtime-spec): config.json and rootfs."""
    folder = tmp_path_factory.mktemp("image")
    layout = f"{folder}/layout:latest"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci-archive:{IMAGE}:latest", f"oci:{layout}"],
        check=True,
        capture_output=True,
        timeout=SECONDS,
    )
    command = ["umoci", "unpack", "--image", layout, folder / "made"]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return folder / "made"


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_engines_read_what_it_is(kind: str) -> None:
    command = ["skopeo", "inspect", "--config", f"{kind}:{IMAGE}"]
    if kind == "oci-archive":
        command[-1] += ":latest"
    done = subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    told = json.loads(done.stdout)

    assert (told["os"], told["config"]["StopSignal"]) == ("linux", "SIGTERM")
    assert told["config"]["Entrypoint"] == ["/opt/sandkeeper/bin/sandkeeper"]
    assert "8080/tcp" in told["config"]["ExposedPorts"]


def test_it_is_process_1_reaps_and_ends_when_it_is_told_to(unpacked: Path) -> None:
    config = json.loads((unpacked / "config.json").read_text())
    root, port = unpacked / "rootfs", free_port()
    (root / "proc").mkdir(exist_ok=True)
    spaces = ["unshare", "--pid", "--mount", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
    program = [*config["process"]["args"], "--port", str(port)]
    environment = dict(one.split("=", 1) for one in config["process"]["env"])
    environment["PATH"] += ":/usr/sbin"
    with subprocess.Popen(
        [*spaces, "chroot", root, *program], env=environment, stdout=subprocess.DEVNULL
    ) as outer:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        until(lambda: _healthy(client))
        (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()

        # Processes whose parents end are process 1's, which takes their status.
        body = {"command": "(sleep 0.01 &) ; (true &) ; echo $$", "waitForCompletion": True}
        assert client.post("/process", json=body).json()["exitCode"] == 0
        until(lambda: not zombies_of(int(first)))

        # As an engine's health check runs: in the same namespaces.
        health = {**environment, "SANDKEEPER_URL": f"http://127.0.0.1:{port}"}
        inside = ["nsenter", "--target", first, "--mount", "--pid", "--root"]
        asked = [*inside, "/usr/local/bin/sandkeeper", "health"]
        told = subprocess.run(asked, env=health, capture_output=True, text=True, check=False)
        assert (told.returncode, told.stdout) == (0, "ok\n")

        os.kill(int(first), signal.SIGTERM)
        assert outer.wait(SECONDS) == 0
        client.close()


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
