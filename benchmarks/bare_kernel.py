"""A kernel with nothing before it: `python -m benchmarks.bare_kernel FOLDER ROUNDS` prints times.

FOLDER is a virtual environment with ipykernel. Prints as JSON: seconds until the first execution is
over, and those of as many executions of `1+1`.
"""

import json
import sys
import time

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

__all__ = ["main"]


def _execute(client: object, code: str) -> None:
    reply = client.execute_interactive(code, output_hook=lambda _message: None, timeout=60)
    assert reply["content"]["status"] == "ok"


def main(folder: str, rounds: int) -> None:
    """Measure."""
    python = f"{folder}/bin/python"
    spec = KernelSpec(argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager = KernelManager(transport="ipc")
    manager._kernel_spec = spec
    began = time.perf_counter()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    _execute(client, "1+1")
    first = time.perf_counter() - began
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        _execute(client, "1+1")
        times.append(time.perf_counter() - began)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    print(json.dumps({"first": first, "times": times}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
