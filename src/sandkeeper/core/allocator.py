"""The C library's allocator, told not to give large blocks back to the kernel at once.

A body arrives in blocks of 250 KiB. By default glibc maps each one anew and unmaps it afterwards,
which costs a page fault for every 4 KiB: a third of the time of an upload (measured: 300,000
faults for a GiB, and 50 with these settings).
"""

__all__ = ["keep_freed_blocks"]

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
TRIM_BYTES = 8 << 20
MMAP_BYTES = 4 << 20


def keep_freed_blocks() -> bool:
    """Keep up to 8 MiB of freed memory (mallopt(3)); False where the C library has no mallopt."""
    import ctypes  # only here: it is not needed to answer `--help`

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [mallopt(M_TRIM_THRESHOLD, TRIM_BYTES), mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)]
    return all(done)
