"""When the pump rests, so that chatty children do not wake it for every few kilobytes."""

from time import monotonic

__all__ = ["REST_MILLISECONDS", "Pace"]

REST_MILLISECONDS = 1
IDLE_SECONDS = 0.002
SMALL_ROUNDS = 16
SMALL_BYTES = 64 << 10
LARGE_BYTES = 512 << 10


class Pace:
    """When to let the pipes fill a little.

    A child that writes 8 KiB at a time wakes the pump for each: many small rounds, and the two
    fight for the same processors. After some of those the pump rests for a millisecond between
    rounds, in which a pipe of 1 MiB cannot fill below 1 GB/s; what comes now and then is never
    held up.
    """

    def __init__(self) -> None:
        self._rested_at = 0.0
        self._small_rounds = 0

    def woken(self) -> None:
        """Note the end of a wait for data; a long one ends all hurry."""
        if monotonic() - self._rested_at > IDLE_SECONDS:
            self._small_rounds = 0

    def wants_rest(self, moved: int) -> bool:
        """Say after a round that moved so many bytes whether to rest before the next."""
        self._rested_at = monotonic()
        resting = self._small_rounds > SMALL_ROUNDS
        if moved > (LARGE_BYTES if resting else SMALL_BYTES):
            self._small_rounds = 0
            return False
        self._small_rounds += 1
        return resting
