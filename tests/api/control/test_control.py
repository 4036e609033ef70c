"""The control plane of one machine, without any SDK: its answers, its ends, what it refuses."""

import os
import time
from typing import Any

import pytest
from tests.e2b_wire import call, output, shell, stream
from tests.harness import Server, alive, start, until

ID = "E2b-Sandbox-Id"


def create(server: Server, **fields: Any) -> dict[str, Any]:
    reply = server.client.post("/v2/sandboxes", json={"templateID": "base", **fields})
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


def listed(server: Server, **query: str) -> list[str]:
    found = server.client.get("/v2/sandboxes", params=query).json()
    return [one["sandboxID"] for one in found]


def test_the_machine_is_one_sandbox_from_its_creation_to_its_end(server: Server) -> None:
    assert listed(server) == []
    made = create(server, metadata={"a": "b"}, envVars={"V": "1"}, timeout=60)
    name = made["sandboxID"]
    assert made["envdVersion"]
    assert "envdAccessToken" not in made
    again = create(server, metadata={"a": "c"}, timeout=90)
    assert again["sandboxID"] == name
    detail = server.client.get(f"/sandboxes/{name}").json()
    assert (detail["state"], detail["metadata"]) == ("running", {"a": "c"})
    assert detail["memoryMB"] > 0
    assert listed(server, metadata="a=c", state="running") == [name]
    assert listed(server, metadata="a=b") == listed(server, state="paused") == []

    pid = int(start(server, "sleep 100")["pid"])
    terminal = server.client.post("/terminals", json={}).json()
    assert server.client.delete(f"/sandboxes/{name}").status_code == 204
    until(lambda: not alive(pid))
    until(lambda: not alive(terminal["pid"]))
    assert server.client.delete(f"/sandboxes/{name}").json()["code"] == 404
    assert listed(server) == []
    gone = call(server, "process.Process/List", {}, E2b_Sandbox_Id=name)
    assert (gone.status_code, gone.json()["code"]) == (502, 502)
    health = server.client.get("/health", headers={ID: name})
    assert (health.status_code, "was not found" in health.json()["message"]) == (502, True)
    assert server.client.get("/health", headers={ID: "debug_sandbox_id"}).status_code == 204
    assert create(server)["sandboxID"] != name
    assert call(server, "process.Process/List", {}).status_code == 200


def test_variables_of_a_sandbox_are_those_of_its_creation(server: Server) -> None:
    create(server, envVars={"V": "1"})
    assert output(stream(server, "process.Process/Start", shell("echo $V"))) == b"1\n"
    create(server)
    assert output(stream(server, "process.Process/Start", shell("echo $V"))) == b"\n"


def test_a_pause_stops_what_runs_and_connect_lets_it_go_on(server: Server) -> None:
    name = create(server)["sandboxID"]
    pid = int(start(server, "while :; do :; done")["pid"])

    def state() -> str:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

    assert server.client.post(f"/sandboxes/{name}/pause").status_code == 204
    until(lambda: state() == "T")
    assert server.client.post(f"/sandboxes/{name}/pause").status_code == 409
    assert listed(server, state="paused") == [name]
    away = call(server, "process.Process/List", {}, E2b_Sandbox_Id=name)
    assert (away.status_code, away.json()["message"]) == (502, "The sandbox is paused")
    connected = server.client.post(f"/v2/sandboxes/{name}/connect", json={"timeout": 30})
    assert (connected.status_code, connected.json()["sandboxID"]) == (201, name)
    until(lambda: state() == "R")
    again = server.client.post(f"/v2/sandboxes/{name}/connect", json={})
    assert again.status_code == 200
    os.kill(pid, 9)


def test_a_sandbox_ends_at_its_time_or_is_paused_then(server: Server) -> None:
    name = create(server, timeout=100)["sandboxID"]
    pid = int(start(server, "sleep 100")["pid"])
    assert server.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 0}).status_code == 204
    until(lambda: listed(server) == [])
    until(lambda: not alive(pid))

    name = create(server, timeout=0, autoPause=True)["sandboxID"]
    until(lambda: listed(server, state="paused") == [name])
    assert server.client.post(f"/sandboxes/{name}/resume", json={}).status_code == 201
    # Its end was over before: that it goes on and for how long is one step.
    assert listed(server, state="running") == [name]


def test_connect_never_shortens_a_life_and_set_timeout_does(server: Server) -> None:
    name = create(server, timeout=1000)["sandboxID"]

    def left() -> float:
        from datetime import datetime

        ends = server.client.get(f"/sandboxes/{name}").json()["endAt"]
        return datetime.fromisoformat(ends).timestamp() - time.time()

    server.client.post(f"/v2/sandboxes/{name}/connect", json={"timeout": 10})
    assert left() > 800
    server.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 300})
    assert 100 < left() < 310
    server.client.post(f"/sandboxes/{name}/refreshes", json={"timeout": 900})
    assert left() > 700


def test_a_restart_knows_the_sandbox_and_when_it_ends(make_server: Any) -> None:
    server = make_server()
    name = create(server, timeout=1000, metadata={"k": "v"})["sandboxID"]
    server.kill9()
    server.restart()
    assert server.client.get(f"/sandboxes/{name}").json()["metadata"] == {"k": "v"}
    pid = int(start(server, "sleep 100")["pid"])
    server.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 3})
    server.kill9()
    server.restart()
    until(lambda: not alive(pid))  # nobody had to ask
    assert listed(server) == []


def test_use_is_told(server: Server) -> None:
    name = create(server)["sandboxID"]
    (one,) = server.client.get(f"/sandboxes/{name}/metrics").json()
    assert one["memUsed"] < one["memTotal"]
    assert one["cpuCount"] >= 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/sandboxes", {"volumeMounts": [{"name": "v", "path": "/v"}]}),
        ("POST", "/v2/sandboxes", {"allow_internet_access": False}),
        ("POST", "/v2/sandboxes", {"network": {"denyOut": ["0.0.0.0/0"]}}),
        ("POST", "/v2/sandboxes", {"mcp": {"x": {}}}),
        ("POST", "/sandboxes/x/fork", {}),
        ("POST", "/sandboxes/x/snapshots", {}),
        ("PUT", "/sandboxes/x/network", {}),
        ("GET", "/templates", None),
        ("POST", "/templates/base/builds/x", {}),
        ("GET", "/volumes", None),
        ("DELETE", "/secrets/a", None),
    ],
)
def test_what_a_machine_cannot_do_is_refused_in_e2bs_words(
    server: Server, method: str, path: str, body: Any
) -> None:
    reply = server.client.request(method, path, json=body)
    assert (reply.status_code, reply.json()["code"]) == (501, 501)
    assert reply.json()["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"timeout":-1}', b'{"timeout":"x"}'])
def test_what_makes_no_sense_is_refused(server: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = server.client.post("/v2/sandboxes", content=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, 400)


def test_a_key_is_the_token_and_opens_the_sandbox(make_server: Any) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": "key", "SANDKEEPER_ADMIN_TOKEN": "admin"})
    for path in ("/v2/sandboxes", "/sandboxes/x", "/sandboxes/x/metrics", "/templates/x"):
        for headers in ({}, {"X-API-Key": "wrong"}):
            reply = server.client.get(path, headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, 401), path
    for key in ("key", "admin"):
        made = server.client.post("/v2/sandboxes", json={}, headers={"X-API-Key": key}).json()
        assert made["envdAccessToken"] == "key"
    listed_ = call(server, "process.Process/List", {}, X_Access_Token=made["envdAccessToken"])
    assert listed_.status_code == 200
