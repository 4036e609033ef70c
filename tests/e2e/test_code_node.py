"""The published JavaScript clients of two code interpreters, E2B's and Blaxel's, in one run."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import Server
from tests.interpreter_port import nobody_interprets
from tests.kernels import environment
from tests.node_client import run_node

KEY = "code-key"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    env = environment(SANDKEEPER_TOKEN=KEY, HOME=str(tmp_path_factory.mktemp("home")))
    with nobody_interprets(), Server(tmp_path_factory.mktemp("code"), env=env) as server:
        yield run_node("code.mjs", server.url, server.workdir, KEY, timeout=300)


@pytest.mark.timeout(600)
def test_e2bs_client(seen: dict[str, Any]) -> None:
    assert seen["first"] == ["2", ["o\n"], [["o\n", False]], None]
    assert seen["count"] == 1
    assert seen["wrong"] == ["ZeroDivisionError", "division by zero", True]
    assert seen["plot"] == ["iVBOR", "line", "T"]
    assert seen["data"] == {"a": [1, 2]}
    assert seen["envs"] == ["v 1\n"]
    assert seen["context"] == ["python", True, True]
    assert (seen["folder"], seen["restarted"]) == (True, "False")
    assert seen["timeout"].startswith("TimeoutError")
    assert seen["after"] == "4"
    assert seen["removed"].startswith("NotFoundError")


def test_blaxels_client(seen: dict[str, Any]) -> None:
    assert seen["blaxel"] == ["6", ["p\n"], ["p\n"], None]
    assert seen["apart"].startswith("kept\n/")
    assert seen["name"] == ["NameError", "name 'no_such' is not defined"]
    assert (seen["png"], seen["none"]) == ("iVBOR", True)
