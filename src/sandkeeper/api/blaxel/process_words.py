"""What requests about processes say in words and numbers, read as the contract reads them."""

import signal

from sandkeeper.api.schemas.processes import ProcessRequest
from sandkeeper.errors import BadInput
from sandkeeper.numerals import GO_INT, PORTS, natural

__all__ = ["check_process", "signal_number", "wait_seconds"]

WAIT_SECONDS = 60
WAIT_MOST_SECONDS = 119


def wait_seconds(text: str) -> int:
    """Read how long to wait in seconds; raises BadInput."""
    seconds = natural(text.removeprefix("+"), WAIT_MOST_SECONDS) if text else WAIT_SECONDS
    if seconds is None:
        raise BadInput(f"invalid timeout: {text} is no whole number of seconds from 0 on")
    return min(seconds, WAIT_MOST_SECONDS)


def check_process(wanted: ProcessRequest) -> None:
    """Complete a process somebody wants; raises BadInput for what its words cannot mean."""
    if wanted.argv and wanted.command:
        raise BadInput("invalid request body: give command or argv, not both")
    wanted.command = wanted.line
    if not wanted.command:
        raise BadInput(
            "invalid request body: Key: 'ProcessRequest.Command' Error:Field validation for "
            "'Command' failed on the 'required' tag"
        )
    if not -GO_INT <= wanted.max_restarts < GO_INT:
        raise BadInput("invalid request body: maxRestarts does not fit 64 bits")
    for port in wanted.wait_for_ports:
        if port not in PORTS:
            raise BadInput(f"invalid request body: waitForPorts: {port} is no port (1 to 65535)")


def signal_number(value: str | int) -> signal.Signals:
    """Read a signal by its name or number; raises BadInput."""
    try:
        if isinstance(value, int) or value.strip().isdigit():
            return signal.Signals(int(value))
        name = value.strip().upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise BadInput(f"unknown signal: {value!r}") from None
