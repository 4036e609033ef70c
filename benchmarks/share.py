"""The share of its full size at which an attack is run: all of it here, a tenth in the tests."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["of_full_size", "some"]

_share = 1.0


def some(count: int) -> int:
    """Return how much of `count`, the full size, an attack takes now; 1 at least."""
    return max(1, int(count * _share))


@contextmanager
def of_full_size(share: float) -> Iterator[None]:
    """Have attacks take a share of what they take else."""
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before
