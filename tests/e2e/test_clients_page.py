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


IMPORTED = """
import json, os, sys, traceback
import blaxel.core.sandbox, e2b_code_interpreter
for line in sys.stdin:
    text, folder = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.dup2(os.open("told", os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.dup2(1, 2)
        try:
            exec(compile(text, "<block>", "exec"), {"__name__": "__main__"})
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs blocks, each in a process of its own, which has imported the packages already: that takes a
second or two for each, and every user waits for it in the same way."""


class Forking:
    """The process that forks one for each block of Python."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", IMPORTED],
            env={**os.environ, **CLIENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, folder: Path) -> str:
        """Return what a block says; it must end well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([text, str(folder)]), file=self._process.stdin, flush=True)
        status, told = self._process.stdout.readline(), (folder / "told").read_text()
        assert status == "0\n", told
        return told

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    made = Forking()
    yield made
    made.close()


IN_ONE = """
import { pathToFileURL } from "node:url";
const told = [];
for (const file of process.argv.slice(1)) {
  const said = [];
  console.log = (...words) => said.push(words.join(" "));
  try {
    await import(pathToFileURL(file));
  } catch (error) {
    said.push(`failed: ${error.stack}`);
  }
  told.push(said.join("\\n"));
}
process.stdout.write(JSON.stringify(told), () => process.exit(0));
"""


@pytest.fixture(scope="module")
def in_node(
    server: Server, guarded: Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[Block, str]:
    """Run the blocks of JavaScript, each a module, in one process; returns what each prints."""
    install()
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "node_modules").symlink_to(SCRIPTS / "node_modules")
    files = {folder / f"{number}.mjs": block for number, block in enumerate(blocks())}
    files = {file: block for file, block in files.items() if block.language == "js"}
    for file, block in files.items():
        file.write_text(block.text.replace(ADDRESS, (guarded if block.guarded else server).url))
    words = ["node", "--input-type=module", "-e", IN_ONE, *files]
    told = printed(words, folder, timeout=300)
    return dict(zip(files.values(), json.loads(told), strict=True))


def printed(words: list[Any], folder: Path, timeout: float = 110) -> str:
    """Run a program; returns what it prints."""
    env = {**os.environ, **CLIENT, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
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
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_interpreter")
@pytest.mark.parametrize("block", blocks(), ids=lambda one: f"{one.title}-{one.guarded}")
def test_every_block_works_as_it_stands(
    server: Server, guarded: Server, request: pytest.FixtureRequest, block: Block, tmp_path: Path
) -> None:
    text = block.text.replace(ADDRESS, (guarded if block.guarded else server).url)

    match block.language:
        case "json":
            told = anyio.run(said, json.loads(text)["mcpServers"]["sandbox"])
        case "python":
            told = request.getfixturevalue("forking").run(text, tmp_path)
        case "js":
            told = request.getfixturevalue("in_node")[block]
        case _:
            told = printed(["sh", "-ec", text], tmp_path)
    assert "hello" in told
