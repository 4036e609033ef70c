"""The renderer: `renderer_main.py DESCRIPTOR`, run by path, renders what comes by its socket.

It answers one order after the other and remembers nothing, so it may end at any time. It steps back
behind the server and what the workload runs, for nobody waits for telemetry.
"""

import marshal
import os
import socket
import struct
import sys

LENGTH = struct.Struct("=Q")
LENGTHS = struct.Struct("=QQ")
"""Of the state behind the lines, and of the lines."""
NICE = 5


def serve(sock: socket.socket) -> None:
    """Answer until the other end is closed."""
    from sandkeeper.observability.rendering import render

    while True:
        order = _receive(sock)
        if not order:
            return
        lines, state = render(*marshal.loads(order))
        behind = marshal.dumps(state)
        sock.sendall(LENGTHS.pack(len(behind), len(lines)) + behind)
        sock.sendall(lines)


def _receive(sock: socket.socket) -> bytes:
    """Return the next order; nothing at the end."""
    head = sock.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(head) < LENGTH.size:
        return b""
    (size,) = LENGTH.unpack(head)
    return sock.recv(size, socket.MSG_WAITALL)


if __name__ == "__main__":
    # -I and -S leave nothing of the environment on the path, and our own package is not, either.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    os.nice(NICE)
    with socket.socket(fileno=int(sys.argv[1])) as given:
        serve(given)
