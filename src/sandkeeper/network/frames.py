"""Where the frames of a WebSocket begin and end, and no more of them (RFC 6455, section 5.2).

Whoever passes bytes on as they are can say something of its own only between two frames, and must
know whether the other side has said goodbye.
"""

__all__ = ["PING", "Frames", "goodbye"]

PING = b"\x89\x00"
CLOSE, PINGED = 8, 9
LONGEST_HEAD = 14


def goodbye(code: int, reason: str) -> bytes:
    """Return a server's close frame; the reason has at most 123 bytes."""
    body = code.to_bytes(2, "big") + reason.encode()[:123]
    return bytes([0x80 | CLOSE, len(body)]) + body


class Frames:
    """Follows one direction; a turn of the loop is safe with a few thousand bytes at once.

    `left` is what is still to come of the present frame, `closed` says that a close frame began,
    `pings` counts those that have not been set to 0.
    """

    def __init__(self) -> None:
        self.left = 0
        self.closed = False
        self.pings = 0
        self._head = b""

    @property
    def between(self) -> bool:
        """Whether no frame is half sent."""
        return not self.left and not self._head

    def feed(self, data: bytes) -> None:
        """Follow what was passed on."""
        at = 0
        while at < len(data):
            if self.left:
                step = min(self.left, len(data) - at)
                self.left -= step
                at += step
                continue
            known = len(self._head)
            head = self._head + data[at : at + LONGEST_HEAD]
            size = _head_bytes(head)
            if len(head) < size:
                self._head = head
                return
            at += size - known
            self._head = b""
            self.left = _payload(head)
            self.closed = self.closed or head[0] & 15 == CLOSE
            self.pings += head[0] & 15 == PINGED


def _head_bytes(head: bytes) -> int:
    if len(head) < 2:
        return 2
    extended = {126: 2, 127: 8}.get(head[1] & 127, 0)
    return 2 + extended + (4 if head[1] & 128 else 0)


def _payload(head: bytes) -> int:
    length = head[1] & 127
    if length < 126:
        return length
    return int.from_bytes(head[2 : 4 if length == 126 else 10], "big")
