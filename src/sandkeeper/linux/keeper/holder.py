"""The keeper's own process: holds descriptors while the server is away. Run by path, not imported.

Every message is one packet of a SOCK_SEQPACKET unix socket: `put KEY` with descriptors, `drop KEY`,
`get KEY` (answered by `KEY` with the descriptors, or `none`). It ends when nobody is connected and
nothing is held, when its socket's path is gone or another keeper's, or when what it holds belongs
to processes that ended more than an hour ago.

It imports little on purpose: it lives beside the server all the time.
"""

import os
import select
import signal
import socket
import sys
import time

LOOK_EVERY_MS = 10_000
FORGET_AFTER = 3600.0
MAX_FDS = 8


def alive(pidfd: int) -> bool:
    """Say whether the process of a pidfd still runs; other descriptors never do."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        return False
    return True


def close_all(fds: list[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def handle(peer: socket.socket, held: dict[bytes, list[int]]) -> bool:
    """Take one message; False when the peer is gone."""
    try:
        message, fds, _flags, _address = socket.recv_fds(peer, 256, MAX_FDS)
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
            socket.send_fds(peer, [key if kept else b"none"], kept)
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


def main(path: str, listener: socket.socket) -> None:
    """Serve until there is no reason to."""
    held: dict[bytes, list[int]] = {}
    peers: dict[int, socket.socket] = {}
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    idle_since = time.monotonic()
    ours = place(path)
    while place(path) == ours != (0, 0):
        for fd, _events in poller.poll(LOOK_EVERY_MS):
            if fd == listener.fileno():
                try:
                    peer, _ = listener.accept()
                except OSError:  # no descriptor left: what is held counts more than who knocks
                    select.select([], [], [], 0.1)
                    continue
                peers[peer.fileno()] = peer
                poller.register(peer, select.POLLIN)
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
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
