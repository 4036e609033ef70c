"""What a replica counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from sandkeeper.errors import TooMany
from sandkeeper.observability.metrics import Histogram

__all__ = ["FleetFigures"]


class FleetFigures:
    """Counters since the start; `creations` are the seconds of those that came to a sandbox."""

    def __init__(self) -> None:
        self.creations = Histogram()
        self.begun = 0
        self.made = 0
        self.failed = 0
        self.refused = 0
        self.ended = 0
        self.paused = 0
        self.routed = 0
        self.unroutable = 0

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Count a creation, whatever becomes of it."""
        began = perf_counter()
        self.begun += 1
        try:
            yield
        except TooMany:
            self.refused += 1
            raise
        except BaseException:
            self.failed += 1
            raise
        self.made += 1
        self.creations.observe(perf_counter() - began)
