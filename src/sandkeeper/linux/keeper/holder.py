"""The keeper's own process: holds descriptors while the server is away. Run by path, not imported.

Every message is one packet of a SOCK_SEQPACKET unix socket: `put KEY` with descriptors, `drop KEY`,
`get KEY` (answered by `KEY` with the descriptors, or `none`). It ends when nobody is connected and
nothing is held, when its socket's path is gone or another keeper's, or when what it holds belongs
to processes that ended more than an hour ago.

It imports little on purpose: every server starts one, and it lives beside it all the time. `socket`
and `signal` name their constants by `enum`, which would be half of its start and a quarter of its
memory; what they are made of has all that is needed.
"""

import _signal  # type: ignore[import-not-found] # CPython's, as `_socket` is
import _socket
import os
import select
import sys
import time

LOOK_EVERY_MS = 10_000
FORGET_AFTER = 3600.0
MAX_FDS = 8
RIGHTS = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
INT_BYTES = 4


def alive(pidfd: int) -> bool:
    """Say whether the process of a pidfd still runs; other descriptors never do."""
    try:
        _signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        return False
    return True


def close_all(fds: list[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def received(peer: _socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors; raises OSError."""
    message, beside, _flags, _address = peer.recvmsg(256, _socket.CMSG_SPACE(MAX_FDS * INT_BYTES))
    fds = [
        int.from_bytes(data[at : at + INT_BYTES], sys.byteorder)
        for level, kind, data in beside
        if (level, kind) == RIGHTS
        for at in range(0, len(data) - INT_BYTES + 1, INT_BYTES)
    ]
    return message, fds


def send(peer: _socket.socket, message: bytes, fds: list[int]) -> None:
    """Send a message with descriptors; raises OSError."""
    data = b"".join(fd.to_bytes(INT_BYTES, sys.byteorder) for fd in fds)
    peer.sendmsg([message], [(*RIGHTS, data)])


def handle(peer: _socket.socket, held: dict[bytes, list[int]]) -> bool:
    """Take one message; False when the peer is gone."""
    try:
        message, fds = received(peer)
    except OSError:
        return False
    if not message:
        return False
    verb, _, key = message.partition(b" ")
    if verb == b"put":
        close_all(held.pop(key, []))
        held[key] = fds
    elif verb == b"drop":
        close_all(held.pop(key, []))
    elif verb == b"get":
        kept = held.get(key, [])
        try:
            send(peer, key if kept else b"none", kept)
        except OSError:
            return False
    return True


def place(path: str) -> tuple[int, int]:
    """Return device and inode of a path; zeros when it is gone."""
    try:
        info = os.stat(path)
    except OSError:
        return 0, 0
    return info.st_dev, info.st_ino


def main(path: str, listener: _socket.socket) -> None:
    """Serve until there is no reason to."""
    held: dict[bytes, list[int]] = {}
    peers: dict[int, _socket.socket] = {}
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    idle_since = time.monotonic()
    ours = place(path)
    while place(path) == ours != (0, 0):
        for fd, _events in poller.poll(LOOK_EVERY_MS):
            if fd == listener.fileno():
                try:
                    made, _ = listener._accept()  # type: ignore[attr-defined]
                except OSError:  # no descriptor left: what is held counts more than who knocks
                    select.select([], [], [], 0.1)
                    continue
                peers[made] = _socket.socket(fileno=made)
                poller.register(made, select.POLLIN)
            elif not handle(peers[fd], held):
                poller.unregister(fd)
                peers.pop(fd).close()
                if not peers and not held:
                    if place(path) == ours:
                        os.unlink(path)
                    return
        if peers or any(alive(fd) for fds in held.values() for fd in fds):
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > FORGET_AFTER:
            os.unlink(path)
            return


if __name__ == "__main__":
    for number in (_signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    main(sys.argv[1], _socket.socket(fileno=int(sys.argv[2])))
