"""E2B's published client for JavaScript against a real server, in one run of a script."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import Server
from tests.node_client import run_node

KEY = "e2b-key"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return what the client saw."""
    # Login shells that are killed must leave nothing behind in a real home.
    env = {"SANDKEEPER_TOKEN": KEY, "HOME": str(tmp_path_factory.mktemp("home"))}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as server:
        yield run_node("e2b.mjs", server.url, server.workdir, KEY)


@pytest.mark.timeout(400)
def test_commands(seen: dict[str, Any]) -> None:
    assert seen["run"] == ["out\nv\n", "err\n", 0, "out\nv\n"]
    assert (seen["failed"], seen["timeout"]) == ("CommandExitError", "TimeoutError")
    assert (seen["typed"], seen["listed"]) == ("typed é\n", True)
    assert seen["killed"] == [True, "CommandExitError"]
    assert seen["unknown"] == "NotFoundError"
    assert seen["many"] == ["1", "2", "3"]


def test_terminals(seen: dict[str, Any]) -> None:
    assert seen["pty"] is True


def test_files(seen: dict[str, Any]) -> None:
    assert (seen["written"], seen["read"]) == (True, "héllo")
    assert (seen["bytes"], seen["blob"], seen["streamed"]) == (6, 6, 6)
    assert (seen["gzip"], seen["multiple"]) == (7000, 2)
    assert seen["names"] == ["gz", "m1", "m2", "new", "f"]
    assert seen["info"] == ["f", "file", 6, {"k": "v"}]
    assert seen["dirs"] == [True, False]
    assert seen["moved"].endswith("/d/e/m3")
    assert seen["exists"] == [True, False]
    assert seen["missing"] == "FileNotFoundError"
    assert seen["watch"] == ["new/watched", "create"]


def test_signed_addresses(seen: dict[str, Any]) -> None:
    assert (seen["uploaded"], seen["downloaded"], seen["forged"]) == (200, "by url", 401)


def test_the_sandbox_itself(seen: dict[str, Any]) -> None:
    assert seen["sandbox"] == [{"by": "node"}, True]
    assert seen["all"] == [True]
    assert (seen["paused"], seen["connected"]) == (True, "back\n")
    assert seen["ended"] == [True, False]
    assert seen["running"] == [True, False, False]
