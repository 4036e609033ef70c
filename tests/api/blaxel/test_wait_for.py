"""The readiness wait: any or all of a port, an HTTP status, a line, a file, the end."""

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, free_port, until
from tests.mcp_calls import Tools


def start(server: Server, command: str, name: str, **fields) -> str:
    reply = server.client.post("/process", json={"command": command, "name": name, **fields})
    assert reply.status_code == 200, reply.text
    return name


def wait_for(server: Server, name: str, **body: Any) -> httpx.Response:
    return server.client.post(f"/process/{name}/wait-for", json=body)


def met(reply: httpx.Response) -> list[bool]:
    return [one["met"] for one in reply.json()["conditions"]]


def waiters(server: Server, name: str) -> int:
    cursors = server.client.get("/diagnostics").json()["cursors"]
    return sum((one["consumer"], one["name"]) == ("wait", name) for one in cursors)


def test_all_kinds_of_conditions_are_met_together(server: Server, tmp_path: Path) -> None:
    port, flag = free_port(), tmp_path / "flag"
    command = f"echo one; echo ready now >&2; touch {flag}; exec python3 -m http.server {port}"
    name = start(server, command, "web", workingDir=str(tmp_path))
    reply = wait_for(
        server,
        name,
        all=[
            {"port": port},
            {"http": {"port": port, "path": "/flag", "status": 200}},
            {"log": {"pattern": "^ready (now|then)$", "stream": "stderr"}},
            {"file": str(flag)},
        ],
        timeout=60,
    )

    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert (found["status"], found["exitCode"], met(reply)) == ("running", 0, [True] * 4)
    assert found["conditions"][1]["status"] == 200
    assert found["conditions"][2]["line"] == "ready now"
    assert found["conditions"][2]["offset"] == len("one\nready now\n")
    server.client.delete("/process/web/kill")


def test_of_a_long_line_the_place_around_the_match_is_shown(server: Server) -> None:
    program = "print('ä' * 20000 + ' READY ' + 'ö' * 20000)"
    name = start(server, f'python3 -c "{program}"', "long-line")

    found = wait_for(server, name, all=[{"log": {"text": "READY"}}]).json()
    told = Tools(server).value("processWait", identifier=name, text="READY")

    line = found["conditions"][0]["line"]
    assert (len(line), told["line"]) == (8192, line)
    before, _, behind = line.partition(" READY ")
    assert (set(before), set(behind)) == ({"ä"}, {"ö"})
    assert abs(len(before) - len(behind)) <= 4


def test_one_condition_is_enough_for_any(server: Server) -> None:
    name = start(server, "echo hello; sleep 60", "any")
    reply = wait_for(server, name, any=[{"port": 1}, {"log": {"text": "hell"}}, {"exit": True}])

    assert (reply.status_code, met(reply)) == (200, [False, True, False])
    server.client.delete("/process/any/kill")


def test_the_end_of_the_process_fails_at_once_and_tells_what_is_missing(server: Server) -> None:
    name = start(server, "echo almost; read; exit 3", "dies", stdin=True)
    port = free_port()
    began = time.monotonic()
    server.client.post(f"/process/{name}/stdin", content=b"\n")
    reply = wait_for(
        server,
        name,
        all=[
            {"log": {"text": "almost"}},
            {"port": port},
            {"http": {"port": port}},
            {"file": "/never/made"},
            {"log": {"text": "ready"}},
        ],
        timeout=55,
    )

    assert time.monotonic() - began < 50
    assert reply.status_code == 422
    assert reply.json()["code"] == "PROCESS_ENDED"
    assert reply.json()["exitCode"] == 3
    assert met(reply)[1:] == [False] * 4
    assert f"not met: port {port}" in reply.json()["error"]


def test_a_server_that_never_answers_does_not_outlive_its_process(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        name = start(server, "sleep 0.3; exit 1", "silent")
        began = time.monotonic()
        reply = wait_for(server, name, any=[{"http": {"port": port}}], timeout=55)

    assert (reply.status_code, reply.json()["code"]) == (422, "PROCESS_ENDED")
    assert time.monotonic() - began < 50


def test_survivors_may_still_become_ready(server: Server, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    name = start(server, f"(sleep 0.5; touch {flag}) & exit 0", "parent")
    reply = wait_for(server, name, all=[{"file": str(flag)}, {"exit": 0}], timeout=60)

    assert reply.status_code == 200, reply.text


def test_the_time_is_up_with_what_was_met_and_what_was_not(server: Server) -> None:
    name = start(server, "echo here; sleep 60", "slow")
    assert wait_for(server, name, any=[{"log": {"text": "here"}}]).status_code == 200
    reply = wait_for(
        server, name, all=[{"log": {"text": "here"}}, {"file": "/never/made"}], timeout=0.3
    )

    assert (reply.status_code, met(reply)) == (422, [True, False])
    assert reply.json()["code"] == "TIMED_OUT"
    assert reply.json()["error"] == (
        "not ready within 0.3 seconds; not met: file /never/made; met: log 'here'"
    )
    server.client.delete("/process/slow/kill")


def test_an_exit_code_is_waited_for(server: Server) -> None:
    name = start(server, "exit 7", "seven")

    assert wait_for(server, name, any=[{"exit": 7}]).status_code == 200
    assert wait_for(server, name, any=[{"exit": True}]).status_code == 200
    other = wait_for(server, name, all=[{"exit": True}, {"exit": 0}])
    assert (other.status_code, met(other)) == (422, [True, False])


def test_a_listener_on_loopback_counts_where_it_is_asked_for(server: Server) -> None:
    port = free_port()
    code = (
        f"import signal,socket; s=socket.create_server(('127.0.0.1',{port})); "
        "signal.alarm(60); signal.pause()"
    )
    name = start(server, f'exec python3 -S -c "{code}"', "local")

    assert wait_for(server, name, all=[{"port": port, "loopback": True}]).status_code == 200
    assert wait_for(server, name, all=[{"port": port}], timeout=0.3).status_code == 422
    server.client.delete("/process/local/kill")


def test_a_line_is_found_behind_a_flood_while_others_are_served(server: Server) -> None:
    # 40 MB of lines on one stream, of which none matches.
    name = start(server, "seq 5500000; echo 'at last: ok'; sleep 60", "flood")
    began = time.monotonic()
    reply = wait_for(server, name, any=[{"log": {"pattern": "^at last: \\w+$"}}], timeout=60)

    assert reply.status_code == 200, reply.text
    assert reply.json()["conditions"][0]["line"] == "at last: ok"
    print(f"found after {time.monotonic() - began:.2f} s")
    server.client.delete("/process/flood/kill")


def test_lines_are_matched_whole_however_they_are_cut(server: Server) -> None:
    command = "printf 'on'; sleep 0.1; printf 'e\\ntw'; sleep 0.1; printf 'o\\n'; sleep 60"
    name = start(server, command, "cut")

    assert wait_for(server, name, any=[{"log": {"pattern": "^two$"}}]).status_code == 200
    assert wait_for(server, name, any=[{"log": {"pattern": "\\Atwo\\z"}}]).status_code == 200
    assert wait_for(server, name, any=[{"log": {"pattern": "(?i)^TWO$"}}]).status_code == 200
    assert wait_for(server, name, any=[{"log": {"pattern": "(?-m)^two$"}}]).status_code == 200
    spanning = wait_for(server, name, any=[{"log": {"pattern": "e\\stw"}}], timeout=0.3)
    assert spanning.status_code == 422
    server.client.delete("/process/cut/kill")


def test_a_client_that_leaves_frees_the_wait(server: Server) -> None:
    name = start(server, "sleep 60", "left")
    with pytest.raises(httpx.ReadTimeout):
        server.client.post(
            f"/process/{name}/wait-for",
            json={"all": [{"log": {"text": "x"}}, {"port": 1}, {"file": "/never"}]},
            timeout=0.3,
        )
    until(lambda: waiters(server, name) == 0)
    server.client.delete("/process/left/kill")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"any": [], "all": []},
        {"any": [{"exit": True}], "all": [{"exit": True}]},
        {"any": [{}]},
        {"any": [{"prot": 80}]},
        {"any": [{"port": 80, "file": "/x"}]},
        {"any": [{"port": 0}]},
        {"any": [{"port": 65536}]},
        {"any": [{"loopback": True, "exit": True}]},
        {"any": [{"http": {"port": 80, "path": "no-slash"}}]},
        {"any": [{"http": {"port": 80, "path": "/ HTTP/1.1\r\nX: y"}}]},
        {"any": [{"http": {"port": 80, "status": 99}}]},
        {"any": [{"log": {}}]},
        {"any": [{"log": {"pattern": "(("}}]},
        {"any": [{"log": {"text": "x", "stream": "both"}}]},
        {"any": [{"log": {"text": "x", "offset": 1 << 40}}]},
        {"any": [{"log": {"txt": "x"}}]},
        {"any": [{"file": ""}]},
        {"any": [{"file": "a\0b"}]},
        {"any": [{"exit": False}]},
        {"any": [{"exit": True}], "timeout": -1},
        {"any": [{"exit": True}] * 17},
        {"any": "exit"},
    ],
)
def test_what_makes_no_sense_is_refused(server: Server, body: dict) -> None:
    name = server.run("true")["name"]
    reply = wait_for(server, name, **body)

    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]


def test_an_unknown_process_is_told(server: Server) -> None:
    assert wait_for(server, "nobody", any=[{"exit": True}]).status_code == 404


def test_a_tool_waits_by_the_same_conditions(server: Server) -> None:
    tools = Tools(server)
    name = start(server, "echo up; exit 4", "tool")
    found = tools.value("processWaitFor", identifier=name, all=[{"log": {"text": "up"}}])

    assert found["conditions"][0]["line"] == "up"
    words = tools.error("processWaitFor", identifier=name, any=[{"port": 1}, {"exit": 0}])
    assert "exit code 4" in words
    assert "not met: port 1, exit 0" in words
    assert "validating" in tools.error("processWaitFor", identifier=name, any=[{"prot": 1}])
