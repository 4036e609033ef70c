"""Verbs about the machine and its server: ports, health, versions, upgrades."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from sandkeeper import __version__
from sandkeeper.client import COMPLETE_VARIABLE
from sandkeeper.client.completing import learn_shells
from sandkeeper.client.completing import ports as ports_there
from sandkeeper.client.connection import Server
from sandkeeper.client.context import AsJson, app, verb
from sandkeeper.client.failures import ClientError, NoServer
from sandkeeper.client.output import (
    Column,
    age,
    complain,
    is_terminal,
    print_json,
    print_table,
    say,
)

__all__: list[str] = []

GROUP = "Server"
SHELLS = ("bash", "zsh", "fish")
COLUMNS = [
    Column("PORT", right=True),
    Column("PROTOCOL", spare=2),
    Column("ADDRESS", spare=1),
    Column("PID", right=True, spare=3),
    Column("PROCESS", cuts=True),
]


@verb("ports", group=GROUP)
def ports(server: Server, *, as_json: AsJson = False) -> None:
    """List the ports on which something listens."""
    found = server.value("GET", "/network/ports")["ports"]
    if as_json:
        print_json(found)
    else:
        print_table(COLUMNS, [_row(one) for one in found])


def _row(port: Mapping[str, Any]) -> list[str]:
    pid = str(port["pid"]) if port["pid"] else "-"
    address = port["localAddr"]
    return [str(port["localPort"]), port["protocol"], address, pid, port["processName"] or "-"]


@verb("open", group=GROUP)
def open_(
    server: Server,
    port: Annotated[
        int,
        typer.Argument(metavar="PORT", min=1, max=65535, autocompletion=ports_there),
    ],
    *,
    path: Annotated[str, typer.Option(help="Where to go there.")] = "/",
    preview: Annotated[
        bool, typer.Option(help="For everybody who has it, as often as they like, for a day.")
    ] = False,
    show: Annotated[
        bool, typer.Option("-n", "--print", help="Only print it; open no browser.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print, and on a terminal open, an address by which a browser sees a port, token or not.

    It is good for one visit within ten minutes, after which that browser has a cookie.
    """
    payload = {"path": path, "once": not preview}
    link = server.value("POST", f"/network/ports/{port}/links", payload)
    url = str(link["url"])
    if urlsplit(url).scheme not in {"http", "https"}:
        raise NoServer(f"what answers at {server.url} gives no address of a page")
    if as_json:
        print_json(link)
        return
    say(url)
    if not show and is_terminal(1):
        import webbrowser

        if not webbrowser.open(url):
            complain("there is no browser here: open that address in one")


@verb("health", group=GROUP)
def health(
    server: Server,
    *,
    ready: Annotated[bool, typer.Option(help="Also whether all parts of it work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether the server answers; for health checks of images."""
    answer = server.value("GET", "/health", seconds=10)
    if not isinstance(answer, dict) or answer.get("status") != "ok":
        raise NoServer(f"what answers at {server.url} is no server of this API")
    if ready:
        server.value("GET", "/ready", seconds=10)
    if as_json:
        print_json(answer)
    else:
        say("ok")


@verb("version", group=GROUP)
def version(server: Server, *, as_json: AsJson = False) -> None:
    """Print the versions of the client and of the server."""
    answer = server.value("GET", "/health", seconds=10)
    theirs = {key: answer.get(key) for key in ("version", "os", "arch", "startedAt")}
    if as_json:
        print_json({"client": {"version": __version__}, "server": theirs})
        return
    say(f"client {__version__}")
    up = age(float(answer.get("uptimeSeconds") or 0))
    say(f"server {theirs['version']} ({theirs['os']}/{theirs['arch']}), up {up}, at {server.url}")


@verb("diagnose", group=GROUP)
def diagnose(server: Server, *, as_json: AsJson = True) -> None:
    """Print what the server knows about itself, as JSON."""
    print_json(server.value("GET", "/diagnostics"))


@verb("completion", group=GROUP)
def completion(_server: Server, shell: Annotated[str, typer.Argument(metavar="SHELL")]) -> int:
    """Print what makes bash, zsh or fish complete verbs, options and names of the server.

    For bash: `source <(sandkeeper completion bash)`.
    """
    from typer.completion import shell_complete
    from typer.main import get_command

    if shell not in SHELLS:
        raise ClientError(f"completion is for {', '.join(SHELLS)}, not {shell!r}")
    learn_shells()
    status = shell_complete(
        get_command(app), {}, "sandkeeper", COMPLETE_VARIABLE, f"source_{shell}"
    )
    return int(status)


@verb("upgrade", group=GROUP)
def upgrade(
    server: Server,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Put another version in the place of the running server; nothing in it is lost."""
    if not yes and not typer.confirm(f"upgrade {server.url} to {version}?"):
        raise ClientError("nothing was changed")
    print_json(server.value("POST", "/upgrade", {"version": version}, seconds=600))
