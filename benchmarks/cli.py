"""The command line as a person has it: whole processes, the start of Python included.

Beside each figure stands what the machine itself gives in the same run: a child that is started
without a server, a copy within the machine, a connection without the server in between, one through
two loops that only splice. All of it shares the cores there are; the forwarded connection needs
four busy parties where the direct one needs two, and so does that of the two loops, which is the
most that any forwarder of two halves can reach here.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import Server

from benchmarks.load import running
from benchmarks.tables import Row, percentile

TITLE = "The command line"

COMMAND = [sys.executable, "-m", "sandkeeper"]
LARGE = 1 << 30
STREAM = 1 << 30
STARTS = 21
ROUNDS = 7
FOLDERS, FILES = 100, 100


def asked(server: Server, *words: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    """Run a verb to its end; it must succeed."""
    env = {**server.env, "SANDKEEPER_URL": server.url}
    done = subprocess.run([*COMMAND, *words], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def timed(server: Server, *words: str) -> float:
    """Return how many seconds a verb takes."""
    began = time.perf_counter()
    asked(server, *words)
    return time.perf_counter() - began


def starts(server: Server) -> Iterator[Row]:
    """Time `run -- true`, and Python's own start beside it."""
    bare, whole = [], []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import typer, http.client, json"], check=True)
        bare.append(time.perf_counter() - began)
        whole.append(timed(server, "run", "--", "true"))
    p50 = percentile(whole, 50) * 1000
    note = f"Python with its libraries alone: {percentile(bare, 50) * 1000:.0f} ms"
    yield Row("`run -- true`, whole process, p50", f"{p50:.0f} ms", "≤ 250 ms", p50 <= 250, note)


def output(server: Server, file: Path, digest: str) -> Iterator[Row]:
    """Read a large file through `run -- cat`."""
    env = {**server.env, "SANDKEEPER_URL": server.url}
    began = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, "run", "--", "cat", str(file)], stdout=subprocess.PIPE, env=env
    ) as child:
        assert child.stdout is not None
        found = hashlib.sha256()
        while block := child.stdout.read(1 << 20):
            found.update(block)
    rate = LARGE / (time.perf_counter() - began) / 1e6
    same = found.hexdigest() == digest
    value = f"{rate:.0f} MB/s, {'equal' if same else 'NOT equal'} by hash"
    yield Row("`run -- cat` of 1 GiB", value, "≥ 200 MB/s", rate >= 200 and same)


def copies(server: Server, file: Path, digest: str) -> Iterator[Row]:
    """Copy a large file up and down."""
    began = time.perf_counter()
    shutil.copyfile(file, file.with_suffix(".copy"))
    plain = LARGE / (time.perf_counter() - began) / 1e6
    back = file.with_suffix(".back")
    for what, words in (("up", (str(file), ":large")), ("down", (":large", str(back)))):
        rate = LARGE / timed(server, "cp", *words) / 1e6
        note = f"a copy within the machine: {plain:.0f} MB/s"
        yield Row(f"`cp` of 1 GiB {what}", f"{rate:.0f} MB/s", "≥ 400 MB/s", rate >= 400, note)
    with back.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == digest


@contextmanager
def source() -> Iterator[int]:
    """Serve an endless stream to whoever connects; gives the port."""
    program = (
        "import socket, sys, threading\n"
        "listener = socket.create_server(('127.0.0.1', 0), backlog=64)\n"
        "print(listener.getsockname()[1], flush=True)\n"
        f"block, count = bytes(1 << 20), {STREAM >> 20}\n"
        "while True:\n"
        "    taken, _ = listener.accept()\n"
        "    with taken:\n"
        "        for _ in range(count):\n"
        "            taken.sendall(block)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


SPLICER = """
import fcntl, os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
out, into = os.pipe()
fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, 1 << 20)
while True:
    taken, _ = listener.accept()
    with taken, socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as far:
        while count := os.splice(far.fileno(), into, 1 << 20):
            while count:
                count -= os.splice(out, taken.fileno(), count)
"""
"""A relay of one connection, one way, and nothing else: three system calls a megabyte."""


@contextmanager
def spliced(remote: int) -> Iterator[int]:
    """Lead to a port through two bare relays, as `forward` does through two; gives the port."""
    port, children = remote, []
    try:
        for _ in range(2):
            argv = [sys.executable, "-c", SPLICER, str(port)]
            children.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
            assert children[-1].stdout is not None
            port = int(children[-1].stdout.readline())
        yield port
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def received(port: int) -> float:
    """Take a whole stream; returns bytes per second."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        began = time.perf_counter()
        total = 0
        while count := sock.recv_into(buffer):
            total += count
    assert total == STREAM
    return total / (time.perf_counter() - began)


def forwarded(server: Server) -> Iterator[Row]:
    """Take a stream directly, through `forward` and through two bare relays, in turns."""
    env = {**server.env, "SANDKEEPER_URL": server.url}
    with source() as remote, spliced(remote) as bare:
        argv = [*COMMAND, "forward", f"127.0.0.1:0:{remote}"]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, env=env)
        assert child.stdout is not None
        port = int(child.stdout.readline().split(b" ")[0].rpartition(b":")[2])
        received(port)
        rounds = [(received(remote), received(port), received(bare)) for _ in range(ROUNDS)]
        child.terminate()
        child.wait()
        child.stdout.close()
    ratio = percentile([through / direct for direct, through, _ in rounds], 50)
    floor = percentile([relayed / direct for direct, _, relayed in rounds], 50)
    note = "; ".join(
        f"{through / 1e6:.0f} of {direct / 1e6:.0f} MB/s" for direct, through, _ in rounds
    )
    value = f"{ratio * 100:.0f} % of a direct connection"
    yield Row("`forward`, median of seven rounds", value, "≥ 60 %", ratio >= 0.6, note)
    value = f"{floor * 100:.0f} % of a direct connection"
    note = "the same rounds through two loops of splice(2) and nothing else"
    yield Row("what two bare relays give", value, note=note)


def synced(server: Server, folder: Path) -> Iterator[Row]:
    """Compare ten thousand files that are the same."""
    for outer in range(FOLDERS):
        (folder / str(outer)).mkdir(parents=True)
        for inner in range(FILES):
            (folder / str(outer) / str(inner)).touch()
    (folder / ".gitignore").write_text("*.pyc\n__pycache__/\n/dist\nnode_modules/\n.env\n")
    first = timed(server, "sync", str(folder), ":many")
    same = percentile([timed(server, "sync", str(folder), ":many") for _ in range(5)], 50)
    note = f"the first time, when all is sent: {first:.1f} s"
    yield Row("`sync` of 10,000 files unchanged", f"{same:.2f} s", "≤ 1 s", same <= 1, note)


def run() -> list[Row]:
    """Measure all of it against one server."""
    with running(env={"SANDBOX_MAX_LOG_FILE_BYTES": str(4 * LARGE)}) as server:
        file = server.folder / "large"
        digest = hashlib.sha256()
        with file.open("wb") as stream:
            for _ in range(LARGE >> 22):
                block = os.urandom(1 << 22)
                digest.update(block)
                stream.write(block)
        told = digest.hexdigest()
        return [
            *starts(server),
            *output(server, file, told),
            *copies(server, file, told),
            *forwarded(server),
            *synced(server, server.folder / "many"),
        ]
