"""Runs a verb: its exit status, and one sentence for whatever goes wrong."""

import os
import signal
from collections.abc import Sequence, Set
from importlib import import_module
from types import FrameType

from sandkeeper.client.completing import learn_shells
from sandkeeper.client.context import app
from sandkeeper.client.failures import ClientError, NobodyReads, NoServer
from sandkeeper.client.output import close_output, complain

__all__ = ["declare_all", "main"]

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE
NEEDED = {"pathspec"}
"""Packages of the extra `cli` that not every verb imports."""
MODULES = {
    "running": {"run", "attach", "logs"},
    "figures": {"ps", "top"},
    "processes": {"inspect", "stop", "kill", "signal", "wait", "restart", "prune"},
    "terminals": {"sh", "terminals", "record", "play"},
    "files.verbs": {
        *("ls", "cat", "mkdir", "mv", "rm", "find", "grep", "tree", "du"),
        *("watch", "changes"),
    },
    "files.editing": {"edit"},
    "files.copying": {"cp"},
    "files.syncing": {"sync"},
    "forwarding": {"forward"},
    "machine": {"open", "ports", "health", "version", "diagnose", "completion", "upgrade"},
    "archiving": {"export", "thaw", "import"},
    "bridge": {"mcp"},
    "manual": {"man"},
}
"""Which module declares which verbs; a test holds the two together."""


def main(argv: Sequence[str], *, completes: bool = False) -> int:
    """Run the verb that `argv` names; returns the exit status (`sandkeeper.client` lists them).

    With `completes` a shell asks for words, in the way of its own script.
    """
    _hold_descriptors()
    try:
        _take_signals()
        if completes:
            learn_shells()
        _declare(set(argv))
        return _run(list(argv))
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        complain(f"this needs {error.name} as well: pip install 'sandkeeper[cli]'")
        return ClientError.status
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter's end would tell of it


def _run(argv: list[str]) -> int:
    try:
        app(args=argv, prog_name="sandkeeper", standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except ClientError as error:
        complain(str(error))
        return error.status
    except NobodyReads:
        close_output()
        return NOBODY_READS
    except OSError as error:
        what = str(error.strerror or error).lower()
        complain(f"{os.fsdecode(error.filename)}: {what}" if error.filename else what)
        return ClientError.status
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, whatever it is
        complain(f"what answers says what this client does not know ({_told(error)})")
        return NoServer.status
    return 0


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _hold_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed, or a socket to the server would take their place.

    What then stands for standard output cannot be written to, which is told.
    """
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)


def _take_signals() -> None:
    """Have signals that end a program leave through every `finally`; what is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `entry` has left it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def declare_all() -> None:
    """Import every verb."""
    _declare(set())


def _declare(words: Set[str]) -> None:
    """Import the modules whose verbs are among the words; all when none is, for a list of them."""
    named = [name for name, verbs in MODULES.items() if verbs & words]
    for name in named or MODULES:
        import_module(f"sandkeeper.client.{name}")
