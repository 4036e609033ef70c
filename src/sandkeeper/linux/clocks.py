"""How old things are, by a clock that nobody sets, and how times are written (RFC 3339).

The wall clock may be put right, or wrong, by years at any moment (NTP after a start without a
battery, a snapshot that is resumed). CLOCK_BOOTTIME (clock_gettime(2)) only ever runs, also while
the machine is suspended, and begins anew with each boot. So an age is measured by it within a
boot; over boots only the wall clock is left, and what it says costs nobody the last hour.

How long a workload may take is measured by `WORK`, which leaves out the times in which the sandbox
stood still.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

__all__ = [
    "GRACE_SECONDS",
    "STILL_SECONDS",
    "WORK",
    "Ratchet",
    "WorkClock",
    "WorkTimer",
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


STILL_SECONDS = 20.0
"""Longer than any load keeps a beat away: then nothing here ran at all."""
MOST_STILLS = 64


class WorkClock:
    """The seconds that a sandbox has worked since the boot: `uptime` without the standstills.

    It stands still as a frozen container (freezer, SIGSTOP), as a suspended machine, and as a
    snapshot whose clocks went on. Whoever runs all the time says so by `beat`; where a beat is
    late by more than `STILL_SECONDS`, nothing ran. Each of `woken` is called then, with the seconds
    that were lost: 0 when only the wall clock leapt ahead, which is how a snapshot whose clocks
    stood learns that it was away.
    """

    def __init__(
        self, clock: Callable[[], float] = uptime, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._wall = clock, wall
        self._beaten: float | None = None
        self._ahead = 0.0
        self.stills: list[tuple[float, float]] = []
        """When each began, as an uptime, and its seconds; oldest first."""
        self.woken: list[Callable[[float], None]] = []

    def beat(self) -> None:
        """Say that work goes on."""
        if self._beaten is None:
            self._beaten = self._clock()
            self._ahead = self._wall() - self._beaten
        self._look()
        ahead = self._wall() - self._clock()
        leapt, self._ahead = ahead - self._ahead > STILL_SECONDS, ahead
        if leapt:
            self._wake(0.0)

    def rest(self) -> None:
        """Say that no beat is to be expected from now on."""
        self._beaten = None

    def now(self) -> float:
        """Return the seconds worked so far."""
        self._look()
        return self.at(self._clock())

    def at(self, moment: float) -> float:
        """Return what it showed at an uptime of this boot."""
        lost = (min(span, moment - began) for began, span in self.stills if began < moment)
        return moment - sum(lost)

    def _look(self) -> None:
        if self._beaten is None:
            return
        began, self._beaten = self._beaten, self._clock()
        if self._beaten - began <= STILL_SECONDS:
            return
        self.stills.append((began, self._beaten - began))
        if len(self.stills) > MOST_STILLS:
            (first, span), (_, more) = self.stills[:2]
            self.stills[:2] = [(first, span + more)]
        self._wake(self._beaten - began)

    def _wake(self, seconds: float) -> None:
        for call in tuple(self.woken):
            call(seconds)


WORK = WorkClock()
"""That of this process; the server beats it (`observability.metrics.LoopDelay`)."""


class WorkTimer:
    """Calls once, when `WORK` shows `due`: what a standstill took is added."""

    def __init__(self, due: float, call: Callable[..., object], *args: object) -> None:
        self._due, self._call, self._args = due, call, args
        self._loop = asyncio.get_running_loop()
        self._arm(due - WORK.now())

    def cancel(self) -> None:
        """Don't call."""
        self._handle.cancel()

    def _arm(self, left: float) -> None:
        self._handle = self._loop.call_later(max(0.0, left), self._look)

    def _look(self) -> None:
        left = self._due - WORK.now()
        if left > 0.001:
            self._arm(left)
        else:
            self._call(*self._args)


def rfc3339(nanoseconds: int, *, local: bool = True) -> str:
    """Write a Unix time in local time with up to nine fractional digits, `Z` in UTC."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    head, zone = _second(seconds, local=local)
    if not fraction:
        return head + zone
    return f"{head}.{fraction:09d}".rstrip("0") + zone


def rfc3339_milliseconds(moment: float, *, local: bool = True) -> str:
    """Write a Unix time in local time with three fractional digits, always."""
    seconds, milliseconds = divmod(int(moment * 1000), 1000)
    head, zone = _second(seconds, local=local)
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
