"""What a shell offers behind a verb: names of the live server. Whatever fails offers nothing."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from sandkeeper.client.connection import DEFAULT_URL, Server
from sandkeeper.client.failures import ClientError
from sandkeeper.client.files.paths import file_route
from sandkeeper.client.variables import variable

__all__ = [
    "learn_shells",
    "paths",
    "paths_or_processes",
    "ports",
    "processes",
    "remote_paths",
    "running",
    "sessions",
]

SECONDS = 2.0

Offer = Callable[[Any, str], list[str]]
"""Takes the context of the words so far (click's, by its name) and the word that is begun."""


def _offered(find: Callable[[Server, str], Iterator[str]]) -> Offer:
    @wraps(find)
    def offer(ctx: Any, incomplete: str) -> list[str]:
        url = _given(ctx, "url") or variable("SANDKEEPER_URL") or DEFAULT_URL
        token = _given(ctx, "token") or variable("SANDKEEPER_TOKEN")
        try:
            found = list(find(Server(url, token), incomplete))
        except (ClientError, LookupError, TypeError, AttributeError):
            return []  # nobody is there, or somebody who says something else
        return [word for word in found if word.startswith(incomplete)]

    del offer.__wrapped__  # typer would ask it for its parameters
    return offer


def _given(ctx: Any, option: str) -> str:
    """Return what stands on the line, behind the verb or before it; another server's names lie."""
    while ctx is not None:
        if value := ctx.params.get(option):
            return str(value)
        ctx = ctx.parent
    return ""


def learn_shells() -> None:
    """Have typer know the shells; it does so by itself only with options of its own for it."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()


@_offered
def processes(server: Server, _incomplete: str) -> Iterator[str]:
    """Offer names of processes, the newest first."""
    for one in reversed(server.value("GET", "/process", seconds=SECONDS)):
        yield one["name"]


@_offered
def running(server: Server, _incomplete: str) -> Iterator[str]:
    """Offer names of processes that are not over, the newest first."""
    for one in reversed(server.value("GET", "/process", seconds=SECONDS)):
        if one["status"] == "running":
            yield one["name"]


@_offered
def ports(server: Server, incomplete: str) -> Iterator[str]:
    """Offer ports of the sandbox on which something listens, behind `LOCAL:` where that stands."""
    before = incomplete[: incomplete.rfind(":") + 1]
    found = server.value("GET", "/network/ports", seconds=SECONDS)["ports"]
    for port in sorted({one["localPort"] for one in found if one["protocol"] == "tcp"}):
        yield f"{before}{port}"


@_offered
def sessions(server: Server, _incomplete: str) -> Iterator[str]:
    """Offer names of terminals."""
    for one in server.value("GET", "/terminals", seconds=SECONDS):
        yield one["sessionId"]


@_offered
def paths(server: Server, incomplete: str) -> Iterator[str]:
    """Offer paths of the sandbox, with a colon where one was typed."""
    colon = ":" if incomplete.startswith(":") else ""
    above, slash, _ = incomplete.removeprefix(":").rpartition("/")
    folder = above + slash or "."
    listing = server.value("GET", file_route("/filesystem", folder), seconds=SECONDS)
    for one in listing["subdirectories"]:
        yield f"{colon}{above}{slash}{one['name']}/"
    for one in listing["files"]:
        yield f"{colon}{above}{slash}{one['name']}"


def paths_or_processes(ctx: Any, incomplete: str) -> list[str]:
    """Offer paths behind a colon, else names of processes."""
    return (paths if incomplete.startswith(":") else processes)(ctx, incomplete)


def remote_paths(ctx: Any, incomplete: str) -> list[str]:
    """Offer paths of the sandbox behind a colon; without one the shell offers those of here."""
    return paths(ctx, incomplete) if incomplete.startswith(":") else []
