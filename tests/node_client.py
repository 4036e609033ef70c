"""The published Node client, installed once, driven by the scripts in `tests/e2e/node`."""

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["install", "run_node"]

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tests" / "e2e" / "node"
CLIENT = {"BL_API_KEY": "local", "BL_WORKSPACE": "local", "DO_NOT_TRACK": "1"}


@functools.cache
def install() -> None:
    """Have the client in SCRIPTS."""
    subprocess.run([ROOT / "scripts" / "npm", SCRIPTS], check=True, timeout=300)


def run_node(script: str, *arguments: object, timeout: float = 110) -> Any:
    """Run a script of the Node client and return what its last line says, as JSON."""
    install()
    # Where the machine has no Node, `scripts/npm` has put one here.
    path = f"{os.environ.get('PATH', '')}:{ROOT / '.venv' / 'bin'}"
    done = subprocess.run(
        ["node", script, *map(str, arguments)],
        cwd=SCRIPTS,
        env={**os.environ, **CLIENT, "PATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
