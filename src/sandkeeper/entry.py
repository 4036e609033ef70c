"""The `sandkeeper` command: it serves, leads a fleet, or with a client's verb asks a server.

Each is loaded without the others: neither the first answer of a server nor a command that
lives for a tenth of a second waits for what it does not need.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence

from sandkeeper.client import COMPLETE_VARIABLE
from sandkeeper.deferred import defer_unused

__all__ = ["SERVER_VERBS", "main"]

SERVER_VERBS = ("serve", "archive-baseline")
FLEET = "fleet"
UNUSED_BY_SERVERS = ("http.client", "logging.config")
"""Starlette imports the one, uvicorn the other."""
UNUSED_BY_CLIENTS = ("ssl",)
"""`http.client` imports it, for addresses that begin with https."""
NEEDED = {"typer", "rich"}
NEEDED_BY_FLEETS = {"aiohttp", "kubernetes_asyncio"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    completes = COMPLETE_VARIABLE in os.environ  # noqa: TID251 - settings are not loaded here
    if completes or _is_client(given):
        return _client(given, completes=completes)
    if given[:1] == [FLEET]:
        return _fleet(given[1:])
    gc.disable()  # what a start makes is here to stay; observability.heap enables it
    defer_unused(*UNUSED_BY_SERVERS)
    from sandkeeper.cli import main as serve

    return serve(given)


def _is_client(given: Sequence[str]) -> bool:
    """Say whether the first word is a verb of a client; `--url` and `--token` may stand before."""
    words = iter(given)
    for word in words:
        if word in {"--url", "--token"}:
            next(words, None)
        elif not word.startswith(("--url=", "--token=")):
            return not word.startswith("-") and word not in {*SERVER_VERBS, FLEET}
    return False


def _fleet(given: Sequence[str]) -> int:
    try:
        from sandkeeper.fleet.program import main as lead
    except ModuleNotFoundError as error:
        if error.name not in NEEDED_BY_FLEETS:
            raise
        sys.stderr.write(
            "sandkeeper: a fleet needs more packages: pip install 'sandkeeper[fleet]'\n"
        )
        return 1
    return lead(given)


def _client(given: Sequence[str], *, completes: bool) -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An interrupt while modules are loaded is an end, not a traceback; `ask` takes it back.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # while what stays is made: a fifth of a command's time
    defer_unused(*UNUSED_BY_CLIENTS)
    try:
        from sandkeeper.client.main import main as ask
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        sys.stderr.write(
            "sandkeeper: the client's verbs need more packages: pip install 'sandkeeper[cli]'\n"
        )
        return 1
    gc.freeze()
    gc.enable()
    return ask(given, completes=completes)
