"""Line breaks of Unicode in JSON, of which one line must stay one whoever splits the text.

Needs nothing: the renderer of telemetry, a small process, uses it too.
"""

__all__ = ["in_one_line"]

_BREAKS = {
    "\u0085".encode(): b"\\u0085",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}
"""What JSON need not escape and readers of lines (str.splitlines, httpx) take for a line's end."""


def in_one_line(data: bytes) -> bytes:
    """Escape line breaks of Unicode in encoded JSON.

    They stand only inside strings there, so replacing them in the finished text is exact.
    """
    if data.isascii():
        return data
    for character, escape in _BREAKS.items():
        if character in data:
            data = data.replace(character, escape)
    return data
