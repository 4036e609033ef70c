"""The C library's allocator, told not to give large blocks back to the kernel at once.

A body arrives in blocks of 250 KiB. By default glibc maps each one anew and unmaps it afterwards,
which costs a page fault for every 4 KiB: a third of the time of an upload (measured: 300,000
faults for a GiB, and 50 with these settings).
"""

from sandkeeper.linux.libc import call

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
    wanted = {M_TRIM_THRESHOLD: TRIM_BYTES, M_MMAP_THRESHOLD: MMAP_BYTES, M_ARENA_MAX: ARENAS}
    try:
        return all(call("mallopt", *one) for one in wanted.items())
    except OSError:
        return False


def give_back() -> bool:
    """Give all that is free back to the kernel (malloc_trim(3)); False where that cannot be done.

    It may take some milliseconds, without the interpreter's lock.
    """
    try:
        return call("malloc_trim", 0) == 1
    except OSError:
        return False
