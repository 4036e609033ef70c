"""Sizes and times as people write them on a command line."""

import re
import time
from datetime import UTC, datetime

from sandkeeper.client.failures import ClientError

__all__ = ["amount", "instant", "rfc3339"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def amount(option: str, text: str) -> int:
    """Read a number of bytes as docker does: `512m`, `2g`, `1.5GiB` (powers of 1024)."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ClientError(f"{option} takes a size such as 512m or 2g, not {text!r}")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


def instant(option: str, text: str) -> str:
    """Read a time, or how long ago it was (`10m`, `1h30m`), as the API takes one."""
    found = _SPAN.fullmatch(text)
    if text and found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        span = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        return f"{time.time() - span:.6f}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ClientError(
            f"{option} takes a time (2026-11-28T10:00:00Z) or how long ago (10m), not {text!r}"
        ) from None
    return f"{moment.timestamp():.6f}"


def rfc3339(seconds: str) -> str:
    """Write seconds since the epoch as the API's events do, so that texts compare as times do."""
    moment = datetime.fromtimestamp(float(seconds), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
