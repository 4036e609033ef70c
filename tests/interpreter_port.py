"""The ports on which clients look for a code interpreter: the same for all on this machine.

Most tests want nobody there, so that our server answers; one has an interpreter of its own there.
One of them, 49999, is also among those that whoever asks for any port is given (ip(7)).
"""

import contextlib
import socket
from collections.abc import Iterator

from sandkeeper.settings.port_names import CODE_PORTS
from tests.harness import until

__all__ = ["nobody_interprets"]


@contextlib.contextmanager
def nobody_interprets() -> Iterator[None]:
    """Have the ports without a listener, and keep them so: waits for whoever has one.

    A socket that is bound and does not listen refuses connections, and nobody else may bind to its
    port but sockets of the same user that all share it (SO_REUSEPORT, socket(7)), as these do.
    """
    with contextlib.ExitStack() as held:
        for port in sorted(CODE_PORTS):
            held.enter_context(until(lambda port=port: _bound(port), timeout=200))
        yield


def _bound(port: int) -> socket.socket | None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return None
    return sock
