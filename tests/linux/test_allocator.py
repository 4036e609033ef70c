"""The allocator keeps what it will need again."""

import subprocess
import sys

SCRIPT = """
import resource
from sandkeeper.linux.allocator import keep_freed_blocks
assert keep_freed_blocks()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(1 << 20)
before = faults()
for _ in range(100):
    bytearray(1 << 20)
print(faults() - before)
"""


def test_large_blocks_are_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)

    assert int(done.stdout) < 1000  # 25,600 pages were written


GIVEN_BACK = """
from sandkeeper.linux.allocator import give_back, keep_freed_blocks
from sandkeeper.observability.heap import resident
keep_freed_blocks()
kept = []
freed = []
for number in range(20_000):
    freed.append(bytearray(10_000))
    if number % 100 == 0:
        kept.append(bytearray(10_000))
freed.clear()
before = resident()
give_back()
print(before - resident())
"""


def test_freed_memory_goes_back_to_the_kernel_when_told() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, check=True)

    assert int(done.stdout) > 50 << 20
