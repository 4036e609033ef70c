"""What a service manager is told and keeps: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

A unit of `Type=notify` counts as started at READY=1. With `WatchdogSec=` it is restarted when no
WATCHDOG=1 has come for so long; ours come from the event loop, so they say that requests are
answered. Over an upgrade in place nothing is said: the process is the same, and is ready again
long before any watchdog bites.

With `FileDescriptorStoreMax=` the manager keeps the listening sockets, and the next server gets
them: whoever connects while there is no server waits in the kernel for the next. Sockets of a
`.socket` unit come the same way.
"""

import array
import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from sandkeeper.numerals import natural

__all__ = ["SERVICE_VARIABLES", "ServiceManager"]

SERVICE_VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"),
    *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"),
)
"""Meant for one process (systemd.exec(5)): its children would speak in its name, look for its
secrets, and take their output for the journal's."""

TOO_OFTEN_SECONDS = 0.05
FIRST_GIVEN = 3  # SD_LISTEN_FDS_START
KEPT_NAME = "sandkeeper"
"""What our sockets are called while the manager keeps them."""


class ServiceManager:
    """Who started us, if that wants to be told; event loop's thread only.

    `address` is a socket's path or, after an `@`, its name in the abstract namespace (unix(7));
    an empty one is nobody's. `watchdog` is how many seconds may pass between signs of life, 0 for
    any number. `given` are names of descriptors, by their numbers, that it has started us with.
    What cannot be delivered is not: a manager that is gone must not end the server.
    """

    def __init__(
        self,
        address: str = "",
        watchdog: float = 0.0,
        given: Mapping[int, str] | None = None,
    ) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._given = given or {}

    @classmethod
    def named(cls, variables: Mapping[str, str]) -> "ServiceManager":
        """Return whom the environment names; a watchdog that waits for another process is none."""
        given = _given(variables)
        address = variables.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls(given=given)
        microseconds = natural(variables.get("WATCHDOG_USEC", "")) or 0
        meant = natural(variables.get("WATCHDOG_PID", ""))
        ours = meant is None or meant == os.getpid()
        return cls(address, microseconds / 1e6 if ours else 0.0, given)

    def take(self, fits: Callable[[socket.socket], bool]) -> list[socket.socket]:
        """Return the listening sockets that we were started with, as far as they fit.

        What the manager kept for us and does not fit any more is given up: nobody would accept what
        comes there.
        """
        taken = []
        for fd, name in self._given.items():
            try:
                sock = socket.socket(fileno=fd)
            except OSError:  # no socket: not ours to close
                continue
            if sock.family in {socket.AF_INET, socket.AF_INET6} and fits(sock):
                taken.append(sock)
                continue
            if name == KEPT_NAME:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # in every process, and the manager forgets it
            sock.close()
        self._given = {}
        return taken

    def ready(
        self, loop: asyncio.AbstractEventLoop, listeners: Sequence[socket.socket] = ()
    ) -> None:
        """Tell that requests are answered from now on, and go on to tell so where it is asked.

        The listening sockets are given to be kept; a manager that keeps them already knows that.
        """
        if listeners:
            self._tell("FDSTORE=1", f"FDNAME={KEPT_NAME}", send=listeners)
        self._tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=answering requests")
        if self._watchdog:
            self._live(loop, max(TOO_OFTEN_SECONDS, self._watchdog / 3))

    def _live(self, loop: asyncio.AbstractEventLoop, pause: float) -> None:
        self._tell("WATCHDOG=1")
        loop.call_later(pause, self._live, loop, pause)

    def stopping(self) -> None:
        """Tell that the end is meant."""
        self._tell("STOPPING=1", "STATUS=finishing what is being answered")

    def _tell(self, *fields: str, send: Iterable[socket.socket] = ()) -> None:
        if not self._address:
            return
        numbers = array.array("i", [one.fileno() for one in send])
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendmsg(["\n".join(fields).encode()], beside, 0, self._address)


def _given(variables: Mapping[str, str]) -> dict[int, str]:
    """Return the names of the descriptors that were meant for us; no child inherits them."""
    if natural(variables.get("LISTEN_PID", "")) != os.getpid():
        return {}
    count = natural(variables.get("LISTEN_FDS", "")) or 0
    names = variables.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for place in range(min(count, os.sysconf("SC_OPEN_MAX"))):
        with suppress(OSError):
            os.set_inheritable(FIRST_GIVEN + place, False)
            found[FIRST_GIVEN + place] = names[place] if place < len(names) else ""
    return found
