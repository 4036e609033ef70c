"""docs/clients.md: every block is run as it stands, against a server with and without a token."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from tests.harness import Server
from tests.node_client import CLIENT, ROOT, SCRIPTS, install

TOKEN, ADDRESS = "s3cret", "http://localhost:8080"
PAGE = ROOT / "docs" / "clients.md"
ENDS = {"SANDKEEPER_ON_SHUTDOWN": "stop"}
"""Contexts of code would outlive their server."""
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """A block of the page: under which title, in which language, for a server with a token."""

    title: str
    language: str
    guarded: bool
    text: str


def blocks() -> list[Block]:
    """Return all blocks of the page."""
    found, title = [], ""
    pattern = re.compile(r"^## ([^\n]+)$|^```(\w+)( token)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for match in pattern.finditer(PAGE.read_text()):
        title = match[1] or title
        if match[2]:
            found.append(Block(title, match[2], bool(match[3]), match[4]))
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server without any."""
    with Server(tmp_path_factory.mktemp("server"), env=ENDS) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server with the token of the page."""
    env = {"SANDKEEPER_TOKEN": TOKEN, **ENDS}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


def test_each_family_has_a_block_without_and_one_with_a_token() -> None:
    kinds: dict[str, list[bool]] = {}
    for block in blocks():
        kinds.setdefault(block.title, []).append(block.guarded)

    assert len(kinds) == 9
    assert all(found[::2] == [False] * (len(found) // 2) for found in kinds.values())
    assert all(found[1::2] == [True] * (len(found) // 2) for found in kinds.values())


def printed(block: Block, text: str, folder: Path) -> str:
    """Run a block; returns what it prints."""
    env = {**os.environ, **CLIENT, "PATH": f"{BIN}:{os.environ['PATH']}"}
    if block.language == "js":
        install()
        words = ["node", "--input-type=module", "-e", text + "\nprocess.exit(0)"]
        folder = SCRIPTS
    else:
        words = {"sh": ["sh", "-ec", text], "python": [sys.executable, "-c", text]}[block.language]
    done = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def said(server: dict[str, Any]) -> str:
    """Have the official client run a command by the server that a configuration names."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def use(read: Any, write: Any) -> str:
        async with ClientSession(read, write) as session:
            await session.initialize()
            arguments = {"command": "echo hello", "waitForCompletion": True}
            result = await session.call_tool("processExecute", arguments)
            return str(result.content)

    if "command" in server:
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        started = StdioServerParameters(command=server["command"], args=server["args"], env=env)
        async with stdio_client(started) as (read, write):
            return await use(read, write)
    import httpx
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx.AsyncClient(headers=server.get("headers", {})) as client,
        streamable_http_client(server["url"], http_client=client) as streams,
    ):
        return await use(streams[0], streams[1])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("block", blocks(), ids=lambda one: f"{one.title}-{one.guarded}")
def test_every_block_works_as_it_stands(
    server: Server, guarded: Server, block: Block, tmp_path: Path
) -> None:
    text = block.text.replace(ADDRESS, (guarded if block.guarded else server).url)

    if block.language == "json":
        configured = json.loads(text)["mcpServers"]["sandbox"]
        assert "hello" in anyio.run(said, configured)
    else:
        assert "hello" in printed(block, text, tmp_path)
