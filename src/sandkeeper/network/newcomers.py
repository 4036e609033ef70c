"""Who connects to a listening socket that is about to be closed: let in, or kept out, never reset.

close(2) of a listening socket resets all that waits in it: connections that the kernel has set up,
whose clients may have sent their request already. So newcomers are kept out first, by a filter that
drops what begins a connection (SYN): their kernel says it again after a second, and is refused
then, or let in by the next server that has the socket. What was let in before is accepted, and
only then the socket is closed.
"""

import ctypes
import errno
import socket
import struct
from contextlib import suppress

__all__ = ["keep_out", "let_in", "waiting"]

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h; Python does not name them
INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
LOAD_BYTE, JUMP_IF_SET, RETURN = 0x30, 0x45, 0x06
FLAGS_OFFSET, SYN = 13, 0x02  # in a TCP header, which is what such a filter is shown
NOTHING, ALL = 0, 0xFFFFFFFF
NO_SYN = b"".join(
    (
        INSTRUCTION.pack(LOAD_BYTE, 0, 0, FLAGS_OFFSET),
        INSTRUCTION.pack(JUMP_IF_SET, 0, 1, SYN),
        INSTRUCTION.pack(RETURN, 0, 0, NOTHING),
        INSTRUCTION.pack(RETURN, 0, 0, ALL),
    )
)
PROGRAM = struct.Struct("@HP")  # struct sock_fprog
UNACKED = struct.Struct("=24xI")
"""Of struct tcp_info, which tells there how many wait in a listening socket (tcp_get_info)."""


def keep_out(listener: socket.socket) -> None:
    """Have no more connections set up; raises OSError where the kernel has no such filters."""
    kept = ctypes.create_string_buffer(NO_SYN, len(NO_SYN))
    program = PROGRAM.pack(len(NO_SYN) // INSTRUCTION.size, ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def let_in(listener: socket.socket) -> None:
    """Undo `keep_out`, which is a matter of the socket, in whatever process; raises OSError."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def waiting(listener: socket.socket) -> int:
    """Return how many connections are to be accepted; 0 where the kernel does not tell."""
    with suppress(OSError, struct.error):
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.size)
        return int(UNACKED.unpack(told)[0])
    return 0
