"""The published clients against a real server, as they come from their registries."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import Server

HERE = Path(__file__).parent
NODE = HERE.parent.parent / ".state" / "node-sdk"
NODE_SDK = "@blaxel/core@0.3.21"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Install the Node client once, into a folder that git ignores."""
    NODE.mkdir(parents=True, exist_ok=True)
    with open(NODE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (NODE / "node_modules/@blaxel/core/package.json").exists():
            subprocess.run(
                [
                    "npm",
                    "install",
                    "--no-save",
                    "--no-audit",
                    "--no-fund",
                    "--prefix",
                    NODE,
                    NODE_SDK,
                ],
                check=True,
                timeout=120,
            )
    return NODE


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(120)
def test_the_python_clients_files_work_async_and_sync(server: Server, tmp_path: Path) -> None:
    output = run(sys.executable, HERE / "files_sdk.py", server.url, tmp_path)

    assert output.split("\n")[:2] == ["async ok", "sync ok"]


@pytest.mark.timeout(180)
def test_the_node_clients_files_work_with_and_without_a_trailing_slash(
    server: Server, tmp_path: Path, node_modules: Path
) -> None:
    output = run("node", HERE / "files_sdk.mjs", node_modules, server.url, tmp_path)

    assert output.count("ok") == 2
