"""The command as a user has it: a process of its own, against a real server."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from tests.client import verbs
from tests.client.verbs import COMMAND
from tests.harness import Server

Ask = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Ask:
    """Return a function that runs a verb against the module's server, in a folder of its own."""

    def run(
        *words: str, stdin: bytes = b"", url: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        variables = {**server.env, "SANDKEEPER_URL": url or server.url, **(env or {})}
        return verbs.run(*words, env=variables, folder=tmp_path, stdin=stdin)

    return run


@pytest.fixture
def terminal(server: Server) -> Callable[..., pexpect.spawn]:
    """Return a function that runs a verb in a terminal of 30 lines of 100 columns."""

    def spawn(*words: str) -> pexpect.spawn:
        return pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], *words],
            env={**server.env, "SANDKEEPER_URL": server.url, "TERM": "xterm"},
            dimensions=(30, 100),
            timeout=60,
            encoding="utf-8",
        )

    return spawn
