"""How old things are, by a clock that nobody sets.

The wall clock may be put right, or wrong, by years at any moment (NTP after a start without a
battery, a snapshot that is resumed). CLOCK_BOOTTIME (clock_gettime(2)) only ever runs, also while
the machine is suspended, and begins anew with each boot. So an age is measured by it within a
boot; over boots only the wall clock is left, and what it says costs nobody the last hour.
"""

import time

__all__ = ["GRACE_SECONDS", "bounded_age", "uptime"]

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
