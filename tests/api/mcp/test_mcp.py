"""MCP: the protocol's edge, the list of tools, process tools."""

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from jsonschema import Draft202012Validator
from tests.harness import Server, free_port, until
from tests.mcp_calls import HEADERS, Tools

from sandkeeper import __version__

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
NOTE = {"jsonrpc": "2.0", "method": "notifications/initialized"}
UNCONDITIONAL = [
    *("codegenCodebaseSearch", "codegenFileSearch", "codegenGrepSearch", "codegenListDir"),
    *("codegenParallelApply", "codegenReadFileRange", "codegenReapply"),
    *("fsDeleteFileOrDirectory", "fsEditFile", "fsGetWorkingDirectory", "fsListDirectory"),
    *("fsReadFile", "fsWriteFile"),
    *("processExecute", "processGet", "processGetLogs", "processKill", "processStop"),
    "processesList",
]


# The edge


def test_get_says_that_there_is_no_stream(server: Server) -> None:
    reply = server.client.get("/mcp")

    assert reply.status_code == 405
    assert reply.json() == {
        "error": "SSE streaming not supported. Please use POST for MCP communication."
    }


@pytest.mark.parametrize("method", ["DELETE", "HEAD", "PUT"])
def test_other_methods_are_unknown_routes(server: Server, method: str) -> None:
    assert server.client.request(method, "/mcp").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:9"}, 200),
        ({"Host": "127.8.9.1"}, 200),
        ({"Mcp-Protocol-Version": "2030-01-01"}, 400),
        ({"Mcp-Protocol-Version": "2024-11-05"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Accept": "application/json"}, 400),
        ({"Accept": "text/event-stream"}, 400),
        ({"Accept": "*/*"}, 200),
        ({"Accept": "application/*, text/*;q=0.1"}, 200),
        ({"Last-Event-ID": "4"}, 400),
    ],
)
def test_heads_are_checked(tools: Tools, headers: dict[str, str], status: int) -> None:
    reply = tools.post(PING, **headers)

    assert reply.status_code == status
    if status != 200 and "Mcp-Protocol-Version" not in headers:
        assert reply.headers["content-type"].startswith("text/plain")


def test_an_absent_accept_fails(server: Server) -> None:
    body = json.dumps(PING).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 400")


def test_the_host_is_checked_before_all_else(tools: Tools) -> None:
    reply = tools.post(b"", Host="evil.example", Accept="x")

    assert (reply.status_code, reply.text) == (
        403,
        'Forbidden: invalid Host header "evil.example"',
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"null",
        b"1",
        b"[]",
        b"[1]",
        b"{}",
        b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"no/such"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]1}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_a_400(tools: Tools, body: bytes) -> None:
    assert tools.post(body).status_code == 400


def test_a_body_over_four_mebibytes_is_a_413(tools: Tools) -> None:
    message = {**PING, "params": {"_meta": {"x": "a" * (4 << 20)}}}

    assert tools.post(message).status_code == 413


def test_notifications_and_responses_are_accepted_with_an_empty_202(tools: Tools) -> None:
    for body in (NOTE, {"jsonrpc": "2.0", "id": 5, "result": {}}, [NOTE, NOTE]):
        reply = tools.post(body)
        assert (reply.status_code, reply.content) == (202, b"")


def test_a_batch_is_answered_in_the_versions_that_had_them(tools: Tools) -> None:
    batch = [{**PING, "id": "a"}, NOTE, {**PING, "id": 2}]

    answers = tools.post(batch).json()
    assert sorted(str(answer["id"]) for answer in answers) == ["2", "a"]
    assert all(answer["result"] == {} for answer in answers)
    for version, status in (("2025-03-26", 200), ("2025-06-18", 400), ("2025-11-25", 400)):
        assert tools.post(batch, **{"Mcp-Protocol-Version": version}).status_code == status


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ],
)
def test_initialize_tells_name_version_and_capabilities(
    tools: Tools, asked: str, given: str
) -> None:
    client = {"name": "test", "version": "0"}
    answer = tools.rpc(
        "initialize", {"protocolVersion": asked, "capabilities": {}, "clientInfo": client}
    )

    assert answer["result"] == {
        "protocolVersion": given,
        "serverInfo": {"name": "sandkeeper", "version": __version__},
        "capabilities": {"logging": {}, "tools": {"listChanged": True}},
        "instructions": answer["result"]["instructions"],
    }


def test_no_session_is_opened(tools: Tools) -> None:
    assert "mcp-session-id" not in tools.post(PING).headers


def test_a_log_level_is_accepted(tools: Tools) -> None:
    assert tools.rpc("logging/setLevel", {"level": "debug"})["result"] == {}


def test_a_method_of_the_protocol_that_is_not_served_is_a_json_rpc_error(tools: Tools) -> None:
    assert tools.rpc("resources/list")["result"] == {"resources": []}


@pytest.mark.parametrize("name", ["nope", "", "processes list", "codegenEditFile"])
def test_an_unknown_tool_is_a_json_rpc_error(tools: Tools, name: str) -> None:
    error = tools.rpc("tools/call", {"name": name})["error"]

    assert (error["code"], error["message"]) == (-32602, f'unknown tool "{name}"')


@pytest.mark.parametrize(
    "params", [None, {}, {"name": 5}, {"name": "processesList", "arguments": 3}]
)
def test_a_call_without_a_name_is_a_json_rpc_error(tools: Tools, params: object) -> None:
    assert tools.rpc("tools/call", params)["error"]["code"] == -32602


# The list


def test_every_tool_of_the_contract_is_listed_by_name_on_one_page(tools: Tools) -> None:
    result = tools.rpc("tools/list")["result"]
    names = [tool["name"] for tool in result["tools"]]

    assert set(UNCONDITIONAL) <= set(names)
    assert names == sorted(names)
    assert "nextCursor" not in result
    assert (result["ttlMs"], result["cacheScope"]) == (0, "public")


def test_every_tool_has_a_description_and_closed_schemas(tools: Tools) -> None:
    def closed(schema: object) -> None:
        if isinstance(schema, list):
            for item in schema:
                closed(item)
        if isinstance(schema, dict):
            if "properties" in schema:
                assert schema["additionalProperties"] is False
            for item in schema.values():
                closed(item)

    for tool in tools.listed().values():
        assert set(tool) == {"name", "description", "inputSchema", "outputSchema"}
        assert tool["description"]
        for part in ("inputSchema", "outputSchema"):
            assert tool[part]["type"] == "object"
            Draft202012Validator.check_schema(tool[part])
            assert "$ref" not in json.dumps(tool[part])
            closed(tool[part])


def test_the_arguments_are_those_of_the_contract(tools: Tools) -> None:
    listed = tools.listed()
    wanted = {
        "processExecute": (
            {"command"},
            "name workingDir env waitForCompletion timeout waitForPorts restartOnFailure "
            "maxRestarts keepAlive",
        ),
        "processGet": ({"identifier"}, ""),
        "processGetLogs": ({"identifier"}, ""),
        "processStop": ({"identifier"}, ""),
        "processKill": ({"identifier"}, ""),
        "processesList": (set(), ""),
        "fsGetWorkingDirectory": (set(), ""),
        "fsListDirectory": ({"path"}, ""),
        "fsReadFile": ({"path"}, ""),
        "fsWriteFile": ({"path"}, "content permissions isDirectory"),
        "fsEditFile": ({"path", "oldString", "newString"}, "replaceAll"),
        "fsDeleteFileOrDirectory": ({"path"}, "isDirectory recursive"),
        "codegenFileSearch": ({"query"}, "directory"),
        "codegenCodebaseSearch": ({"query"}, "targetDirectories"),
        "codegenGrepSearch": ({"query"}, "caseSensitive includePattern excludePattern"),
        "codegenReadFileRange": (
            {"targetFile", "startLineOneIndexed", "endLineOneIndexedInclusive"},
            "",
        ),
        "codegenReapply": ({"targetFile"}, ""),
        "codegenListDir": ({"relativeWorkspacePath"}, ""),
        "codegenParallelApply": ({"editPlan", "editRegions"}, ""),
    }
    for name, (required, optional) in wanted.items():
        schema = listed[name]["inputSchema"]
        assert set(schema["required"]) == required, name
        extra = (
            {"stdin", "limits", "argv", "inheritEnv", "user", "tag"}
            if name == "processExecute"
            else set()
        )
        assert set(schema["properties"]) == required | set(optional.split()) | extra, name


# Process tools


def test_a_command_runs_and_is_found(tools: Tools) -> None:
    done = tools.value(
        "processExecute", command="echo out; echo err >&2; exit 3", waitForCompletion=True
    )

    assert (done["status"], done["exitCode"], done["logs"]) == ("failed", 3, "out\nerr\n")
    assert "pollRequired" not in done
    record = tools.value("processGet", identifier=done["name"])
    assert record["pid"] == done["pid"]
    assert record["stderr"] == "err\n"
    assert tools.value("processGetLogs", identifier=done["pid"]) == {"logs": "out\nerr\n"}
    listed = tools.value("processesList")["processes"]
    assert done["pid"] in [item["pid"] for item in listed]
    over_http = tools.server.client.get(f"/process/{done['pid']}").json()
    assert over_http == record


def test_a_program_runs_without_a_shell_and_with_its_own_variables(tools: Tools) -> None:
    argv = ["/usr/bin/env", "printenv", "A"]
    asked = {"command": "", "argv": argv, "env": {"A": "$HOME *"}, "inheritEnv": False}

    done = tools.value("processExecute", **asked, tag="mine", waitForCompletion=True)

    assert done["logs"] == "$HOME *\n"
    record = tools.value("processGet", identifier=done["pid"])
    assert (record["argv"], record["tag"]) == (argv, "mine")
    both = tools.error("processExecute", command="true", argv=["true"])
    assert "give command or argv, not both" in both
    neither = tools.error("processExecute", command="")
    assert "command is empty" in neither


def test_a_process_runs_as_a_user_of_the_servers_only(tools: Tools) -> None:
    refused = tools.error("processExecute", command="true", user="daemon")

    assert "this server does not act as the user 'daemon'" in refused


def test_an_unnamed_command_runs_in_the_root_folder_and_does_not_wait(tools: Tools) -> None:
    done = tools.value("processExecute", command="pwd; sleep 60")

    assert set(done) == {"pid", "name", "status", "exitCode"}
    assert done["status"] == "running"
    until(lambda: tools.value("processGetLogs", identifier=done["pid"])["logs"] == "/\n")
    assert tools.value("processStop", identifier=done["pid"]) == {"status": "stopped"}
    assert tools.value("processGet", identifier=done["pid"])["status"] == "stopped"


def test_kill_ends_a_process_that_ignores_the_stop(tools: Tools) -> None:
    done = tools.value("processExecute", command="trap '' TERM; echo up; while :; do sleep 9; done")
    until(lambda: tools.value("processGetLogs", identifier=done["pid"])["logs"])
    assert tools.value("processStop", identifier=done["pid"]) == {"status": "stopped"}

    assert tools.value("processKill", identifier=done["pid"]) == {"status": "killed"}
    assert tools.value("processGet", identifier=done["pid"])["status"] == "killed"


@pytest.mark.parametrize(
    ("tool", "prefix"),
    [
        ("processGet", "failed to get process: "),
        ("processGetLogs", "failed to get process logs: "),
        ("processStop", "failed to stop process: "),
        ("processKill", "failed to kill process: "),
    ],
)
def test_an_unknown_process_is_an_error_of_the_tool(tools: Tools, tool: str, prefix: str) -> None:
    assert tools.error(tool, identifier="nobody").startswith(prefix)


def test_environment_and_folder_are_taken(tools: Tools) -> None:
    done = tools.value(
        "processExecute", command="echo $A; pwd", env={"A": "b"}, workingDir="/tmp",
        waitForCompletion=True, name=None, timeout=None, keepAlive=None, waitForPorts=None,
    )  # fmt: skip

    assert done["logs"] == "b\n/tmp\n"
    assert 'validating "arguments": ' in tools.error("processExecute", command="x", env=None)


def test_a_name_is_unique_among_running_processes(tools: Tools) -> None:
    tools.value("processExecute", command="sleep 60", name="only")

    assert "already exists" in tools.error("processExecute", command="true", name="only")
    tools.value("processKill", identifier="only")
    tools.value("processExecute", command="true", name="only")


def test_a_wait_that_expires_is_an_error_with_its_seconds(tools: Tools) -> None:
    started = time.monotonic()
    text = tools.error("processExecute", command="sleep 60", waitForCompletion=True, timeout=1)

    assert "process timed out after 1 seconds" in text
    assert 0.9 < time.monotonic() - started < 20


def test_a_long_wait_ends_with_poll_required_and_the_process_goes_on(make_server) -> None:
    # The cap of 58 seconds, made short for the test.
    own: Server = make_server(env={"SANDKEEPER_MCP_WAIT_SECONDS": "8"})
    tools = Tools(own)
    asked = {"command": "echo on; sleep 60", "waitForCompletion": True}
    with ThreadPoolExecutor() as pool:
        for done in pool.map(
            lambda more: tools.value("processExecute", **asked, **more),
            ({"timeout": 100}, {"timeout": 0}, {"keepAlive": True}),
        ):
            told = (done["pollRequired"], done["status"], done["logs"])
            assert told == (True, "running", "on\n")
            assert "processGet" in done["message"]
            assert "after 8 seconds" in done["message"]
            assert tools.value("processGet", identifier=done["pid"])["status"] == "running"


def test_ports_are_waited_for(tools: Tools) -> None:
    port = free_port()
    done = tools.value(
        "processExecute",
        command=f"python3 -m http.server {port} --bind 0.0.0.0",
        waitForPorts=[port],
        name="web",
    )

    with socket.create_connection(("127.0.0.1", port)):
        assert done["status"] == "running"
    tools.value("processKill", identifier="web")
    text = tools.error("processExecute", command="exit 4", waitForPorts=[port])
    assert "exit code 4" in text
    assert "between 1 and 65535" in tools.error("processExecute", command="x", waitForPorts=[0])


def test_actions_are_audited_with_the_caller(make_server) -> None:
    own: Server = make_server()
    tools = Tools(own)
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "processExecute", "arguments": {"command": "true"}},
    }
    tools.post(message, **{"X-Blaxel-Subject-Id": "me"})
    own.stop()

    (line,) = [line for line in own.log_lines() if line.get("action") == "process_exec"]
    assert (line["sub-id"], line["command"], line["working-dir"]) == ("me", "true", "/")


# Additive process tools


def test_wait_answers_with_the_line_that_was_waited_for(tools: Tools) -> None:
    done = tools.value(
        "processExecute", command="echo one; echo 'port: 8'; printf 'name? '; sleep 60",
        name="waited",
    )  # fmt: skip

    found = tools.value("processWait", identifier="waited", regex=r"port: \d")
    assert (found["reason"], found["line"], found["status"]) == ("output", "port: 8", "running")
    prompt = tools.value("processWait", identifier="waited", text="name?", offset=found["offset"])
    assert (prompt["reason"], prompt["line"]) == ("output", "name? ")
    assert tools.value("processWait", identifier="waited", text="x", timeout=0.05) == {
        **prompt, "reason": "timeout", "line": "",
    }  # fmt: skip
    tools.value("processKill", identifier=done["pid"])
    assert tools.value("processWait", identifier="waited", text="x")["reason"] == "exited"


def test_wait_for_the_end_and_for_ports(tools: Tools) -> None:
    port = free_port()
    tools.value(
        "processExecute", command=f"exec python3 -m http.server {port} --bind 0.0.0.0", name="w2"
    )

    assert tools.value("processWait", identifier="w2", ports=[port])["reason"] == "ports"
    killer = threading.Timer(0.05, lambda: tools.server.client.delete("/process/w2/kill"))
    killer.start()
    over = tools.value("processWait", identifier="w2")
    killer.join()
    assert (over["reason"], over["status"]) == ("exited", "killed")


def test_a_bad_pattern_or_offset_is_an_error(tools: Tools) -> None:
    tools.value("processExecute", command="true", name="pattern", waitForCompletion=True)

    assert "invalid pattern" in tools.error("processWait", identifier="pattern", regex="(")
    assert "invalid pattern" in tools.error("processQueryLogs", identifier="pattern", regex="(")
    assert "beyond the end" in tools.error("processWait", identifier="pattern", offset=10)


def test_a_line_of_many_parts_is_one_line_of_a_log(tools: Tools) -> None:
    long = "python3 -c \"print('a'+'你'*50000); print('second')\""
    tools.value("processExecute", command=long, name="long", waitForCompletion=True)
    found = tools.value("processQueryLogs", identifier="long", limit=2)

    assert [(line["line"], line["text"]) for line in found["lines"]] == [
        (1, "a" + "你" * 50_000),
        (2, "second"),
    ]


def test_a_log_is_asked_on_the_server(tools: Tools) -> None:
    tools.value(
        "processExecute", command="seq 1 5000; echo oops >&2", name="log", waitForCompletion=True
    )

    found = tools.value("processQueryLogs", identifier="log", regex="^499[0-9]$", limit=3)
    assert [line["text"] for line in found["lines"]] == ["4990", "4991", "4992"]
    assert found["truncated"] is True
    more = tools.value(
        "processQueryLogs", identifier="log", regex="^499[0-9]$", offset=found["nextOffset"]
    )
    assert [line["text"] for line in more["lines"]] == [str(4993 + n) for n in range(7)]
    last = tools.value("processQueryLogs", identifier="log", tail=2, stream="stdout")
    assert [line["text"] for line in last["lines"]] == ["4999", "5000"]
    errors = tools.value("processQueryLogs", identifier="log", stream="stderr")
    assert [line["text"] for line in errors["lines"]] == ["oops"]
    assert tools.value("processQueryLogs", identifier="log", offset=errors["nextOffset"]) == {
        "lines": [],
        "truncated": False,
        "nextOffset": errors["nextOffset"],
    }


def test_a_process_is_fed_through_its_stdin(tools: Tools) -> None:
    tools.value("processExecute", command="cat; echo end", name="fed", stdin=True)
    tools.value("processWriteStdin", identifier="fed", data="hello\n")

    assert tools.value("processWait", identifier="fed", text="hello")["reason"] == "output"
    tools.value("processWriteStdin", identifier="fed", close=True)
    assert tools.value("processWait", identifier="fed")["reason"] == "exited"
    assert tools.value("processGetLogs", identifier="fed")["logs"] == "hello\nend\n"
    assert "stdin is closed" in tools.error("processWriteStdin", identifier="fed", data="x")


# Many at once, and the cost


def test_fifty_concurrent_calls_are_answered_once_each(server: Server) -> None:
    def one(number: int) -> tuple[int, object, str]:
        body = {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {
                "name": "processExecute",
                "arguments": {"command": f"echo {number}", "waitForCompletion": True},
            },
        }
        reply = client.post("/mcp", json=body, headers=HEADERS).json()
        return number, reply["id"], reply["result"]["structuredContent"]["logs"]

    limits = httpx.Limits(max_connections=50)
    with (
        httpx.Client(base_url=server.url, timeout=30, trust_env=False, limits=limits) as client,
        ThreadPoolExecutor(50) as pool,
    ):
        answers = list(pool.map(one, range(50)))

    assert answers == [(number, number, f"{number}\n") for number in range(50)]


def test_a_client_that_goes_away_ends_its_wait(make_server) -> None:
    own: Server = make_server()
    tools = Tools(own)
    tools.value("processExecute", command="sleep 60", name="long")
    params = {"name": "processWait", "arguments": {"identifier": "long", "text": "never"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    head = "".join(f"{key}: {value}\r\n" for key, value in HEADERS.items())

    def waiting() -> int:
        return own.client.get("/diagnostics").json()["requests"]["inFlight"]

    with socket.create_connection(("127.0.0.1", own.port)) as sock:
        sock.sendall(
            f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{head}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: waiting() == 2)
    until(lambda: waiting() == 1)
    assert own.client.get("/diagnostics").json()["cursors"] == []


def test_the_sdk_is_loaded_by_the_first_good_request_while_others_are_answered(
    make_server,
) -> None:
    own: Server = make_server(cold=True)
    tools = Tools(own)

    def loaded() -> bool:
        with open(f"/proc/{own.pid}/maps", encoding="utf-8", errors="replace") as maps:
            return "pydantic_core" in maps.read()

    own.client.get("/mcp")
    tools.post(b"{")
    tools.post(NOTE)
    assert not loaded()
    first = threading.Thread(target=lambda: Tools(own).post(PING))
    answered = 0
    with httpx.Client(base_url=own.url, trust_env=False, timeout=60) as client:
        client.get("/health")
        first.start()
        while first.is_alive():
            client.get("/health")
            answered += 1
    first.join()

    assert loaded()
    assert answered > 10  # a loop that is held answers one of them, when it is free again


def test_a_token_guards_the_tools(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    tools = Tools(own)

    assert tools.post(PING).status_code == 401
    assert tools.post(PING, Authorization="Bearer s3cret").status_code == 200


def test_descriptors_do_not_pile_up(make_server) -> None:
    own: Server = make_server()
    tools = Tools(own)
    tools.value("processExecute", command="echo x", name="x", waitForCompletion=True)
    folder = f"/proc/{own.pid}/fd"
    until(lambda: tools.value("processWait", identifier="x")["reason"] == "exited")
    before = len(os.listdir(folder))
    for _ in range(20):
        tools.value("processWait", identifier="x", text="x")
        tools.value("processQueryLogs", identifier="x", text="x")
        tools.call("codegenGrepSearch", query="nothing")

    until(lambda: len(os.listdir(folder)) <= before + 1)
