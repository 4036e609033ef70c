"""Where the frames of a WebSocket begin and end, and no more of them (RFC 6455, section 5.2).

Whoever passes bytes on as they are can say something of its own only between two frames, and must
know whether the other side has said goodbye.
"""

__all__ = ["PING", "Frames", "goodbye"]

PING = b"\x89\x00"
CLOSE, PINGED = 8, 9
LONGEST_HEAD = 14
PINGS_MOST = 100
"""So many go to somebody who has said nothing since."""


def goodbye(code: int, reason: str) -> bytes:
    """Return a server's close frame; the reason has at most 123 bytes."""
    body = code.to_bytes(2, "big") + reason.encode()[:123]
    return bytes([0x80 | CLOSE, len(body)]) + body


class Frames:
    """Follows one direction; a turn of the loop is safe with a few thousand bytes at once.

    `left` is what is still to come of the present frame, `closed` says that a close frame began.
    `pings` counts those that were passed on until somebody sets it to 0. More than PINGS_MOST are
    left out: an endpoint need only answer the latest (section 5.5.3).
    """

    def __init__(self) -> None:
        self.left = 0
        self.closed = False
        self.pings = 0
        self.skips = False
        self._head = b""

    @property
    def between(self) -> bool:
        """Whether no frame is half sent."""
        return not self.left or self.skips

    def feed(self, data: bytes) -> bytes:
        """Return what is to be passed on of `data`, and of a head that was not whole before."""
        data, self._head = self._head + data, b""
        kept: list[bytes] = []
        at = begin = 0
        while at < len(data):
            if self.left:
                step = min(self.left, len(data) - at)
                self.left -= step
                at += step
                begin = at if self.skips else begin
                continue
            head = data[at : at + LONGEST_HEAD]
            size = _head_bytes(head)
            if len(head) < size:
                self._head, data = head, data[:at]
                break
            self.left = _payload(head)
            self._note(head[0] & 15)
            if self.skips:
                kept.append(data[begin:at])
                begin = at + size
            at += size
        kept.append(data[begin:])
        return b"".join(kept)

    def _note(self, opcode: int) -> None:
        self.closed = self.closed or opcode == CLOSE
        self.skips = opcode == PINGED and self.pings >= PINGS_MOST
        self.pings += opcode == PINGED


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
