"""Many lines of output, each in the same frame; for the renderer of telemetry it needs little."""

from sandkeeper.linebreaks import in_one_line
from sandkeeper.patterns import pattern

__all__ = ["Frame", "framed", "shown"]

Frame = tuple[bool, bytes, bytes]
"""Whether the lines are texts in JSON, and what stands before and behind each."""

ESCAPES = (
    *((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\t", b"\\t"), (b"\r", b"\\r")),
    (b"\x1b", b"\\u001b"),
)
"""What logs have of what JSON escapes; the backslash first."""
UNUSUAL = bytes(set(range(32)) - set(b"\n\t\r\x1b"))
_UNSHOWN = pattern(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What must not reach a person's terminal: it could write anything anywhere there."""


def framed(frame: Frame, lines: bytes) -> bytes:
    """Return lines, each in the frame; they are encoded all at once."""
    is_json, head, tail = frame
    if not is_json:
        text = shown(lines.decode("utf-8", "replace")).encode()
    elif len(lines.translate(None, UNUSUAL)) == len(lines):
        text = in_one_line(_escaped(lines))
    else:
        text = in_one_line(_encoded(lines))
    # Joined once: that is twice as fast as to replace, and nothing so long is copied again.
    every = text.split(b"\n")
    every[0] = head + every[0]
    every[-1] += tail
    return (tail + head).join(every)


def shown(text: str) -> str:
    """Return a text without what a terminal would obey."""
    return _UNSHOWN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _escaped(lines: bytes) -> bytes:
    """Write text as in JSON, but for its newlines; it has none of `UNUSUAL`."""
    if not lines.isascii():
        lines = lines.decode("utf-8", "replace").encode()
    for byte, escape in ESCAPES:
        if byte in lines:
            lines = lines.replace(byte, escape)
    return lines


def _encoded(lines: bytes) -> bytes:
    """Write any text as in JSON, but for its newlines.

    In JSON a newline is a backslash and an `n`, which a backslash of the text followed by an `n`
    looks like; behind a DEL, which is not escaped, a backslash begins an escape and cannot be one.
    """
    from json.encoder import encode_basestring  # hardly any text needs it

    border = b"\\n"
    if b"\\" in lines:
        lines = lines.replace(b"\n", b"\x7f\n")
        border = b"\x7f\\n"
    text = encode_basestring(lines.decode("utf-8", "replace")).encode()
    return text[1:-1].replace(border, b"\n")
