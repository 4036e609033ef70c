"""The server with its event loop's delay sampled every 2 ms: `python -m benchmarks.loopwatch`.

What is told of it has two more bounds, of 1.5 and 2 ms: those of /metrics jump from 1 to 2.5.
"""

import sys

from sandkeeper.cli import main
from sandkeeper.observability import metrics

if __name__ == "__main__":
    metrics.SAMPLE_SECONDS = 0.002
    metrics.BOUNDS = tuple(sorted({*metrics.BOUNDS, 0.0015, 0.002}))
    sys.exit(main())
