"""The published clients, Python and Node: find, grep, search and watch."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server
from tests.later import Later
from tests.node_client import run_node

models = Later("blaxel.core.client.models")
blaxel = Later("blaxel.core.sandbox")

# Some calls of the client make an HTTP client each and leave its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def project(server: Server) -> str:
    root = server.workdir / "project"
    for name, text in {
        "src/app.py": "import os\n# TODO one\nprint(1)\n",
        "src/deep/lib.py": "# todo two\n",
        "README.md": "nothing\n",
        ".env": "TODO=hidden\n",
        "node_modules/m/index.js": "// todo three\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def with_files(server: Server, use: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        record = models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())
        files = blaxel.SandboxInstance(record, force_url=server.url).fs
        try:
            return await use(files)
        finally:
            await files.get_client().aclose()

    return asyncio.run(run())


def test_python_finds(server: Server, project: str) -> None:
    async def use(files: Any) -> list[list[str]]:
        return [
            [match.path for match in (await files.find(project, **options)).matches]
            for options in (
                {"patterns": ["*.py"]},
                {"type": "directory"},
                {"exclude_hidden": False, "max_results": 2},
                {"patterns": ["*.js"], "exclude_dirs": ["src"]},
                {"patterns": ["*.none"]},
            )
        ]

    assert with_files(server, use) == [
        ["src/app.py", "src/deep/lib.py"],
        [".", "src", "src/deep"],
        [".env", "README.md"],
        ["node_modules/m/index.js"],
        [],
    ]


def test_python_greps(server: Server, project: str) -> None:
    async def use(files: Any) -> None:
        found = await files.grep("todo", project)
        assert (found.query, found.total) == ("todo", 3)
        assert [match.path for match in found.matches] == [".env", "src/app.py", "src/deep/lib.py"]
        around = await files.grep("TODO", project, True, 1, 5, "*.py")
        assert [match.context for match in around.matches] == ["import os\n# TODO one\nprint(1)"]
        assert (await files.grep("no such text", project)).matches == []

    with_files(server, use)


def test_python_watches(server: Server, project: str) -> None:
    async def use(files: Any) -> list[tuple[str, str, Any]]:
        seen: list[tuple[str, str, Any]] = []
        first, last, beat = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def on_event(event: Any) -> None:
            seen.append((event.op, event.name, event.path))
            first.set()
            if event.name == "end":
                last.set()

        handle = files.watch(f"{project}/**", on_event, {"on_keepalive": beat.set})
        async with asyncio.timeout(60):
            await beat.wait()  # nothing else says that the watch is armed
            folder = Path(project) / "src" / "new"
            folder.mkdir()
            await first.wait()
            (folder / "end").touch()
            await last.wait()
        handle.close()
        return seen

    seen = with_files(server, use)
    assert seen[0] == ("CREATE", "new", f"{project}/src")
    assert ("CREATE", "end", f"{project}/src/new") in seen


def test_node_finds_greps_searches_and_watches(server: Server, project: str) -> None:
    seen = run_node("search.mjs", server.url, project)

    assert seen["found"] == ["src/app.py", "src/deep/lib.py"]
    assert seen["grepped"] == [[".env", 1], ["src/app.py", 2], ["src/deep/lib.py", 1]]
    assert seen["context"] == ["import os\n# TODO one\nprint(1)"]
    assert seen["searched"] == []  # it drops its query: what comes is the contract's fallback
    assert ["WRITE", "node-file"] in seen["watched"]
