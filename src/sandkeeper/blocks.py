"""Blocks of bytes in a useful size, out of many small ones."""

from collections.abc import Generator, Iterable

__all__ = ["gathered"]


def gathered(blocks: Iterable[bytes], size: int) -> Generator[bytes, None, None]:
    """Join blocks until each has `size` bytes at least, but for the last; never an empty one."""
    waiting: list[bytes] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held >= size:
            yield b"".join(waiting)
            waiting, held = [], 0
    if held:
        yield b"".join(waiting)
