"""What imports what, how much lies in one folder, and what a server loads before it is needed."""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.harness import Server, until

PACKAGE = Path(__file__).parent.parent / "src" / "sandkeeper"
LATE = {
    "prometheus_client": "GET /metrics",
    "click": "the command line of a library",
    "multiprocessing": "nobody",
    "tarfile": "an archive",
    "zipfile": "an upgrade",
    "mcp": "POST /mcp",
    "pydantic": "POST /mcp",
    "pyte": "GET /terminals/x/screen",
    "h11": "an outgoing proxy",
    "httpx": "an upgrade",
    "packaging": "an upgrade",
    "backports.zstd": "a file that is packed with it",
    "pyroute2": "a tunnel",
    "opentelemetry": "a collector that is named",
    "requests": "a collector that is named",
    "sandkeeper.observability.otlp": "a collector that is named",
    "re2": "a pattern of somebody's",
    "websockets": "a WebSocket",
    "sandkeeper.codegen": "code editing",
    "sandkeeper.drives.drivers": "a drive",
    "sandkeeper.files.tar": "an archive",
    "grpc": "gRPC that has a port",
    "google.protobuf": "gRPC that has a port",
    "sandkeeper.git": "a repository",
    "sandkeeper.api.kubernetes": "a call of that wire",
    "sandkeeper.interpreter": "a code context",
    "sandkeeper.search": "finding",
    "sandkeeper.watch": "noticing",
    "sandkeeper.api.code": "a code context",
    "sandkeeper.api.mcp": "POST /mcp",
    "sandkeeper.api.blaxel.files.link_calls": "a signed link",
    "sandkeeper.api.e2b.server": "a call of that wire",
    "sandkeeper.api.control.calls": "a call of that wire",
    "sandkeeper.api.port.proxy": "a port",
}
"""What waits for who needs it: libraries and rooms."""

FIRST = {
    *("anyio", "dotenv", "httptools", "msgspec", "python_multipart", "sniffio"),
    *("starlette", "typing_extensions", "uvicorn", "uvloop"),
}
"""The libraries that the first /health may load, and no others."""

FIRST_FACES = {
    *("api", "api.app", "api.areas", "api.code_areas", "api.e2b_areas", "api.git_areas"),
    "api.kubernetes_areas",
    "api.warming",
    *("api.blaxel", "api.blaxel.observability", "api.blaxel.pinned", "api.blaxel.system"),
    *("api.blaxel.files", "api.blaxel.files.links"),
    *("api.control", "api.control.routes", "api.e2b", "api.e2b.routes"),
    *("api.port", "api.port.door", "api.port.pages", "api.port.tickets"),
}
"""Of the faces."""


NOT_FIRST = {
    *("_bz2", "_lzma", "_strptime", "email.parser", "html.entities", "json.decoder", "pickle"),
    *("socketserver", "sandkeeper.api.edge.request_body", "sandkeeper.api.edge.bodies.long"),
}
"""What the first /health does without, though others use it soon; in part by `deferred`."""

MOST_MODULES = 530
MOST_OF_OURS = 250
"""A start waits 0.2 ms and more for each; another Python has a few more of its own."""


def circles() -> set[frozenset[str]]:
    """Return the modules that import each other, directly or through others, also for types."""
    graph = grimp.build_graph("sandkeeper", cache_dir=None)
    above = {module: graph.find_upstream_modules(module) for module in graph.modules}
    found = {
        module: frozenset({module, *(other for other in above[module] if module in above[other])})
        for module in graph.modules
    }
    return {
        frozenset(module.removeprefix("sandkeeper.") for module in circle)
        for circle in found.values()
        if len(circle) > 1
    }


def test_imports_run_in_no_circle() -> None:
    assert circles() == set()


def test_no_folder_has_more_than_twenty_files() -> None:
    counts = {
        folder.relative_to(PACKAGE).as_posix(): len(list(folder.glob("*.py")))
        for folder in [PACKAGE, *PACKAGE.rglob("*")]
        if folder.is_dir()
    }

    assert counts["."] > 0
    assert {folder: count for folder, count in counts.items() if count > 20} == {}


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that writes each module to its standard error as it is loaded."""
    env = {"PYTHONPROFILEIMPORTTIME": "1", "SANDKEEPER_LOG": "stderr"}
    with Server(tmp_path_factory.mktemp("telling"), env=env) as running:
        yield running


def loaded(server: Server) -> set[str]:
    """Return the names of all modules that a server has loaded so far."""
    return _names((server.folder / "stderr.log").read_text())


def loaded_at_health(server: Server) -> set[str]:
    """Return those that it had loaded when the line of the first request was written."""
    told = server.folder / "stderr.log"
    line = '"path":"/health"'
    until(lambda: line in told.read_text())
    return _names(told.read_text().partition(line)[0])


def _names(told: str) -> set[str]:
    lines = told.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def installed() -> set[str]:
    """Return the names of all that is installed beside us and not ours."""
    names = importlib.metadata.packages_distributions()
    return {name for name in names if not name.startswith("_")} - {"sandkeeper"}


def test_the_first_answer_needs_these_and_no_others(telling: Server) -> None:
    names = loaded_at_health(telling)
    libraries = {name.partition(".")[0] for name in names} & installed()
    ours = {name.removeprefix("sandkeeper.") for name in names if name.startswith("sandkeeper.")}
    faces = {name for name in ours if name.startswith("api") and "api.edge" not in name}

    assert "starlette" in libraries
    assert libraries - FIRST == set()
    assert "api.blaxel.system" in faces
    assert faces - FIRST_FACES == set()
    assert NOT_FIRST & names == set()
    assert len(ours) <= MOST_OF_OURS
    assert len(names) <= MOST_MODULES


def test_the_first_answer_waits_for_no_dataclass_of_ours(telling: Server) -> None:
    """One takes half a millisecond to make, where a struct of msgspec takes a hundredth."""
    names = loaded_at_health(telling)
    ours = [name for name in names if name.partition(".")[0] == "sandkeeper"]
    sources = {name: importlib.util.find_spec(name) for name in ours}
    made = [
        name
        for name, spec in sources.items()
        if spec and spec.origin and "@dataclass" in Path(spec.origin).read_text()
    ]

    assert len(ours) > 100
    assert made == []


def test_what_first_commands_need_is_loaded_before_somebody_waits_for_it(telling: Server) -> None:
    wanted = {"logs", "processes", "waiting", "files.content", "files.trees", "running.figures"}
    wanted = {f"sandkeeper.api.blaxel.{name}" for name in wanted}

    until(lambda: wanted <= loaded(telling))

    assert wanted & loaded_at_health(telling) == set()


def test_nothing_is_loaded_before_it_is_needed(telling: Server) -> None:
    telling.run("echo on")
    assert telling.client.get("/terminals").status_code == 200

    names = loaded(telling)

    assert {"sandkeeper.api.app", "starlette.routing"} <= names
    assert {late for late in LATE for name in names if f"{name}.".startswith(f"{late}.")} == set()


def test_what_is_needed_is_loaded_then(telling: Server) -> None:
    """The names above are those of the libraries: a misspelt one would never be seen."""
    assert [name for name in NOT_FIRST if importlib.util.find_spec(name) is None] == []
    assert telling.client.get("/metrics").status_code == 200
    assert "prometheus_client" in loaded(telling)
    telling.client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert {"mcp", "pydantic"} <= loaded(telling)
