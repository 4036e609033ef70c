"""The C library's allocator, told not to give large blocks back to the kernel at once.

A body arrives in blocks of 250 KiB. By default glibc maps each one anew and unmaps it afterwards,
which costs a page fault for every 4 KiB: a third of the time of an upload (measured: 300,000
faults for a GiB, and 50 with these settings).
"""

__all__ = ["give_back", "keep_freed_blocks"]

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
TRIM_BYTES = 8 << 20
MMAP_BYTES = 4 << 20
ARENAS = 2
"""Each keeps free memory of its own; the interpreter lets one thread at a time allocate anyway."""


def keep_freed_blocks() -> bool:
    """Keep up to 8 MiB of freed memory (mallopt(3)); False where the C library has no mallopt."""
    import ctypes  # only here: it is not needed to answer `--help`

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES),
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES),
        mallopt(M_ARENA_MAX, ARENAS),
    ]
    return all(done)


def give_back() -> bool:
    """Give all that is free back to the kernel (malloc_trim(3)); False where that cannot be done.

    It may take some milliseconds, without the interpreter's lock.
    """
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
