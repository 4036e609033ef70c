"""How old things are, by a clock that nobody sets.

The wall clock may be put right, or wrong, by years at any moment (NTP after a start without a
battery, a snapshot that is resumed). CLOCK_BOOTTIME (clock_gettime(2)) only ever runs, also while
the machine is suspended, and begins anew with each boot. So an age is measured by it within a
boot; over boots only the wall clock is left, and what it says costs nobody the last hour.
"""

import time

from sandkeeper.processes.runs import RunMeta

__all__ = ["GRACE_SECONDS", "bounded_age", "ended_uptime", "time_left", "uptime"]

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


def time_left(meta: RunMeta, *, again: bool) -> float:
    """Return how many seconds a run may still take, and note in `meta` when they are over.

    One that goes on (`again`) has been running since, whatever the wall clock did.
    """
    if not again or not meta.due_uptime:
        until = meta.started_at + meta.timeout if meta.keep_alive else meta.deadline
        meta.due_uptime = uptime() + max(0.0, min(until - time.time(), meta.timeout))
    return max(0.0, meta.due_uptime - uptime())


def ended_uptime(meta: RunMeta, boot: str, most: float) -> float:
    """Return when a run ended, as an uptime of this boot; before it, it may be negative."""
    now = uptime()
    if boot and meta.completed_boot == boot and 0 < meta.completed_uptime <= now:
        return meta.completed_uptime
    return now - bounded_age(meta.completed_at, most)
