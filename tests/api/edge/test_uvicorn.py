"""What the edge uses of uvicorn's insides: listed, and there in the installed version."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from sandkeeper.api.edge import connections
from sandkeeper.api.edge.connections.frames import PacedSocket
from sandkeeper.api.edge.connections.intake import HeldFlow
from sandkeeper.api.edge.connections.lean import LeanProtocol
from sandkeeper.api.edge.connections.protocol import EdgeProtocol
from sandkeeper.api.edge.connections.server import _Server

FOLDER = Path(connections.__file__).parent
BY_NAME = {
    "cycle": "RequestResponseCycle",
    "_cycle": "RequestResponseCycle",
    "connection": "HttpToolsProtocol",
    "_server": "Server",
    "flow": "FlowControl",
    "server_state": "ServerState",
    "lifespan": "LifespanOff",
}
"""What a variable or attribute of such a name holds, anywhere in the package."""


def _listed() -> dict[str, dict[str, str]]:
    """Return name and reason of what is used, by its class."""
    found: dict[str, dict[str, str]] = {}
    for line in (connections.__doc__ or "").splitlines():
        if head := re.match(r"`(uvicorn\.[\w.]+)`", line):
            names = found.setdefault(head[1], {})
        elif used := re.match(r"- (`\w+`(?:, `\w+`)*): (.+)", line):
            names.update(dict.fromkeys(re.findall(r"`(\w+)`", used[1]), used[2]))
        else:
            assert not line.startswith(("- ", "`uvicorn")), f"cannot be read: {line}"
    return found


LISTED = _listed()


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _members(cls: type) -> set[str]:
    """Return all that objects of a class have: what it defines, and what its methods assign."""
    names = set(dir(cls))
    for base in cls.__mro__[:-1]:
        if base.__module__.startswith(("uvicorn", "sandkeeper")):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            names |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                if isinstance(node.value, ast.Name) and node.value.id == "self"
            }
    return names


@pytest.mark.parametrize("path", LISTED)
def test_the_installed_uvicorn_has_all_that_the_edge_uses_of_it(path: str) -> None:
    try:
        members = _members(_class(path))
    except (ImportError, AttributeError):
        pytest.fail(f"uvicorn {uvicorn.__version__} has no {path}")
    gone = [f"{name} ({why})" for name, why in LISTED[path].items() if name not in members]

    assert not gone, f"{path} of uvicorn {uvicorn.__version__} lacks {'; '.join(gone)}"


@pytest.mark.parametrize("ours", [EdgeProtocol, LeanProtocol, HeldFlow, PacedSocket, _Server])
def test_what_is_inherited_and_used_is_listed(ours: type) -> None:
    base = _base(ours)
    inherited = {name for name in _members(base) if not name.startswith("__")}
    tree = ast.parse(textwrap.dedent(inspect.getsource(ours)))
    used = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) if _is_own(node)
    }
    used |= set(vars(ours))

    assert (used & inherited) - set(LISTED[f"{base.__module__}.{base.__name__}"]) == set()


def _base(ours: type) -> type:
    """Return uvicorn's class that one of ours derives from."""
    return next(one for one in ours.__mro__ if one.__module__.startswith("uvicorn."))


def _is_own(node: ast.Attribute) -> bool:
    value = node.value
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in {"self", "super"}


def _used_of_others() -> Iterator[tuple[str, str, str]]:
    """Yield file, class and attribute of what is asked of an object with a telling name."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                holder = getattr(node.value, "attr", getattr(node.value, "id", ""))
                if holder in BY_NAME:
                    yield path.name, BY_NAME[holder], node.attr


def test_what_is_asked_of_uvicorns_objects_is_listed() -> None:
    listed = {path.rpartition(".")[2]: names for path, names in LISTED.items()}
    used = {
        (file, cls, name)
        for file, cls, name in _used_of_others()
        if file != "outgoing.py" and name not in _ours(cls)
    }

    assert {one for one in used if one[2] not in listed[one[1]]} == set()


def _ours(cls: str) -> set[str]:
    """Return what our own class adds to uvicorn's."""
    derived = {"HttpToolsProtocol": EdgeProtocol, "FlowControl": HeldFlow, "Server": _Server}
    ours = derived.get(cls)
    return set() if ours is None else _members(ours) - _members(_base(ours))


def test_only_the_edges_connections_know_uvicorn() -> None:
    source = Path(connections.__file__).parents[3]
    knowing = {
        path
        for path in source.rglob("*.py")
        if re.search(r"^\s*(import|from) uvicorn\b", path.read_text(), re.MULTILINE)
    }

    assert {path for path in knowing if path.parent != FOLDER} == set()
