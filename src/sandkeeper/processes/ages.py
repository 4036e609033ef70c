"""How long a run may still take and how long ago it ended, whatever the wall clock did."""

import time

from sandkeeper.linux.clocks import bounded_age, uptime
from sandkeeper.processes.runs import RunMeta

__all__ = ["ended_uptime", "time_left"]


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
