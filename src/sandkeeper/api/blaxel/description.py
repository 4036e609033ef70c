"""The machine-readable description of the API: one document out of the files in `openapi/`.

Those files are the only source. What is served depends on the settings, so an operation is told
only if a route answers it; `undescribed` gives what a route serves and no file tells. The older
form (Swagger 2.0), which the contract has at `/swagger/doc.json`, is made from the newer.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route

from sandkeeper import __version__
from sandkeeper.api.blaxel.swagger2 import to_swagger2

__all__ = ["Address", "openapi", "operations", "served", "swagger", "undescribed"]

FOLDER = Path(__file__).parents[2] / "openapi"
METHODS = ("get", "head", "put", "post", "patch", "delete")
UNLISTED = re.compile(
    r"/|/terminal|/terminal/ws|/mcp|/console(/.*)?|/debug/panic|/swagger(/index\.html)?/?"
)
"""Not in the contract's document either: pages, sockets, other protocols."""

OTHERS = tuple(f"sandkeeper.api.{wire}." for wire in ("code_wires", "control", "e2b", "kubernetes"))
"""Whose routes others' own descriptions tell (docs/e2b.md, docs/kubernetes.md)."""

Document = dict[str, Any]
Operation = tuple[str, str]
"""Method in capitals, and a path with `{}` for every parameter."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients reach the API."""

    scheme: str
    host: str
    base: str

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Address":
        """Read it from `BL_ENV`, `BL_WORKSPACE` and `BL_NAME`, as the contract has it."""
        host = {"prod": "run.blaxel.ai", "dev": "run.blaxel.dev"}.get(env.get("BL_ENV", ""))
        if host is None:
            return cls("http", "localhost:8080", "/")
        workspace, name = env.get("BL_WORKSPACE", ""), env.get("BL_NAME", "")
        base = f"/{workspace}/sandboxes/{name}" if workspace and name else "/"
        return cls("https", host, base)

    @property
    def url(self) -> str:
        """Where the document's paths begin; where nothing else is known, where it came from."""
        base = self.base.rstrip("/")
        return f"{self.scheme}://{self.host}{base}" if self.scheme == "https" else "/"


@cache
def _whole() -> bytes:
    """Return all files as one document; raises ValueError when two of them disagree."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for file in sorted(FOLDER.glob("*.json")):
        part = msgspec.json.decode(file.read_bytes())
        for path, item in part["paths"].items():
            _add(paths, path, _tagged(item, part.get("tags", [])))
        for name, schema in part["components"]["schemas"].items():
            _add(schemas, name, schema)
    return msgspec.json.encode({"paths": paths, "schemas": schemas})


def _add(known: dict[str, Any], name: str, value: Any) -> None:
    if known.setdefault(name, value) != value:
        raise ValueError(f"{name} is described twice and differently")


def _tagged(item: Document, tags: list[Document]) -> Document:
    """Give the operations without a tag the file's."""
    for method in METHODS:
        if method in item and tags:
            item[method].setdefault("tags", [tags[0]["name"]])
    return item


def openapi(routes: Iterable[BaseRoute], address: Address) -> Document:
    """Return the OpenAPI 3.1 document of what `routes` serve."""
    whole = msgspec.json.decode(_whole())
    known = served(routes)
    paths = {path: _kept(path, item, known) for path, item in sorted(whole["paths"].items())}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sandbox API",
            "description": "Processes, files, terminals and ports of one sandbox.",
            "version": __version__,
        },
        "servers": [{"url": address.url}],
        "security": [{"BearerAuth": []}],
        "paths": {path: item for path, item in paths.items() if item},
        "components": {
            "securitySchemes": {"BearerAuth": {"type": "http", "scheme": "bearer"}},
            "schemas": whole["schemas"],
        },
    }


def swagger(routes: Iterable[BaseRoute], address: Address) -> Document:
    """Return the same as Swagger 2.0."""
    place = {"host": address.host, "basePath": address.base, "schemes": [address.scheme]}
    return to_swagger2(openapi(routes, address), place)


def _kept(path: str, item: Mapping[str, Any], known: set[Operation]) -> Document:
    """Return what of a path is served; nothing when no method of it is."""
    methods = {m: item[m] for m in METHODS if m in item and (m.upper(), _shape(path)) in known}
    shared = {"parameters": item["parameters"]} if "parameters" in item else {}
    return {**shared, **methods} if methods else {}


def operations() -> set[Operation]:
    """Return all that the files describe."""
    paths: Mapping[str, Any] = msgspec.json.decode(_whole())["paths"]
    return {(m.upper(), _shape(path)) for path, item in paths.items() for m in METHODS if m in item}


def served(routes: Iterable[BaseRoute]) -> set[Operation]:
    """Return what routes answer, without bare HEADs and what is not listed."""
    found: set[Operation] = set()
    for route in routes:
        if not isinstance(route, Route) or UNLISTED.fullmatch(route.path):
            continue
        if str(route.endpoint.__module__).startswith(OTHERS):
            continue
        # A route on a path and all below it names no parameter.
        shape = _shape(route.path) + ("/{}" if getattr(route, "below", False) else "")
        found |= {(method, shape) for method in route.methods or ()}
    return found


def undescribed(routes: Iterable[BaseRoute]) -> set[Operation]:
    """Return what is served and not described; a HEAD with nothing to tell needs no words."""
    return {(m, shape) for m, shape in served(routes) - operations() if m != "HEAD"}


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)
