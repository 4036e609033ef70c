"""How verbs are declared: every one takes `--url` and `--token`, and gets the server they name."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sandkeeper.client.completing import processes, running
from sandkeeper.client.connection import DEFAULT_URL, Server
from sandkeeper.client.failures import NobodyReads

__all__ = ["AsJson", "Id", "Ids", "RunningId", "RunningIds", "app", "verb"]

app = typer.Typer(
    name="sandkeeper",
    help="Processes, files, terminals and ports of a sandbox, from the command line.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[
    str,
    typer.Option("--url", metavar="URL", help=f"The server ($SANDKEEPER_URL, else {DEFAULT_URL})."),
]
Token = Annotated[
    str, typer.Option("--token", metavar="TOKEN", help="What opens it ($SANDKEEPER_TOKEN).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="Names, ids or pids.", autocompletion=processes),
]
RunningIds = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="Names, ids or pids.", autocompletion=running),
]
Id = Annotated[str, typer.Argument(metavar="ID", autocompletion=processes)]
RunningId = Annotated[str, typer.Argument(metavar="ID", autocompletion=running)]

_first = {"url": "", "token": ""}


@app.callback()
def _before(
    url: Annotated[
        str, typer.Option(metavar="URL", envvar="SANDKEEPER_URL", help="The server.")
    ] = DEFAULT_URL,
    token: Annotated[
        str, typer.Option(metavar="TOKEN", envvar="SANDKEEPER_TOKEN", help="What opens it.")
    ] = "",
) -> None:
    """Processes, files, terminals and ports of a sandbox, from the command line."""
    _first.update(url=url, token=token)


def server_of(url: str, token: str) -> Server:
    """Return the server that options behind the verb, before it or the environment name."""
    return Server(url or _first["url"], token or _first["token"])


def verb(
    name: str, *, group: str, settings: dict[str, Any] | None = None
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Make a function that takes a server, and returns an exit status or None for 0, a verb."""

    def declare(function: Callable[..., int | None]) -> Callable[..., int | None]:
        signature = inspect.signature(function, eval_str=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            *list(signature.parameters.values())[1:],
            inspect.Parameter("url", kind, default="", annotation=Url),
            inspect.Parameter("token", kind, default="", annotation=Token),
        ]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            server = server_of(given.pop("url"), given.pop("token"))
            try:
                status = function(server, **given)
            except BrokenPipeError:
                raise NobodyReads from None  # typer would take it for a failure like others
            if status:
                raise typer.Exit(status)

        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name, rich_help_panel=group, context_settings=settings)(command)
        return function

    return declare
