"""The published clients against a real server, as they come from their registries."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import Server
from tests.node_client import run_node

HERE = Path(__file__).parent


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_python_clients_files_work_async_and_sync(server: Server, tmp_path: Path) -> None:
    output = run(sys.executable, HERE / "files_sdk.py", server.url, tmp_path)

    assert output.split("\n")[:2] == ["async ok", "sync ok"]


@pytest.mark.timeout(400)
def test_the_node_clients_files_work_with_and_without_a_trailing_slash(
    server: Server, tmp_path: Path
) -> None:
    assert run_node("files.mjs", server.url, tmp_path) == ["ok", "ok"]
