"""Numbers as texts: how settings, requests and heads write them, which is narrower than Python.

`int` and `float` take other scripts' digits, underscores and spaces, and raise for thousands of
digits; none of the readers here does.
"""

import re
from collections.abc import Mapping

from sandkeeper.errors import BadInput
from sandkeeper.patterns import pattern

__all__ = ["GO_INT", "PORTS", "asked", "atoi", "decimal", "go_duration", "natural", "whole"]

GO_INT = 1 << 63
"""One more than Go's largest int."""

PORTS = range(1, 1 << 16)
"""What a port's number can be: 16 bits, and not 0, which stands for any that is free."""

_DECIMAL = pattern(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", re.ASCII)


def natural(text: str | bytes, most: int = GO_INT - 1) -> int | None:
    """Return a number of decimal digits, one above `most` as `most`; None for anything else."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) >= 20:
        text = (text.decode() if isinstance(text, bytes) else text).lstrip("0") or "0"
    return min(int(text), most) if len(text) < 20 else most


def atoi(text: str) -> int:
    """Read an int as Go's strconv.Atoi does; raises ValueError with Go's reason."""
    value = natural(text[1:] if text[:1] in {"+", "-"} else text, GO_INT + 1)
    if value is None:
        raise ValueError("invalid syntax")
    value = -value if text[0] == "-" else value
    if not -GO_INT <= value < GO_INT:
        raise ValueError("value out of range")
    return value


def decimal(text: str) -> float | None:
    """Return a decimal number, infinity for one that is too large; None for anything else."""
    return float(text) if len(text) < 400 and _DECIMAL.fullmatch(text) else None


def whole(name: str, text: str, most: int = GO_INT - 1) -> int:
    """Return what a request says under `name`, one above `most` as `most`.

    Raises BadInput for what is no number, or none that Go's int holds.
    """
    value = natural(text.removeprefix("+"), GO_INT)
    if value is None or value == GO_INT:
        raise BadInput(f"invalid {name}: {text}")
    return min(value, most)


def asked(query: Mapping[str, str], name: str, default: int, most: int = GO_INT - 1) -> int:
    """Return a field of a query as `whole` does, `default` where it is empty or not there."""
    text = query.get(name, "")
    return whole(name, text, most) if text else default


def go_duration(seconds: float) -> str:
    """Write a duration as Go does: `1h2m3.5s`, `153.03ms`."""
    if 0 < seconds < 1:
        unit, factor = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
        return f"{seconds * factor:.6f}".rstrip("0").rstrip(".") + unit
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
