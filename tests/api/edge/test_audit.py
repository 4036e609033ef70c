"""Audit lines and process lines in the server's log."""

import json
import uuid

import pytest
from tests.harness import Server, until

WHO = {
    "X-Blaxel-Subject-Id": "user 1",
    "X-Blaxel-Subject-Type": "human",
    "X-Blaxel-Auth-Method": "oauth",
    "X-Request-Id": "req-1",
}


def audits(server: Server, action: str) -> list[dict]:
    return [line for line in server.log_lines() if line.get("action") == action]


@pytest.fixture(scope="module")
def audited(server: Server) -> Server:
    client = server.client
    client.post(
        "/process",
        json={"command": 'echo "a b"\nx', "name": "au", "workingDir": "/tmp"},
        headers=WHO,
    )
    client.get("/process/au/wait?timeout=60")
    client.get("/process/au/logs", headers=WHO)
    client.get("/process/au/logs/stream", headers={"X-Subject-Id": "old"})
    client.delete("/process/au", headers=WHO)
    client.delete("/process/nobody/kill", headers=WHO)
    client.post("/process", json={"command": "true"}, headers={"Accept": "text/event-stream"})
    client.get("/process/au")
    client.get("/process")
    until(lambda: audits(server, "process_exec_stream"))
    return server


def test_an_exec_names_its_caller_command_and_folder(audited: Server) -> None:
    (line,) = audits(audited, "process_exec")

    assert (line["source"], line["level"]) == ("audit", "info")
    assert (line["sub-id"], line["sub-type"], line["auth-method"], line["rid"]) == (
        "user 1",
        "human",
        "oauth",
        "req-1",
    )
    assert (line["command"], line["working-dir"]) == ('echo "a b"\nx', "/tmp")
    assert line["msg"] == "type=process_exec"


def test_a_command_is_told_by_its_beginning_however_long_it_is(server: Server) -> None:
    command = ": " + "x" * (2 << 20)
    assert server.client.post("/process", json={"command": command}).status_code == 422
    (line,) = until(
        lambda: [one for one in audits(server, "process_exec") if "xxx" in one["command"]]
    )

    assert line["command"].startswith(command[:1000])
    assert line["command"].endswith(f"x… ({len(command)} characters)")
    assert line["command"].count("…") == 1


@pytest.mark.parametrize(
    ("action", "identifier"),
    [
        ("process_logs_access", "au"),
        ("process_logs_stream", "au"),
        ("process_stop", "au"),
        ("process_kill", "nobody"),
    ],
)
def test_looking_at_logs_and_ending_are_audited_with_their_target(
    audited: Server, action: str, identifier: str
) -> None:
    (line,) = audits(audited, action)

    assert line["identifier"] == identifier


def test_the_older_headers_serve_as_well_and_an_absent_id_is_a_uuid(audited: Server) -> None:
    (line,) = audits(audited, "process_logs_stream")

    assert line["sub-id"] == "old"
    assert str(uuid.UUID(line["rid"])) == line["rid"]
    assert "sub-type" not in line["msg"]


def test_plain_looks_are_not_audited(audited: Server) -> None:
    actions = {line["action"] for line in audited.log_lines() if line.get("source") == "audit"}

    assert actions == {
        "process_exec",
        "process_exec_stream",
        "process_logs_access",
        "process_logs_stream",
        "process_stop",
        "process_kill",
    }


def test_of_who_asks_only_the_request_id_is_echoed(server: Server) -> None:
    answered = server.client.get("/process", headers=WHO).headers

    assert {name for name in WHO if name in answered} == {"X-Request-Id"}


SECRETS = [
    ("API_KEY=s3cret run", "s3cret"),
    ("curl -H 'Authorization: Bearer s3cret' x", "s3cret"),
    ("login --password s3cret", "s3cret"),
    ("login --token=s3cret", "s3cret"),
    ("git clone https://me:s3cret@host/x", "s3cret"),
    ("curl 'http://x/?access_token=s3cret&a=1'", "s3cret"),
]


@pytest.mark.parametrize(("command", "secret"), SECRETS)
def test_secrets_in_a_command_are_not_written_down(
    server: Server, command: str, secret: str
) -> None:
    server.client.post("/process", json={"command": f": {command}", "waitForCompletion": True})
    start = f": {command}"[:6]
    lines = until(
        lambda: [x for x in audits(server, "process_exec") if x["command"].startswith(start)]
    )

    assert secret not in json.dumps(lines)
    assert "[REDACTED]" in json.dumps(lines)


def test_an_ordinary_command_is_written_as_it_is(server: Server) -> None:
    command = ": make test KEYBOARD=1 && echo password: none? && ls --color=auto monkey=2"
    server.client.post("/process", json={"command": command, "waitForCompletion": True})

    until(lambda: [x for x in audits(server, "process_exec") if x["command"] == command])


def test_output_becomes_sorted_json_lines_with_the_contracts_fields(make_server) -> None:
    own: Server = make_server()
    made = own.run("echo out; echo; echo err >&2; printf tail", name="tell")
    lines = until(
        lambda: (
            len(found := [x for x in own.log_lines() if x.get("source") == "process"]) == 3
            and found
        )
    )
    by_text = {line["msg"]: line for line in lines}

    assert set(by_text) == {"out", "err", "tail"}
    assert list(by_text["out"]) == sorted(by_text["out"])
    assert by_text["out"]["level"] == "info"
    assert by_text["err"]["level"] == "info"
    assert (by_text["err"]["stream"], by_text["out"]["stream"]) == ("stderr", "stdout")
    assert (by_text["out"]["process-name"], by_text["out"]["process-pid"]) == (
        "tell",
        made["pid"],
    )


def test_a_collector_of_the_contracts_server_gets_the_lines_it_expects(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_LOG_FORMAT": "contract"})
    command = 'echo "a b"; echo err >&2'
    own.client.post("/process", json={"command": command, "waitForCompletion": True}, headers=WHO)
    own.client.get("/missing")
    until(lambda: sum(line.get("source") == "process" for line in own.log_lines()) == 2)
    own.stop()

    lines = own.log_lines()
    (audit,) = [line for line in lines if line.get("source") == "audit"]
    assert audit["msg"].startswith(
        'type=process_exec sub-id="user 1" sub-type=human auth-method=oauth rid=req-1 '
        'command="echo \\"a b\\"; echo err >&2"'
    )
    levels = {line["msg"]: line["level"] for line in lines if line.get("source") == "process"}
    assert levels == {"a b": "info", "err": "error"}
    (missing,) = [line for line in lines if line["msg"].startswith("GET /missing 404 18 ")]
    assert missing["level"] == "error"
    assert all("." not in line["time"] for line in lines)


@pytest.mark.parametrize("value", ["true", "1"])
def test_process_lines_can_be_switched_off(make_server, value: str) -> None:
    own: Server = make_server(env={"SANDBOX_DISABLE_PROCESS_LOGGING": value})
    own.run("echo out")
    own.stop()

    assert not [x for x in own.log_lines() if x.get("source") == "process"]
    assert audits(own, "process_exec")


def test_access_lines_can_be_switched_off(make_server) -> None:
    own: Server = make_server(env={"DISABLE_REQUEST_LOGGING": "true"})
    own.run("true")
    own.stop()

    assert not [x for x in own.log_lines() if x.get("source") == "access"]


def test_a_long_line_is_told_in_parts_of_8_kib(make_server) -> None:
    own: Server = make_server()
    own.run("head -c 20000 /dev/zero | tr '\\0' x; echo", name="long")
    parts = until(
        lambda: (
            sum(len(x["msg"]) for x in own.log_lines() if x.get("source") == "process") == 20_000
            and [x["msg"] for x in own.log_lines() if x.get("source") == "process"]
        )
    )

    assert max(map(len, parts)) == 8192


def test_what_is_refused_for_its_words_is_refused_in_order_and_not_audited(make_server) -> None:
    server: Server = make_server(env={"BL_DISABLE_KEEPALIVE": "true", "HOME": ""})
    client = server.client
    client.post("/process", json={"command": "sleep 30", "name": "taken"})
    wrong = {"command": "true", "name": "taken", "workingDir": "~/x", "keepAlive": True}
    texts = []
    for repaired in ({}, {"keepAlive": False}, {"workingDir": "/nope"}, {"name": "free"}):
        wrong |= repaired
        reply = client.post("/process", json=wrong)
        texts.append((reply.status_code, reply.json()["error"]))
    client.delete("/process/taken/kill")

    assert texts == [
        (
            400,
            "keepAlive is not available for this sandbox: it is not included in your current plan",
        ),
        (400, "home directory not found"),
        (400, "process with name 'taken' already exists and is running"),
        (
            422,
            "failed to start process: could not execute command 'true' because folder '/nope' "
            "does not exist",
        ),
    ]
    until(lambda: audits(server, "process_kill"))
    assert [line["command"] for line in audits(server, "process_exec")] == ["sleep 30", "true"]
