"""Runs verbs of the client as processes, forked from one that has loaded the client already.

A verb's own start is 0.2 s of CPU, and the tests run some hundreds: what it imports is the same
each time. With `SANDKEEPER_TEST_COLD=1`, and where a fork would not be the same (`tests.nursery`),
each is started afresh.
"""

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests import nursery
from tests.harness import Server

__all__ = ["COMMAND", "Verb", "begin", "run"]

COMMAND = [sys.executable, "-m", "sandkeeper"]

LOADED = (
    "sandkeeper.entry",
    # Their verbs are declared when a module of them is imported, so none of those is.
    "sandkeeper.client.main",
    "sandkeeper.client.following",
    "sandkeeper.client.output",
    "sandkeeper.client.files.trees",
    "sandkeeper.client.files.uploading",
    "sandkeeper.client.reading",
    "asyncio",
    "pathspec",
    "rich.console",
    "rich.progress",
    "rich.table",
    "tarfile",
)


@functools.cache
def _nursery() -> nursery.Nursery:
    return nursery.Nursery(LOADED)


class Verb:
    """A verb that runs, with pipes for its streams and what the tests use of `Popen`."""

    def __init__(self, process: nursery.Forked, pipes: tuple[int, int, int]) -> None:
        self._process = process
        self.pid = process.pid
        self.stdin: IO[bytes] = os.fdopen(pipes[0], "wb", 0)
        self.stdout: IO[bytes] = os.fdopen(pipes[1], "rb")
        self.stderr: IO[bytes] = os.fdopen(pipes[2], "rb")

    @property
    def returncode(self) -> int | None:
        """Its exit status when it has been waited for."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Return its exit status when it has ended."""
        return self._process.poll()

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()


def _fork(
    words: tuple[str, ...], env: Mapping[str, str], folder: Path | None, loaded: nursery.Nursery
) -> Verb:
    (stdin, ours), (out, stdout), (err, stderr) = (os.pipe() for _ in range(3))
    streams = (stdin, stdout, stderr)
    try:
        process = loaded.start(words, env, streams, {}, folder)
    finally:
        for fd in streams:
            os.close(fd)
    return Verb(process, (ours, out, err))


def _popen(
    words: tuple[str, ...], env: Mapping[str, str], folder: Path | None
) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *words], stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=folder
    )


@contextmanager
def begin(
    *words: str,
    env: Mapping[str, str],
    folder: Path | None = None,
    loaded: nursery.Nursery | None = None,
) -> "Iterator[Verb | subprocess.Popen[bytes]]":
    """Start a verb with pipes for its streams; what still runs at the end is killed.

    It is forked from `loaded`, by default one that has the client loaded.
    """
    loaded = loaded or _nursery()
    warm = Server.warm and loaded.fits(env)
    child = _fork(words, env, folder, loaded) if warm else _popen(words, env, folder)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def run(
    *words: str,
    env: Mapping[str, str],
    folder: Path | None = None,
    stdin: bytes = b"",
    loaded: nursery.Nursery | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a verb to its end."""
    told: dict[str, bytes] = {}

    def read(name: str, stream: IO[bytes]) -> None:
        told[name] = stream.read()

    with begin(*words, env=env, folder=folder, loaded=loaded) as child:
        assert child.stdin is not None
        streams = {"stdout": child.stdout, "stderr": child.stderr}
        readers = [threading.Thread(target=read, args=pair) for pair in streams.items()]
        for reader in readers:
            reader.start()
        try:
            left = memoryview(stdin)
            while left:  # a signal may have a write return early
                left = left[child.stdin.write(left) :]
            child.stdin.close()
        except BrokenPipeError:
            pass  # it has ended without, as programs may
        status = child.wait(120)
        for reader in readers:
            reader.join()
    return subprocess.CompletedProcess(list(words), status, told["stdout"], told["stderr"])
