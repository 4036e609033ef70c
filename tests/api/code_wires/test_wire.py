"""E2B's and Blaxel's wire for code, without any SDK and with Bash alone."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, free_port, until

from sandkeeper.settings import BadSettings, Settings

pytestmark = pytest.mark.usefixtures("no_interpreter")

TOKEN = "wire-token"
BASH = {"language": "bash"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    constants = {"sandkeeper.api.code_wires.calls.KEEPALIVE_SECONDS": 0.05}
    env = {"SANDKEEPER_ON_SHUTDOWN": "stop"}
    with Server(tmp_path_factory.mktemp("wire"), env=env, constants=constants) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_ON_SHUTDOWN": "stop", "SANDKEEPER_TOKEN": TOKEN, "SANDKEEPER_E2B": "off"}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


def execute(server: Server, code: str, path: str = "/execute", **fields: Any) -> list[Any]:
    """Run code and return the lines, without heartbeats."""
    reply = server.client.post(path, json={"code": code, **(fields or BASH)})
    assert reply.status_code == 200, reply.text
    found = [json.loads(line) for line in reply.text.splitlines()]
    return [one for one in found if one["type"] != "keepalive"]


def output(lines: list[Any], kind: str = "stdout") -> str:
    return "".join(one["text"] for one in lines if one["type"] == kind)


def running(server: Server) -> list[str]:
    """Return the states of all contexts."""
    return [one["state"] for one in server.client.get("/code/contexts").json()["contexts"]]


@pytest.mark.parametrize("path", ["/execute", "/port/49999/execute", "/port/8888/execute"])
def test_code_runs_in_the_shared_context_and_lines_tell_what_it_does(
    server: Server, path: str
) -> None:
    first = execute(server, "A=kept; echo out; echo err >&2", path)
    assert [one["type"] for one in first][:1] == ["number_of_executions"]
    assert [one["type"] for one in first][-1:] == ["end_of_execution"]
    assert (output(first), output(first, "stderr")) == ("out\n", "err\n")
    assert all(one["timestamp"] > 1e18 for one in first if one["type"] == "stdout")
    second = execute(server, "echo $A $B", path, **BASH, env_vars={"B": "b"})
    assert output(second) == "kept b\n"
    assert second[0]["execution_count"] == first[0]["execution_count"] + 1


def test_headers_and_host_names_of_e2b_lead_there(server: Server) -> None:
    body = {"code": "echo here", **BASH}
    fields = {"E2b-Sandbox-Id": "x", "E2b-Sandbox-Port": "49999"}
    reply = server.client.post("/execute", json=body, headers=fields)
    assert '"here\\n"' in reply.text
    named = {"Host": f"49999.localhost:{server.port}"}
    assert '"here\\n"' in server.client.post("/execute", json=body, headers=named).text
    # A page of another port may ask ports, and this one would be more than that.
    page = {**named, "Origin": f"http://3000.localhost:{server.port}"}
    assert server.client.post("/execute", json=body, headers=page).status_code == 422


def test_contexts_are_made_listed_begun_anew_and_ended(server: Server) -> None:
    made = server.client.post("/contexts", json={**BASH, "cwd": "/usr"}).json()
    assert (made["language"], made["cwd"]) == ("bash", "/usr")
    assert made in server.client.get("/contexts").json()
    assert output(execute(server, "A=1; pwd", context_id=made["id"])) == "/usr\n"
    path = f"/contexts/{made['id']}"
    assert server.client.post(f"{path}/restart").status_code == 200
    assert output(execute(server, "echo ${A-none}", context_id=made["id"])) == "none\n"
    assert server.client.delete(path).status_code == 200
    assert made not in server.client.get("/contexts").json()
    assert server.client.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"code": "", "context_id": "none"}, 404, "not found"),
        ({"code": "", "context_id": "a", "language": "b"}, 400, "Only one of"),
        ({"language": "bash"}, 400, "code"),
        ({"code": 5}, 400, "code"),
        ({"code": "", "language": "no-such-language"}, 422, "no-such-language"),
    ],
)
def test_what_makes_no_sense_is_refused_in_plain_words(
    server: Server, body: Any, status: int, text: str
) -> None:
    reply = server.client.post("/execute", json=body)
    assert (reply.status_code, text in reply.text) == (status, True), reply.text
    assert reply.headers["content-type"].startswith("text/plain")
    blaxel = server.client.post("/port/8888/execute", json=body)
    assert (blaxel.status_code, text in blaxel.json()["error"]) == (status, True)


def test_a_quiet_execution_has_heartbeats(server: Server) -> None:
    go = server.workdir / "go"
    os.mkfifo(go)
    body = {"code": f"read -r x <{go}; echo $x", **BASH}
    with server.client.stream("POST", "/execute", json=body) as reply:
        lines = reply.iter_lines()
        assert any(json.loads(line)["type"] == "keepalive" for line in lines)
        go.write_text("done\n")
        assert '{"type":"end_of_execution"}' in list(lines)


def leave(server: Server, path: str, code: str, **fields: Any) -> None:
    """Ask for an execution, wait for its first word and go away."""
    with server.client.stream("POST", path, json={"code": code, **fields}) as reply:
        for line in reply.iter_lines():
            if "begun" in line:
                return
    raise AssertionError("it has never begun")


def test_a_client_of_e2b_that_goes_away_interrupts_what_it_had_run(server: Server) -> None:
    made = server.client.post("/contexts", json=BASH).json()["id"]
    execute(server, "A=kept", context_id=made)
    leave(server, "/execute", "echo begun; sleep 600", context_id=made)
    assert output(execute(server, "echo $A", context_id=made)) == "kept\n"


def test_a_client_of_blaxel_that_goes_away_interrupts_nothing(server: Server) -> None:
    made = server.client.post("/contexts", json=BASH).json()["id"]
    go = server.workdir / "go-on"
    os.mkfifo(go)
    code = f"echo begun; read -r x <{go}; A=$x"
    leave(server, "/port/8888/execute", code, context_id=made)
    go.write_text("done\n")
    assert output(execute(server, "echo $A", context_id=made)) == "done\n"


def test_what_waits_for_a_client_that_has_gone_never_runs(server: Server) -> None:
    made = server.client.post("/contexts", json=BASH).json()["id"]
    go = server.workdir / "go-next"
    os.mkfifo(go)
    first = {"code": f"echo begun; read -r x <{go}; A=$x", "context_id": made}
    with server.client.stream("POST", "/execute", json=first) as reply:
        lines = reply.iter_lines()
        while "begun" not in next(lines):
            pass
        with server.client.stream(
            "POST", "/execute", json={"code": "A=never", "context_id": made}
        ) as second:
            assert '"keepalive"' in next(second.iter_lines())
        path = f"/code/contexts/{made}"
        until(lambda: "cancelled" in server.client.get(path).text)
        go.write_text("done\n")
        assert '{"type":"end_of_execution"}' in list(lines)
    assert output(execute(server, "echo $A", context_id=made)) == "done\n"


def test_an_end_that_the_interpreter_did_not_tell_is_an_error(server: Server) -> None:
    made = server.client.post("/contexts", json=BASH).json()["id"]
    lines = execute(server, "echo last; kill -9 $$", context_id=made)
    assert output(lines) == "last\n"
    assert [one["type"] for one in lines[-3:]] == [
        *("error", "unexpected_end_of_execution", "end_of_execution"),
    ]
    assert lines[-3]["name"] == "InterpreterDied"


def elsewhere(e2b: int, blaxel: int) -> dict[str, Any]:
    """Return constants by which the wire is at other ports: tests beside this one use its own."""
    return {
        "sandkeeper.settings.CODE_PORTS": [e2b, blaxel],
        "sandkeeper.settings.BLAXEL_CODE_PORT": blaxel,
        "sandkeeper.api.edge.urls.CODE_PORTS": [e2b, blaxel],
        "sandkeeper.api.code_wires.calls.BLAXEL_CODE_PORT": blaxel,
    }


def test_a_server_of_the_sandbox_on_that_port_goes_first(tmp_path: Path) -> None:
    def answer() -> None:
        with listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntheirs")

    with socket.create_server(("127.0.0.1", free_port())) as listener:
        port = listener.getsockname()[1]
        env = {"SANDKEEPER_ON_SHUTDOWN": "stop"}
        with Server(tmp_path, env=env, constants=elsewhere(free_port(), port)) as server:
            thread = threading.Thread(target=answer)
            thread.start()
            body = {"code": "echo ours", **BASH}
            reply = server.client.post(f"/port/{port}/execute", json=body)
            thread.join()
            assert reply.text == "theirs"
            listener.close()
            assert "ours" in server.client.post(f"/port/{port}/execute", json=body).text


def test_other_paths_and_ports_are_those_of_the_sandbox(server: Server) -> None:
    for path in ("/port/8888/other", f"/port/{free_port()}/execute"):
        reply = server.client.post(path, json={"code": "x"})
        assert (reply.status_code, reply.json()["code"]) == (422, "PORT_NOT_LISTENING")


def test_the_token_is_needed_whatever_the_address(guarded: Server) -> None:
    body = {"code": "echo in", **BASH}
    for path in ("/execute", "/port/8888/execute"):
        assert guarded.client.post(path, json=body).status_code == 401
    token = {"Authorization": f"Bearer {TOKEN}"}
    # E2B's wire is switched off; Blaxel's is not.
    assert guarded.client.post("/execute", json=body, headers=token).status_code == 404
    reply = guarded.client.post("/port/49999/execute", json=body, headers=token)
    assert reply.status_code == 422
    assert '"in\\n"' in guarded.client.post("/port/8888/execute", json=body, headers=token).text


def test_a_link_to_the_port_runs_no_code(guarded: Server) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    reply = guarded.client.post(
        "/network/ports/8888/links", json={"once": False, "via": "prefix"}, headers=token
    )
    assert reply.status_code == 201, reply.text
    with httpx.Client(base_url=guarded.url, timeout=60) as stranger:
        opened = stranger.get(reply.json()["url"])
        assert (opened.status_code, "set-cookie" in opened.headers) == (303, True)
        told = stranger.post("/port/8888/execute", json={"code": "echo in", **BASH})
    assert (told.status_code, told.json()["code"]) == (422, "PORT_NOT_LISTENING")


def test_a_server_listens_on_the_ports_of_code_interpreters_when_it_is_told_to(
    tmp_path: Path,
) -> None:
    e2b, blaxel = free_port(), free_port()
    env = {"SANDKEEPER_CODE_PORTS": f"{e2b} {blaxel}", "SANDKEEPER_ON_SHUTDOWN": "stop"}
    with Server(tmp_path, env=env, constants=elsewhere(e2b, blaxel)) as server:
        body = {"code": "echo at", **BASH}
        for port in (e2b, blaxel):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                for fields in ({}, {"E2b-Sandbox-Port": str(port), "E2b-Sandbox-Id": "x"}):
                    assert '"at\\n"' in client.post("/execute", json=body, headers=fields).text
                named = {"Host": f"{port}.localhost:{port}"}
                assert '"at\\n"' in client.post("/execute", json=body, headers=named).text
        # The server finds itself there, and asks nobody.
        assert output(execute(server, "echo by", f"/port/{blaxel}/execute")) == "by\n"


def test_other_ports_are_none_of_code_interpreters() -> None:
    with pytest.raises(BadSettings, match="SANDKEEPER_CODE_PORTS: '80' is none of 8888 and 49999"):
        Settings.read({"SANDKEEPER_CODE_PORTS": "80"})
