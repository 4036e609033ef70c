"""Runs a verb: its exit status, and one sentence for whatever goes wrong."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from sandkeeper.client.context import app
from sandkeeper.client.failures import ClientError
from sandkeeper.client.output import complain

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
MODULES = ("running", "processes", "files", "copying", "terminals", "machine", "bridge")


def main(argv: Sequence[str]) -> int:
    """Run the verb that `argv` names; returns the exit status (`sandkeeper.client` lists them)."""
    _declare()
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


def _declare() -> None:
    """Import the modules that declare verbs."""
    for name in MODULES:
        import_module(f"sandkeeper.client.{name}")
