"""The server with its event loop's delay sampled every 2 ms: `python -m benchmarks.loopwatch`."""

import sys

from sandkeeper.cli import main
from sandkeeper.observability import metrics

if __name__ == "__main__":
    metrics.SAMPLE_SECONDS = 0.002
    sys.exit(main())
