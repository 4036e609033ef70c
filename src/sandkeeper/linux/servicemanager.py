"""What a service manager is told: sd_notify(3) and sd_watchdog_enabled(3), without their library.

A unit of `Type=notify` counts as started at READY=1. With `WatchdogSec=` it is restarted when no
WATCHDOG=1 has come for so long; ours come from the event loop, so they say that requests are
answered. Over an upgrade in place nothing is said: the process is the same, and is ready again
long before any watchdog bites.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from sandkeeper.numerals import natural

__all__ = ["SERVICE_VARIABLES", "ServiceManager"]

SERVICE_VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"),
)
"""Meant for one process (systemd.exec(5)): its children would speak in its name, look for its
secrets, and take their output for the journal's."""

TOO_OFTEN_SECONDS = 0.05


class ServiceManager:
    """Who started us, if that wants to be told; event loop's thread only.

    `address` is a socket's path or, after an `@`, its name in the abstract namespace (unix(7));
    an empty one is nobody's. `watchdog` is how many seconds may pass between signs of life, 0 for
    any number. What cannot be delivered is not: a manager that is gone must not end the server.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog

    @classmethod
    def named(cls, variables: Mapping[str, str]) -> "ServiceManager":
        """Return whom the environment names; a watchdog that waits for another process is none."""
        address = variables.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        microseconds = natural(variables.get("WATCHDOG_USEC", "")) or 0
        meant = natural(variables.get("WATCHDOG_PID", ""))
        ours = meant is None or meant == os.getpid()
        return cls(address, microseconds / 1e6 if ours else 0.0)

    def ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell that requests are answered from now on, and go on to tell so where it is asked."""
        self._tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=answering requests")
        if self._watchdog:
            self._live(loop, max(TOO_OFTEN_SECONDS, self._watchdog / 3))

    def _live(self, loop: asyncio.AbstractEventLoop, pause: float) -> None:
        self._tell("WATCHDOG=1")
        loop.call_later(pause, self._live, loop, pause)

    def stopping(self) -> None:
        """Tell that the end is meant."""
        self._tell("STOPPING=1", "STATUS=finishing what is being answered")

    def _tell(self, *fields: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(fields).encode(), self._address)
