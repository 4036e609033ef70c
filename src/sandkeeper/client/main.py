"""Runs a verb: its exit status, and one sentence for whatever goes wrong."""

import os
import signal
import sys
from collections.abc import Sequence, Set
from importlib import import_module

from sandkeeper.client.completing import learn_shells
from sandkeeper.client.context import app
from sandkeeper.client.failures import ClientError
from sandkeeper.client.output import complain

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
MODULES = {
    "running": {"run", "attach", "logs"},
    "processes": {"ps", "inspect", "stop", "kill", "signal", "wait"},
    "terminals": {"sh", "terminals", "record", "play"},
    "files": {
        *("ls", "cat", "edit", "mkdir", "mv", "rm", "find", "grep", "tree", "du"),
        *("watch", "changes"),
    },
    "copying": {"cp"},
    "machine": {"ports", "health", "version", "diagnose", "completion", "upgrade"},
    "bridge": {"mcp"},
}
"""Which module declares which verbs; a test holds the two together."""


def main(argv: Sequence[str], *, completes: bool = False) -> int:
    """Run the verb that `argv` names; returns the exit status (`sandkeeper.client` lists them).

    With `completes` a shell asks for words, in the way of its own script.
    """
    if completes:
        learn_shells()
    _declare(set(argv))
    try:
        app(args=list(argv), prog_name="sandkeeper", standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except ClientError as error:
        complain(str(error))
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return 0


def _declare(words: Set[str]) -> None:
    """Import the modules whose verbs are among the words; all when none is, for a list of them."""
    named = [name for name, verbs in MODULES.items() if verbs & words]
    for name in named or MODULES:
        import_module(f"sandkeeper.client.{name}")
