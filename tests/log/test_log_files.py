"""A log that is redirected to a file: whoever writes there writes at its end."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.harness import Server, until
from tests.nursery import nursery

LINES = 300
ERRORS = (
    "bash -c 'exec 9<> <(:); i=0;"
    f" while [ $i -lt {LINES} ]; do i=$((i+1)); echo error $i >&2; read -t 0.001 -u 9; done'"
)
"""It waits without a program for each line."""
AFRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
BEHIND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
OPENED: dict[str, list[int]] = {
    "> log 2>&1": [AFRESH],
    "> log 2> log": [AFRESH, AFRESH],
    ">> log 2>> log": [BEHIND, BEHIND],
}
"""How a shell opens the file, once for both streams or for each."""


@contextmanager
def redirected(server: Server, where: str) -> Iterator[None]:
    """Run a server between two lines of ours, as a shell would, whose command writes as well."""
    streams = [os.open(server.folder / "log", how, 0o644) for how in OPENED[where]]
    out, err = streams[0], streams[-1]
    args = ["--host", "127.0.0.1", "-c", ERRORS, "--port", str(server.port)]
    os.write(out, b"before\n")
    with open(os.devnull, "rb") as null:
        given = (null.fileno(), out, err)
        server.process = nursery().start(args, server.env, given, {}, server.folder)
    try:
        until(server._answers)
        yield
    finally:
        server.stop()
        os.write(out, b"after\n")
        for fd in streams:
            os.close(fd)
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
