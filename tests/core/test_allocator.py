"""The allocator keeps what it will need again."""

import subprocess
import sys

SCRIPT = """
import resource
from sandkeeper.core.allocator import keep_freed_blocks
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
