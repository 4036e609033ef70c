"""The port on which Blaxel's clients look for a code interpreter: the same for all on this machine.

Most tests want nobody there, so that our server answers; one has an interpreter of its own there.
"""

import contextlib
import socket
from collections.abc import Iterator

from sandkeeper.settings.port_names import BLAXEL_CODE_PORT
from tests.harness import until

__all__ = ["nobody_interprets"]


@contextlib.contextmanager
def nobody_interprets() -> Iterator[None]:
    """Have the port without a listener, and keep it so: waits for whoever has it.

    A socket that is bound and does not listen refuses connections, and nobody else may bind to its
    port but sockets of the same user that all share it (SO_REUSEPORT, socket(7)), as these do.
    """
    with until(_bound, timeout=200) as sock:
        assert sock.fileno() >= 0
        yield


def _bound() -> socket.socket | None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(("127.0.0.1", BLAXEL_CODE_PORT))
    except OSError:
        sock.close()
        return None
    return sock
