"""`sh`, `run -t`, recordings; the bridge of MCP."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from tests.client.conftest import Ask
from tests.client.verbs import COMMAND
from tests.harness import Server, until
from tests.later import Later

from sandkeeper.client import main as client

mcp = Later("mcp")
stdio = Later("mcp.client.stdio")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server whose shells read no start files: what those do is nobody's business here."""
    home = str(tmp_path_factory.mktemp("home"))
    with Server(tmp_path_factory.mktemp("server"), env={"HOME": home}) as running:
        yield running


def test_a_shell_outlives_its_client_and_is_joined_again(terminal: Any, ask: Ask) -> None:
    child = terminal("sh", "kept")
    child.expect(r"[#$] ")
    child.sendline("stty size; kept=yes")
    child.expect("30 100")
    child.setwinsize(40, 120)
    child.sendline("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo re''sized")
    child.expect("resized")
    child.send("\x10\x11")
    child.expect("left; it goes on: sandkeeper sh kept")
    child.expect(pexpect.EOF)

    again = terminal("sh", "kept")
    again.expect("resized")
    again.sendline("echo $kept; exit 5")
    again.expect("yes")
    again.expect(pexpect.EOF)
    again.close()

    assert again.exitstatus == 5
    listed = json.loads(ask("terminals", "--json").stdout)
    assert {one["sessionId"]: one["exitCode"] for one in listed}["kept"] == 5


def test_a_command_in_a_terminal_has_one_and_ends_with_its_status(terminal: Any) -> None:
    script = "test -t 0 && test -t 1 && echo 'a terminal'; read word; echo got $word; exit 9"
    child = terminal("run", "-it", "-e", "X=1", "--", "sh", "-c", script)
    child.expect("a terminal")
    child.sendline("this")
    child.expect("got this")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 9


def test_without_a_terminal_there_is_none_to_share(ask: Ask) -> None:
    done = ask("sh")

    assert done.returncode == 1
    assert done.stderr == b"sandkeeper: standard input and output are no terminal\n"


def test_a_recording_is_saved_and_played(ask: Ask, server: Server, tmp_path: Path) -> None:
    server.client.post("/terminals", json={"sessionId": "told", "shell": "/bin/sh"})
    server.client.post("/terminals/told/input", content=b"echo seen; exit\r")
    until(lambda: server.client.get("/terminals/told").json()["status"] == "exited")

    assert ask("record", "told", "saved.cast").returncode == 0
    assert json.loads((tmp_path / "saved.cast").read_bytes().splitlines()[0])["version"] == 2
    assert b"seen" in ask("play", "--idle", "0", "saved.cast").stdout
    assert b"seen" in ask("play", "--idle", "0", "told").stdout


def test_a_program_that_only_starts_programs_has_the_tools(server: Server) -> None:
    async def use() -> tuple[int, str]:
        parameters = mcp.StdioServerParameters(
            command=COMMAND[0],
            args=[*COMMAND[1:], "mcp"],
            env={**server.env, "SANDKEEPER_URL": server.url},
        )
        async with (
            stdio.stdio_client(parameters) as (read, write),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            slow, quick = await asyncio.gather(
                session.call_tool(
                    "processExecute", {"command": "sleep 0.5; echo slow", "waitForCompletion": True}
                ),
                session.call_tool(
                    "processExecute", {"command": "echo quick", "waitForCompletion": True}
                ),
            )
            return len(tools), f"{slow.content} {quick.content}"

    count, said = asyncio.run(use())

    assert count > 20
    assert "slow" in said
    assert "quick" in said


def test_the_list_of_verbs_is_what_the_modules_declare() -> None:
    from sandkeeper.client.context import app

    client._declare(set())

    declared = {command.name for command in app.registered_commands}
    assert declared == set().union(*client.MODULES.values())


def test_ports_health_and_versions(ask: Ask, server: Server) -> None:
    assert ask("health", "--ready").stdout == b"ok\n"
    assert json.loads(ask("version", "--json").stdout)["server"]["os"] == "linux"
    assert str(server.port).encode() in ask("ports").stdout
    assert json.loads(ask("diagnose").stdout)


def test_a_shell_that_ended_while_no_server_ran_is_not_another_one(
    make_server, tmp_path: Path
) -> None:
    server = make_server(env={"HOME": str(tmp_path)})
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "sh", "lost"],
        env={**server.env, "SANDKEEPER_URL": server.url, "TERM": "dumb"},
        dimensions=(0, 0),
        timeout=60,
        encoding="utf-8",
    )
    child.sendline("stty size; echo pid-$$-")
    child.expect("24 80")
    child.expect(r"pid-(\d+)-")
    shell = int(child.match[1])
    server.kill9()
    child.expect("trying again")
    os.kill(shell, signal.SIGKILL)
    server.restart()
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus != 0
