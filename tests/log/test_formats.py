"""How lines of the log look to a person at a terminal, and which form is taken when."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import until

from sandkeeper.log.formats import Contract, Json, Text, format_for
from sandkeeper.log.framing import framed
from sandkeeper.settings.groups import LogSettings
from sandkeeper.settings.variables import Variables

ROOT = Path(__file__).parents[2]


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_gets_text_and_everything_else_json(tmp_path: Path) -> None:
    with terminal() as (_, slave), open(tmp_path / "log", "wb") as file:
        assert isinstance(format_for("", slave), Text)
        assert isinstance(format_for("", file.fileno()), Json)
        assert isinstance(format_for("text", file.fileno()), Text)
        assert isinstance(format_for("contract", slave), Contract)
        assert type(format_for("json", slave)) is Json


def test_a_format_that_nobody_knows_is_a_fault_that_names_itself() -> None:
    variables = Variables({"SANDKEEPER_LOG_FORMAT": "xml"})

    assert LogSettings.read(variables).format == ""
    (fault,) = variables.faults
    assert "SANDKEEPER_LOG_FORMAT" in fault
    assert "json, text, contract" in fault


def test_no_line_tells_a_persons_terminal_what_to_do() -> None:
    text = Text(colours=False)
    line = text.line(
        "error", "bad \x1b]0;title\x07 name\nmore", {"path": "\x1b[2J", "stack": "a\nb\x1b[m"}
    )
    output = framed(text.frame("web\x1b[m", "7", "stderr", 0.0), b"one\x1b[31m\ntwo\x9b")

    assert b"\x1b" not in line + output
    assert line.endswith(b" error bad \\x1b]0;title\\x07 name\\nmore\na\nb\\x1b[m\n")
    assert [part.split(b" ", 1)[1] for part in output.splitlines()] == [
        b"web\\x1b[m| one\\x1b[31m",
        "web\\x1b[m| two\ufffd".encode(),
    ]


def test_a_start_at_a_terminal_says_in_colours_where_it_is_and_who_may_ask(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm",
        "SANDKEEPER_STATE_DIR": str(tmp_path / "state"),
    }
    with terminal() as (master, slave):
        os.set_blocking(master, False)
        command = [ROOT / ".venv/bin/sandkeeper", "--port", "0", "--host", "localhost"]
        server = subprocess.Popen(command, stdout=slave, cwd=tmp_path, env=environment)
        shown = b""

        def all_said() -> bool:
            nonlocal shown
            try:
                shown += os.read(master, 65536)
            except BlockingIOError:
                return False
            return b"nobody else" in shown

        try:
            until(all_said)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    plain = re.sub(r"\x1b\[\d*m", "", shown.decode())
    lines = [line.partition(" ")[2] for line in plain.splitlines()]

    assert "\x1b[" in shown.decode()
    assert re.search(r"listens on http://127\.0\.0\.1:(\d+)", plain)
    port = re.search(r"127\.0\.0\.1:(\d+)", plain)[1]
    assert any(f"http://localhost:{port}/terminal" in line for line in lines)
    assert any(line.startswith("no token is set: every user of this machine") for line in lines)


def test_the_place_in_a_trace_stands_among_the_fields_but_not_in_the_contracts_lines() -> None:
    more = {"trace_id": "ab", "span_id": "cd"}
    ours = framed(Json().frame("web", "7", "stdout", 0.0, more), b"one")
    theirs = framed(Contract().frame("web", "7", "stdout", 0.0, more), b"one")

    assert list(json.loads(ours)) == sorted(json.loads(ours))
    assert more.items() <= json.loads(ours).items()
    assert not more.keys() & json.loads(theirs).keys()
