"""`man`: the manual page (man(7)), made of what the verbs say of themselves."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sandkeeper import __version__
from sandkeeper.client.connection import Server
from sandkeeper.client.context import app, verb
from sandkeeper.client.output import write_all

__all__: list[str] = []

STATUSES = (
    ("0", "done"),
    ("1", "the server refused, or what was asked for cannot be done"),
    ("2", "the command line makes no sense"),
    ("3", "no server of this API answers there"),
    ("4", "the server wants another token"),
    ("125, 126, 127", "run: it could not be started or followed; is no program; is not there"),
    ("130, 141", "interrupted; nobody reads the output any more"),
    ("others", "run, attach and wait: the process's own; 128 and the number of its signal"),
)


@verb("man", group="Server")
def man(
    _server: Server,
    name: Annotated[str, typer.Argument(metavar="[VERB]", help="Only this one.")] = "",
) -> None:
    """Print the manual page, for `man -l -` or a file `sandkeeper.1`."""
    from typer.main import get_command

    from sandkeeper.client.main import declare_all

    declare_all()
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    if name and name not in commands:
        raise typer.BadParameter(f"there is no verb {name!r}")
    verbs = [one for key, one in commands.items() if name in {"", key}]
    write_all(1, "\n".join(_page(verbs)).encode() + b"\n")


def _page(verbs: list[Any]) -> Iterator[str]:
    yield f'.TH SANDKEEPER 1 "" "sandkeeper {_roff(__version__)}"'
    yield ".SH NAME\nsandkeeper \\- processes, files, terminals and ports of a sandbox"
    yield ".SH SYNOPSIS\n.B sandkeeper\n[\\-\\-url URL] [\\-\\-token TOKEN] VERB ..."
    yield ".SH DESCRIPTION\nWithout a verb it serves; with one it is a client of any such server."
    yield ".SH VERBS"
    for one in verbs:
        yield from _verb(one)
    yield ".SH EXIT STATUS"
    for number, meaning in STATUSES:
        yield f".TP\n.B {_roff(number)}\n{_roff(meaning)}"
    yield ".SH ENVIRONMENT"
    yield ".TP\n.B SANDKEEPER_URL\nthe server, http://localhost:8080 without it"
    yield ".TP\n.B SANDKEEPER_TOKEN\nwhat opens it"


def _verb(command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = " ".join([command.name, *(_metavar(one) for one in arguments)])
    yield f'.SS "{_roff(words)}"'
    yield _roff(" ".join(str(command.help or "").split()))
    for one in options:
        if set(one.opts) & {"--url", "--token", "--help"}:
            continue
        value = "" if one.is_flag else f" {_metavar(one)}"
        yield f'.TP\n.B "{_roff(", ".join(sorted(one.opts, key=len)) + value)}"'
        yield _roff(str(one.help or ""))


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or str(parameter.name).upper())


def _roff(text: str) -> str:
    """Write a text so that nothing of it is a request, an escape or a typographical hyphen."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text.replace("`", ""))
