"""MCP with the official clients: Python, Node, and the inspector's command line."""

import json
import subprocess
import threading
from typing import Any

import anyio
import pytest
from tests.harness import Server
from tests.later import Later
from tests.node_client import SCRIPTS, install, run_node

from sandkeeper import __version__

mcp = Later("mcp.client.client")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_python_client_lists_and_calls(server: Server, mode: str) -> None:
    async def session() -> tuple[list[str], Any, Any]:
        async with mcp.Client(server.url + "/mcp", mode=mode) as client:
            listed = await client.list_tools()
            done = await client.call_tool(
                "processExecute", {"command": "echo hi", "waitForCompletion": True}
            )
            failed = await client.call_tool("processGet", {"identifier": "none"})
            return [tool.name for tool in listed.tools], done, failed

    names, done, failed = anyio.run(session)

    assert "processExecute" in names
    assert done.structured_content["logs"] == "hi\n"
    assert failed.is_error is True


def test_the_python_client_checks_every_result_against_its_schema(server: Server) -> None:
    (server.workdir / "file.txt").write_text("text")

    async def session() -> None:
        async with mcp.Client(server.url + "/mcp", mode="legacy") as client:
            await client.list_tools()
            for name, arguments in (
                ("processesList", {}),
                ("processExecute", {"command": "sleep 60", "name": "s"}),
                ("processGet", {"identifier": "s"}),
                ("processGetLogs", {"identifier": "s"}),
                ("processKill", {"identifier": "s"}),
                ("processWait", {"identifier": "s"}),
                ("processQueryLogs", {"identifier": "s"}),
                ("fsListDirectory", {"path": "."}),
                ("fsReadFile", {"path": "file.txt"}),
                ("fsStat", {"path": "file.txt"}),
                ("codegenGrepSearch", {"query": "text"}),
                ("codegenFileSearch", {"query": "zzz"}),
                ("codegenListDir", {"relativeWorkspacePath": "."}),
            ):
                result = await client.call_tool(name, arguments)
                assert not result.is_error, (name, result)

    anyio.run(session)


def test_fifty_calls_of_one_python_client_are_answered_once_each(server: Server) -> None:
    async def session() -> list[str]:
        answers: list[str] = [""] * 50
        async with mcp.Client(server.url + "/mcp", mode="legacy") as client:

            async def one(number: int) -> None:
                result = await client.call_tool(
                    "processExecute", {"command": f"echo {number}", "waitForCompletion": True}
                )
                answers[number] += result.structured_content["logs"]

            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(one, number)
        return answers

    assert anyio.run(session) == [f"{number}\n" for number in range(50)]


@pytest.mark.timeout(400)
def test_the_node_client_lists_and_calls(server: Server) -> None:
    told = run_node("mcp.mjs", server.url + "/mcp")

    assert told["server"] == {"name": "sandkeeper", "version": __version__}
    assert "processesList" in told["tools"]
    assert told["logs"] == [f"{number}\n" for number in range(20)]
    assert told["failed"] is True
    assert 'unknown tool "nope"' in told["unknown"]


@pytest.mark.timeout(400)
def test_the_inspector_lists_and_calls(server: Server) -> None:
    install()

    def inspect(*arguments: str) -> dict[str, Any]:
        cli = SCRIPTS / "node_modules/.bin/mcp-inspector"
        done = subprocess.run(
            [cli, "--cli", server.url + "/mcp", "--transport", "http", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    outcomes: dict[str, dict[str, Any]] = {}
    calls = {
        "list": ("--method", "tools/list"),
        "call": (
            *("--method", "tools/call", "--tool-name", "processExecute"),
            *("--tool-arg", "command=echo inspected", "--tool-arg", "waitForCompletion=true"),
        ),
    }
    threads = [
        threading.Thread(target=lambda n=name, a=args: outcomes.update({n: inspect(*a)}))
        for name, args in calls.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert "processesList" in [tool["name"] for tool in outcomes["list"]["tools"]]
    assert outcomes["call"]["structuredContent"]["logs"] == "inspected\n"
