"""Connections to ports of this machine."""

import subprocess
import sys

from tests.harness import needs_root

DIAL = """
import asyncio, socket
from sandkeeper.network.dialing import dial
for _ in range(20):
    print(asyncio.run(dial("127.0.0.1", 50000)))
    socket.create_server(("127.0.0.1", 50000)).close()
"""


@needs_root
def test_where_nobody_listens_no_connection_meets_itself_and_the_port_stays_free() -> None:
    """In a namespace with four ports for callers it would be one of two attempts."""
    ports = "echo 50000 50003 > /proc/sys/net/ipv4/ip_local_port_range"
    inside = f'ip link set lo up && {ports} && exec "$0" -c "$1"'
    command = ["unshare", "--net", "sh", "-c", inside, sys.executable, DIAL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "None\n" * 20, done.stderr
