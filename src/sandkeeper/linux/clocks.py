"""How old things are, by a clock that nobody sets, and how times are written (RFC 3339).

The wall clock may be put right, or wrong, by years at any moment (NTP after a start without a
battery, a snapshot that is resumed). CLOCK_BOOTTIME (clock_gettime(2)) only ever runs, also while
the machine is suspended, and begins anew with each boot. So an age is measured by it within a
boot; over boots only the wall clock is left, and what it says costs nobody the last hour.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache

__all__ = [
    "GRACE_SECONDS",
    "Ratchet",
    "bounded_age",
    "rfc3339",
    "rfc3339_milliseconds",
    "rfc3339_utc",
    "uptime",
]

GRACE_SECONDS = 3600.0
"""What an earlier boot left is kept at least so long, whatever the wall clock says."""


def uptime() -> float:
    """Return the seconds since the boot, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def bounded_age(since: float, most: float) -> float:
    """Return how many seconds ago a wall clock's `since` was.

    Never negative, and short of `most`, the age at which something is dropped, by the grace.
    """
    return max(0.0, min(time.time() - since, most - GRACE_SECONDS))


class Ratchet:
    """A clock for permissions that end: it never goes back, stands still or lags the wall clock.

    It begins at the wall clock's time or at `floor`, whichever is later. A wall clock that is put
    back prolongs nothing, for within a boot this one counts on; one that jumps ahead counts: that
    is how a machine learns that it was asleep as a snapshot.
    """

    def __init__(self, floor: float = 0.0) -> None:
        self._ahead = max(floor, time.time()) - uptime()

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        self._ahead = max(self._ahead, time.time() - uptime())
        return self._ahead + uptime()


def rfc3339(nanoseconds: int, *, local: bool = True) -> str:
    """Write a Unix time in local time with up to nine fractional digits, `Z` in UTC."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    head, zone = _second(seconds, local=local)
    if not fraction:
        return head + zone
    return f"{head}.{fraction:09d}".rstrip("0") + zone


def rfc3339_milliseconds(moment: float) -> str:
    """Write a Unix time in local time with three fractional digits, always."""
    seconds, milliseconds = divmod(int(moment * 1000), 1000)
    head, zone = _second(seconds, local=True)
    return f"{head}.{milliseconds:03d}{zone}"


def rfc3339_utc(microseconds: int) -> str:
    """Write a Unix time in UTC with six fractional digits: such texts sort as their times."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(seconds, local=False)[0]}.{fraction:06d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int, *, local: bool) -> tuple[str, str]:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
        text = (moment.astimezone() if local else moment).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # a file system can hold years past 9999
        return "0001-01-01T00:00:00", "Z"
    return text[:19], "Z" if text[19:] == "+00:00" else text[19:]
