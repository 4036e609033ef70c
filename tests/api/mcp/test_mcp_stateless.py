"""MCP's revision 2026-07-28: every request carries what it speaks, and nothing is remembered."""

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from tests.harness import Server, until
from tests.later import Later
from tests.mcp_calls import Tools

from sandkeeper import __version__

mcp = Later("mcp")

VERSION = "2026-07-28"
KEY = "io.modelcontextprotocol/"
META = {KEY + "protocolVersion": VERSION, KEY + "clientCapabilities": {}}
BASE = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
NAME = {KEY + "serverInfo": {"name": "sandkeeper", "version": __version__}}


def ask(
    server: Server,
    method: str,
    headers: dict[str, str] | None = None,
    meta: Any = META,
    **params: Any,
) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": meta, **params}}
    named = {"Mcp-Name": params["name"]} if "name" in params else {}
    head = {**BASE, "Mcp-Protocol-Version": VERSION, "Mcp-Method": method, **named}
    return server.client.post("/mcp", json=body, headers={**head, **(headers or {})})


def result(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    assert reply.json()["id"] == 7
    return reply.json()["result"]


def error(reply: httpx.Response) -> tuple[int, int]:
    return reply.status_code, reply.json()["error"]["code"]


def test_discovery_tells_what_is_spoken_and_who_speaks(server: Server) -> None:
    told = result(ask(server, "server/discover"))

    assert VERSION in told["supportedVersions"]
    assert told["capabilities"].keys() == {"tools", "logging"}
    assert "processExecute" in told["instructions"]
    assert (told["resultType"], told["_meta"]) == ("complete", NAME)


def test_what_the_instructions_name_is_there(server: Server) -> None:
    told = result(ask(server, "server/discover"))["instructions"]
    names = {tool["name"] for tool in result(ask(server, "tools/list"))["tools"]}
    said = {
        word.strip(".,;:") for word in told.split() if word[0].islower() and word != word.lower()
    }

    assert said - {"waitForCompletion"} <= names
    assert len(said) > 8


def test_a_list_and_a_call_need_no_handshake(server: Server) -> None:
    for _ in range(2):  # the second is one that is kept
        listed = result(ask(server, "tools/list"))
        assert (listed["resultType"], listed["ttlMs"], listed["_meta"]) == ("complete", 0, NAME)
    arguments = {"command": "echo here", "waitForCompletion": True}
    done = result(ask(server, "tools/call", name="processExecute", arguments=arguments))
    failed = result(ask(server, "tools/call", name="processGet", arguments={"identifier": "x"}))

    assert (done["resultType"], done["structuredContent"]["logs"]) == ("complete", "here\n")
    assert (failed["resultType"], failed["isError"]) == ("complete", True)
    assert len(listed["tools"]) == len(Tools(server).rpc("tools/list")["result"]["tools"])


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
        ("prompts/list", "prompts"),
    ],
)
def test_lists_of_what_there_is_not_are_empty_in_every_revision(
    server: Server, method: str, field: str
) -> None:
    told = result(ask(server, method))
    assert (told[field], told["resultType"]) == ([], "complete")
    for version in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
        body = {"jsonrpc": "2.0", "id": 7, "method": method}
        head = {**BASE, "Mcp-Protocol-Version": version}
        assert result(server.client.post("/mcp", json=body, headers=head)) == {field: []}


@pytest.mark.parametrize(
    ("headers", "meta", "code"),
    [
        ({"Mcp-Method": "tools/list"}, META, -32020),
        ({"Mcp-Method": ""}, META, -32020),
        ({"Mcp-Name": "other"}, META, -32020),
        ({}, META | {KEY + "protocolVersion": "2025-11-25"}, -32020),
        ({}, {KEY + "protocolVersion": VERSION}, -32602),
        ({}, None, -32602),
        ({}, "text", -32602),
    ],
)
def test_a_request_that_disagrees_with_its_head_or_itself_is_refused(
    server: Server, headers: dict[str, str], meta: Any, code: int
) -> None:
    arguments = {"command": "true"}
    reply = ask(server, "tools/call", headers, meta, name="processExecute", arguments=arguments)

    assert error(reply) == (400, code)


@pytest.mark.parametrize("method", ["ping", "initialize", "logging/setLevel", "nope"])
def test_what_the_revision_has_not_is_not_found(server: Server, method: str) -> None:
    assert error(ask(server, method)) == (404, -32601)


@pytest.mark.parametrize("version", ["2027-01-01", "nonsense", "1" * 5000])
def test_an_unknown_revision_is_told_which_are_known(server: Server, version: str) -> None:
    reply = ask(server, "tools/list", {"Mcp-Protocol-Version": version})

    assert (error(reply), reply.json()["id"]) == ((400, -32022), 7)
    assert reply.json()["error"]["data"]["supported"] == [
        *("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", VERSION)
    ]
    assert len(reply.content) < 1000


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b"7", -32600),
    ],
)
def test_what_is_no_single_message_is_refused(server: Server, body: bytes, code: int) -> None:
    head = {**BASE, "Mcp-Protocol-Version": VERSION}
    reply = server.client.post("/mcp", content=body, headers=head)

    assert (error(reply), reply.json()["id"]) == ((400, code), None)


def test_a_notification_is_accepted(server: Server) -> None:
    head = {**BASE, "Mcp-Protocol-Version": VERSION}
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}

    assert server.client.post("/mcp", json=body, headers=head).status_code == 202


def test_the_python_client_speaks_it_with_one_request_a_call(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()

    async def session(mode: str) -> None:
        async with mcp.Client(server.url + "/mcp", mode=mode) as client:
            tools = await client.list_tools()
            done = await client.call_tool(
                "processExecute", {"command": "echo new", "waitForCompletion": True}
            )
            nothing = await client.list_resources(), await client.list_prompts()

            assert client.protocol_version == VERSION
        assert len(tools.tools) > 25
        assert done.structured_content["logs"] == "new\n"
        assert (nothing[0].resources, nothing[1].prompts) == ([], [])

    anyio.run(session, VERSION)
    until(lambda: asked(server) == 4)
    anyio.run(session, "auto")  # asks once more, what there is
    until(lambda: asked(server) == 4 + 5)


def asked(server: Server) -> int:
    return sum("POST /mcp 200 " in line["msg"] for line in server.log_lines())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"waitForCompletion": "true", "timeout": "5"}, "completed"),
        ({"waitForCompletion": "True", "timeout": 5}, "completed"),
        ({"waitForCompletion": "1", "maxRestarts": "0"}, "completed"),
    ],
)
def test_numbers_and_flags_may_come_as_texts(
    server: Server, given: dict[str, Any], expected: str
) -> None:
    arguments = {"command": "true", **given}
    done = result(ask(server, "tools/call", name="processExecute", arguments=arguments))

    assert done["structuredContent"]["status"] == expected


@pytest.mark.parametrize(
    "given",
    [
        {"waitForCompletion": "maybe"},
        {"timeout": "soon"},
        {"timeout": "9" * 40},
        {"waitForPorts": ["http"]},
        {"command": 5},
    ],
)
def test_texts_that_mean_no_number_and_no_flag_are_refused(
    server: Server, given: dict[str, Any]
) -> None:
    arguments = {"command": "true", **given}
    failed = result(ask(server, "tools/call", name="processExecute", arguments=arguments))

    assert failed["isError"] is True
    assert 'validating "arguments"' in failed["content"][0]["text"]


def properties(schema: dict[str, Any], path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, part in schema.get("properties", {}).items():
        found.append((f"{path}.{name}", part.get("description", "")))
        found += properties(part, f"{path}.{name}")
        found += properties(part.get("items") or {}, f"{path}.{name}[]")
    return found


def test_every_argument_of_every_tool_is_described(server: Server) -> None:
    tools = result(ask(server, "tools/list"))["tools"]
    described = [pair for tool in tools for pair in properties(tool["inputSchema"], tool["name"])]

    assert len(described) > 100
    assert [path for path, text in described if not text] == []
