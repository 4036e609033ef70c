"""Times the bundle's start in a bare Debian root: `start.py [STARTS]`, after `make bundle-test`.

From the start of bin/sandkeeper to the first answer of /health, and the memory it then holds. The
first start, which reads everything from the disk, is left out. As root, on a quiet machine.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from machines import CHROOT, NAME, ROOT, Machine
from tests.harness import free_port, resident

ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
TO_REACH = 0.4


def main() -> None:
    """Print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    roots = Path(os.environ.get("SANDKEEPER_TEST_ROOTS", ROOT / "build/roots"))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run(["tar", "-C", root, "-xf", roots / "bookworm.tar"], check=True)
        machine = Machine(root, ROOT / "dist" / f"{NAME}.tar.zst", stack)
        taken = [start(machine) for _ in range(count + 1)][1:]
    seconds = statistics.median(one for one, _ in taken)
    print(
        f"start to /health: median {seconds * 1000:.0f} ms, fastest {min(taken)[0] * 1000:.0f} ms "
        f"(to reach: {TO_REACH * 1000:.0f} ms); idle {taken[-1][1] / 1e6:.1f} MB"
    )


def start(machine: Machine) -> tuple[float, int]:
    """Start it once; returns the seconds to the first answer, and its memory in bytes."""
    port = free_port()
    command = [CHROOT, machine.root, machine.program, "--host", "127.0.0.1", "--port", str(port)]
    began = time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={}, **quiet) as process:
        try:
            while not answers(port):
                if process.poll() is not None:
                    raise SystemExit("sandkeeper: the server has ended")
                time.sleep(0.001)
            return time.monotonic() - began, resident(process.pid)
        finally:
            process.terminate()


def answers(port: int) -> bool:
    """Say whether /health is answered."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(ASK)
        return sock.recv(64).startswith(b"HTTP/1.1 200")
    return False


if __name__ == "__main__":
    main()
