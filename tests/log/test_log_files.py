"""A log that is redirected to a file: whoever writes there writes at its end."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness import Server, until

LINES = 300
ERRORS = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo error $i >&2; sleep 0.001; done"


@contextmanager
def redirected(server: Server, where: str) -> Iterator[None]:
    """Run a server between two lines of a shell's, all of it redirected; its command writes too."""
    command = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "-c", ERRORS]
    text = shlex.join([*command, "--port", str(server.port)])
    pid = server.folder / "pid"
    script = f"{{ echo before; {text} & echo $! > {pid}; wait $!; echo after; }} {where}"
    shell = subprocess.Popen(["sh", "-c", script], env=server.env, cwd=server.folder)
    try:
        server.process = shell
        until(server._answers)
        yield
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)
        shell.wait(60)
        server.client.close()
        server.let_go()


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("> log 2>&1", "stdout"),
        ("> log 2>&1", "/dev/stderr"),
        ("> log 2> log", "stdout"),
        ("> log 2>&1", "log"),
        (">> log 2>> log", "stderr"),
    ],
)
def test_no_line_of_a_redirected_log_is_lost(tmp_path: Path, where: str, target: str) -> None:
    log = tmp_path / "log"
    server = Server(tmp_path, env={"SANDKEEPER_LOG": str(log) if target == "log" else target})

    with redirected(server, where):
        server.run(f"seq -f 'output %g' {LINES}")
        until(lambda: f"error {LINES}\n" in log.read_text())
        until(lambda: f"output {LINES}" in log.read_text())

    lines = log.read_text().splitlines()
    plain = [line for line in lines if not line.startswith("{")]
    assert plain == ["before", *(f"error {number}" for number in range(1, LINES + 1)), "after"]
    told = [json.loads(line).values() for line in lines if line.startswith("{")]
    said = {value for values in told for value in values if isinstance(value, str)}
    assert {f"output {number}" for number in range(1, LINES + 1)} <= said


def test_a_log_that_is_cut_off_by_its_rotation_goes_on_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Server(tmp_path, env={"SANDKEEPER_LOG": "stdout"})

    with redirected(server, "> log 2>&1"):
        until(lambda: f"error {LINES}\n" in log.read_text())
        os.truncate(log, 0)
        server.run("echo rotated")
        until(lambda: "rotated" in log.read_text())

    assert b"\0" not in log.read_bytes()
