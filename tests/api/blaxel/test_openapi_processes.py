"""What fits the description of the process routes, or not, gets an answer it allows."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.harness import Server

DESCRIPTION = Path(__file__).parents[3] / "src" / "sandkeeper" / "openapi" / "processes.json"
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
schema = schemathesis.openapi.from_dict(json.loads(DESCRIPTION.read_text()))


@pytest.fixture(scope="module")
def busy(server: Server) -> Server:
    """Return a server with a finished process `a` and a running one `b`."""
    server.run("echo out; echo err >&2", name="a")
    server.client.post("/process", json={"name": "b", "command": "cat", "stdin": True})
    return server


def _harmless(body: dict[str, Any]) -> dict[str, Any]:
    """Whatever comes is data here, never a program."""
    made = dict(body)
    if isinstance(body.get("command"), str):
        made["command"] = ": " + body["command"].split("\n")[0].encode().hex()
    if isinstance(body.get("argv"), list) and body["argv"]:
        made["argv"] = ["true", *body["argv"][1:]]
    if made == body:
        return made
    return made | {"waitForPorts": [], "timeout": 5, "restartOnFailure": False}


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_the_description_allows(case, busy: Server) -> None:
    body = case.body
    if case.path == "/process" and isinstance(body, dict):
        case.body = _harmless(body)
    if case.path.endswith("/wait") and isinstance((case.query or {}).get("timeout"), int):
        case.query["timeout"] = min(1, case.query["timeout"])
    if case.path.endswith("/started"):
        case.query = {**(case.query or {}), "completion": "0", "ports": "x"}
    if isinstance(body, dict) and case.path.endswith("/wait-for"):
        case.body = {**body, "timeout": 0.1}
    if len((case.path_parameters or {}).get("identifier", "")) % 2:
        case.path_parameters["identifier"] = "a" if "stream" in case.path else "b"
        if case.path.endswith("/events"):
            case.path_parameters["identifier"] = "a"
    case.call_and_validate(base_url=busy.url, checks=CHECKS, timeout=20)


def test_the_description_names_every_process_route(server: Server) -> None:
    paths = json.loads(DESCRIPTION.read_text())["paths"]
    made = server.run("true", name="named")

    for path, item in paths.items():
        if "get" in item:
            reply = httpx.get(server.url + path.replace("{identifier}", made["name"]))
            assert reply.status_code == 200, path
