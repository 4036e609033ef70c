"""Programs without a shell, variables of their own, fractions of a second, and other users."""

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.harness import Server, needs_root, over, start, until

USER, ADMIN = {"Authorization": "Bearer user"}, {"Authorization": "Bearer admin"}


def test_a_program_is_run_as_its_words_say(server: Server) -> None:
    made = server.client.post(
        "/process", json={"argv": ["printf", "%s|", "a b", "$HOME", "*"], "waitForCompletion": True}
    ).json()
    assert made["stdout"] == "a b|$HOME|*|"
    assert made["command"] == "printf '%s|' 'a b' '$HOME' '*'"
    assert made["argv"] == ["printf", "%s|", "a b", "$HOME", "*"]
    both = server.client.post("/process", json={"argv": ["true"], "command": "true"})
    assert both.status_code == 400
    none = server.client.post("/process", json={"argv": ["/no/such/program"]})
    assert (none.status_code, "/no/such/program" in none.json()["error"]) == (422, True)


def test_an_environment_may_start_empty(server: Server) -> None:
    made = server.client.post(
        "/process",
        json={
            "argv": ["/usr/bin/env"],
            "inheritEnv": False,
            "env": {"A": "1"},
            "waitForCompletion": True,
        },
    ).json()
    assert made["stdout"] == "A=1\n"


def test_a_timeout_may_be_a_fraction_of_a_second(server: Server) -> None:
    late = server.client.post(
        "/process", json={"command": "sleep 60", "timeout": 0.25, "waitForCompletion": True}
    )
    assert (late.status_code, late.json()["error"]) == (422, "process timed out after 0.25 seconds")
    whole = server.client.post(
        "/process", json={"command": "sleep 60", "timeout": 1, "waitForCompletion": True}
    )
    assert whole.json()["error"] == "process timed out after 1 seconds"


def test_a_tag_is_kept_over_a_restart(make_server: Any) -> None:
    server = make_server()
    name = start(server, "sleep 60", tag="mine")["name"]
    fields = {"argv": ["sleep", "60"], "inheritEnv": False, "timeout": 600.5}
    argv = server.client.post("/process", json=fields).json()["name"]
    server.kill9()
    server.restart()
    assert server.client.get(f"/process/{name}").json()["tag"] == "mine"
    assert server.client.get(f"/process/{argv}").json()["argv"] == ["sleep", "60"]
    for one in (name, argv):
        server.client.delete(f"/process/{one}/kill")


def test_a_terminal_runs_any_program_and_shows_its_bytes(server: Server) -> None:
    program = 'read line; printf \'got %s %s \\377\\n\' "$line" "$A"'
    made = server.client.post(
        "/terminals",
        json={"shell": "bash", "args": ["--norc", "-c", program], "env": {"A": "a"}},
    ).json()
    assert made["args"][0] == "--norc"
    url = f"/terminals/{made['id']}"
    server.client.post(url + "/input", content=b"it\n")
    shown = server.client.get(url + "/output").content
    assert shown == b"it\r\ngot it a \xff\r\n"
    assert server.client.get(url + "/output?cursor=4").content == shown[4:]
    assert server.client.get(url + "/output?cursor=999").status_code == 400


def test_a_terminal_may_end_at_its_time(server: Server) -> None:
    made = server.client.post(
        "/terminals", json={"shell": "sleep", "args": ["60"], "timeout": 0.2}
    ).json()
    until(lambda: server.client.get(f"/terminals/{made['id']}").json()["exitSignal"] == 9)


def test_a_raw_socket_carries_bytes_both_ways(server: Server) -> None:
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{server.port}/terminal/ws?sessionId=raw&shell=cat&format=raw"
    with connect(url) as socket:
        socket.send(b"\xc3\xa9\xff\n")
        socket.send('{"type":"resize","cols":91,"rows":20}')
        seen = b""
        while b"\r\n" not in seen:
            block = socket.recv()
            assert isinstance(block, bytes)
            seen += block
    assert b"\xc3\xa9" in seen
    until(lambda: server.client.get("/terminals/raw").json()["cols"] == 91)
    server.client.delete("/terminals/raw")


# Other users


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server whose workload is daemon, which may act as bin and root as well."""
    env = {
        "SANDKEEPER_TOKEN": "user",
        "SANDKEEPER_ADMIN_TOKEN": "admin",
        "SANDKEEPER_USERS": "bin, root",
    }
    folder = tmp_path_factory.mktemp("several")
    with Server(folder, env=env, args=["--user", "daemon"]) as running:
        running.client.headers.update(USER)
        yield running


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def ran_as(server: Server, user: str, headers: dict[str, str]) -> Any:
    body = {"command": "id -un; echo $HOME", "user": user, "waitForCompletion": True}
    return server.client.post("/process", json=body, headers=headers)


@needs_root
def test_another_user_takes_the_operators_right_and_must_be_named(several: Server) -> None:
    assert ran_as(several, "", USER).json()["stdout"].startswith("daemon\n")
    assert ran_as(several, "daemon", USER).json()["stdout"].startswith("daemon\n")
    for name in ("bin", "root"):
        assert ran_as(several, name, ADMIN).json()["stdout"].startswith(f"{name}\n")
        refused = ran_as(several, name, USER)
        assert (refused.status_code, "(users)" in refused.json()["error"]) == (403, True)
    for name in ("nobody", "no-such-user", "0", "bin:root"):
        refused = ran_as(several, name, ADMIN)
        assert (refused.status_code, "SANDKEEPER_USERS" in refused.json()["error"]) == (403, True)


@needs_root
def test_what_others_run_is_out_of_reach_without_that_right(several: Server) -> None:
    fields = {"command": "cat", "user": "root", "stdin": True, "name": "of-root"}
    made = several.client.post("/process", json=fields, headers=ADMIN).json()
    shell = several.client.post(
        "/terminals", json={"user": "root", "sessionId": "root-shell"}, headers=ADMIN
    ).json()
    pid = made["pid"]
    looks = ("", "/logs", "/logs/stream", "/events", "/lines", "/wait?timeout=0")
    calls: list[tuple[str, str, Any]] = [
        *(("GET", f"/process/{pid}{path}", None) for path in looks),
        ("POST", f"/process/{pid}/stdin", b"x"),
        ("DELETE", f"/process/{pid}", None),
        ("DELETE", "/process/of-root/kill", None),
        ("POST", f"/process/{pid}/signal", b'{"signal":"HUP"}'),
        ("POST", f"/process/{pid}/wait-for", b'{"any":[{"exit":true}]}'),
        ("GET", "/terminals/root-shell", None),
        ("GET", f"/terminals/{shell['id']}/output", None),
        ("POST", "/terminals/root-shell/input", b"id\n"),
        ("DELETE", "/terminals/root-shell", None),
    ]
    for method, path, body in calls:
        reply = several.client.request(method, path, content=body)
        assert reply.status_code == 403, (method, path, reply.text)
    seen = several.client.get("/process").json() + several.client.get("/terminals").json()
    assert [one for one in seen if "user" in one] == []
    listed = several.client.post("/process.Process/List", json={}).json()
    assert pid not in [str(one["pid"]) for one in listed["processes"]]
    for tool in ("processGet", "processKill"):
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": {"identifier": pid}},
        }
        accept = {"Accept": "application/json, text/event-stream"}
        reply = several.client.post("/mcp", json=message, headers=accept).json()
        assert reply["result"]["isError"] is True, tool
    box = several.client.post("/v2/sandboxes", json={"envVars": {"LD_PRELOAD": "/x"}}).json()
    one = f"/sandboxes/{box['sandboxID']}"
    assert several.client.post(f"{one}/pause").status_code == 204
    assert several.client.delete(one).status_code == 204
    states = [Path(f"/proc/{item}/stat").read_text() for item in (pid, shell["pid"])]
    assert all(state.rpartition(")")[2].split()[0] in "SRD" for state in states)
    assert len(several.client.get("/process", headers=ADMIN).json()) >= 1
    assert several.client.delete(f"/process/{pid}/kill", headers=ADMIN).status_code == 200
    assert several.client.delete("/terminals/root-shell", headers=ADMIN).status_code == 200
    assert over(several, pid)["error"]


@needs_root
def test_files_are_another_users_by_a_parameter(several: Server, open_folder: Path) -> None:
    path = open_folder / "file"
    url = f"/filesystem/{path}".replace("//", "/%2F", 1)
    body = {"content": "theirs"}
    assert several.client.put(f"{url}?user=bin", json=body).status_code == 403
    made = several.client.put(f"{url}?user=bin", json=body, headers=ADMIN)
    assert (made.status_code, path.owner()) == (200, "bin")
    path.chmod(0o600)
    assert several.client.get(url).status_code in {403, 422, 500}
    assert several.client.get(f"{url}?user=bin", headers=ADMIN).json()["content"] == "theirs"
    spelled = several.client.get(f"{url}?a=%26&us%65r=bin", headers=ADMIN)
    assert spelled.json()["content"] == "theirs"
    assert several.client.get(f"{url}?user=nobody", headers=ADMIN).status_code == 403
    assert several.client.get(f"{url}?us%65r=bin").status_code == 403
    secret = several.client.get("/filesystem/%2Fetc/shadow?user=root")
    assert secret.status_code == 403


@needs_root
def test_a_user_is_kept_over_restarts_of_the_process(several: Server) -> None:
    body = {
        "command": "id -un; exit 1",
        "user": "bin",
        "restartOnFailure": True,
        "maxRestarts": 1,
        "waitForCompletion": True,
    }
    made = several.client.post("/process", json=body, headers=ADMIN).json()
    lines = [line for line in made["stdout"].splitlines() if line and "[" not in line]
    assert (lines, made["user"]) == (["bin", "bin"], "bin")


def test_without_a_list_a_server_acts_as_nobody_else(server: Server) -> None:
    me = server.run("id -un")["stdout"].strip()
    assert server.run("id -un", user=me)["stdout"] == f"{me}\n"
    other = "daemon" if me != "daemon" else "bin"
    refused = server.client.post("/process", json={"command": "id", "user": other})
    assert refused.status_code == 403
    assert server.client.get(f"/filesystem/?user={other}").status_code == 403
    assert os.path.exists("/etc/passwd")


@needs_root
def test_what_is_sent_as_one_content_is_the_workloads(several: Server, open_folder: Path) -> None:
    client, daemon = several.client, pwd.getpwnam("daemon")

    def put(path: str) -> httpx.Response:
        initiate = f"/filesystem-multipart/initiate/{quote(path, safe='')}"
        made = client.post(initiate, json={"permissions": "640"})
        route = f"/filesystem-multipart/{made.json()['uploadId']}"
        assert client.put(f"{route}/content", content=b"mine").status_code == 200
        return client.post(f"{route}/complete", json={"size": 4})

    assert put(f"{open_folder}/f").status_code == 200
    info = (open_folder / "f").stat()
    assert (info.st_uid, info.st_gid, info.st_nlink) == (daemon.pw_uid, daemon.pw_gid, 1)
    assert stat.S_IMODE(info.st_mode) == 0o640
    refused = put("/etc/sandkeeper-test")
    assert (refused.status_code, "permission denied" in refused.text) == (500, True)
