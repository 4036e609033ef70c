"""Starts an installed `sandkeeper` and asks for its pages: `answers.py PROGRAM`."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

SECONDS = 60.0
PATHS = ("/health", "/ready", "/", "/terminal", "/swagger", "/openapi.json")


@contextlib.contextmanager
def serving(program: str, folder: str) -> Iterator[str]:
    """Give the URL of a server that listens where there is room, and end it."""
    log = os.path.join(folder, "log")
    environment = {
        "PATH": os.defpath,
        "SANDKEEPER_STATE_DIR": os.path.join(folder, "state"),
        "SANDKEEPER_LOG": log,
    }
    command = [os.path.abspath(program), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, env=environment, cwd=folder) as process:
        try:
            yield _address(process, log)
        finally:
            process.terminate()


def _address(process: "subprocess.Popen[bytes]", log: str) -> str:
    """Return where it says that it listens."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), open(log, encoding="utf-8") as file:
            for word in file.read().replace('"', " ").split():
                if word.startswith("http://127.0.0.1:"):
                    return word.rstrip("/,.;")
        time.sleep(0.02)
    raise SystemExit(f"sandkeeper: {process.args!r} did not come to listen")


def main() -> None:
    """Ask for every page; raises SystemExit when one is missing."""
    with tempfile.TemporaryDirectory() as folder, serving(sys.argv[1], folder) as url:
        for path in PATHS:
            try:
                with urllib.request.urlopen(url + path, timeout=SECONDS) as answer:
                    answer.read()
            except urllib.error.URLError as error:
                raise SystemExit(f"sandkeeper: {path} is not answered: {error}") from None


main()
