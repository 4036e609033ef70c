"""The power button of a machine (ACPI): pressed, it ends the server, and so the machine.

The kernel reports it as a key of an input device (input.h: type 1, code 116, value 1).
"""

import os
import select
import signal
import struct
import threading
from contextlib import suppress

__all__ = ["obey_button"]

EVENT = struct.Struct("llHHi")
FOLDER = "/dev/input"
EV_KEY, KEY_POWER, PRESSED = 1, 116, 1


def obey_button() -> None:
    """Watch for it from now on; a machine that has no such key is switched off by SIGTERM."""
    fds: list[int] = []
    with suppress(OSError):
        names = sorted(name for name in os.listdir(FOLDER) if name.startswith("event"))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        fds.extend(os.open(f"{FOLDER}/{name}", flags) for name in names)
    if fds:
        threading.Thread(target=_watch, args=(fds,), name="power-button", daemon=True).start()


def _watch(fds: list[int]) -> None:
    while fds:
        for fd in select.select(fds, [], [])[0]:
            try:
                data = os.read(fd, EVENT.size * 64)
            except OSError:  # the device is gone
                fds.remove(fd)
                os.close(fd)
                continue
            for _, _, kind, code, value in EVENT.iter_unpack(data[: len(data) // 24 * 24]):
                if (kind, code, value) == (EV_KEY, KEY_POWER, PRESSED):
                    os.kill(os.getpid(), signal.SIGTERM)
