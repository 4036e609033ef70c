"""Sockets of this machine (unix(7)) by which the server meets processes that outlive it.

short_name   a name of a socket whatever the length of its path
connected    a connection to who listens there
listening    a listener that only its owner reaches
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["connected", "listening", "short_name"]

BACKLOG = 4


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Give a name of at most 107 bytes for a socket: longer paths go through an open folder.

    unix(7) limits `sun_path` to 108 bytes; /proc/self/fd has no such limit.
    """
    if len(os.fsencode(path)) < 108:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connected(path: Path, kind: socket.SocketKind, seconds: float) -> socket.socket:
    """Return a connection, non-blocking from then on; raises OSError, also after `seconds`."""
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(seconds)
    try:
        with short_name(path) as name:
            made.connect(name)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def listening(path: Path, kind: socket.SocketKind) -> socket.socket:
    """Return a listener in the place of whatever stood there; raises OSError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        with short_name(path) as name:
            listener.bind(name)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
