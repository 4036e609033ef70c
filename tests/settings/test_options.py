"""Settings as options of the command: one for each of ours; the help tells of all."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.harness import Server, until

from sandkeeper.settings import Settings
from sandkeeper.settings.catalogue import CATALOGUE, SURROUNDINGS
from sandkeeper.settings.variables import LATER

DOCS = Path(__file__).parents[2] / "docs"


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "sandkeeper", *words]
    env = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=env)


def test_every_variable_that_is_read_has_a_line_in_the_help() -> None:
    """Whoever adds a variable says in settings/catalogue.py what it means."""
    listed = {name for settings in CATALOGUE.values() for name in settings}
    read = Settings.kinds().keys() | (LATER - {"SANDKEEPER_URL"})

    assert read - SURROUNDINGS - listed == set()


def test_every_variable_of_the_help_has_a_line_in_the_documentation() -> None:
    written = "\n".join(path.read_text() for path in DOCS.glob("*.md"))
    listed = {name for settings in CATALOGUE.values() for name in settings}

    # A row may name the second of two by its end: `SANDKEEPER_TERMINAL_BYTES`, `…_BYTES_TOTAL`.
    ends = tuple(re.findall(r"`…(_[A-Z_]+)`", written))
    assert {one for one in listed if f"`{one}" not in written and not one.endswith(ends)} == set()


def test_the_help_names_every_option_and_variable_with_what_holds_without() -> None:
    shown = command("--help").stdout
    plain = " ".join(shown.split())

    assert "--state-dir TEXT" in shown
    assert "--log-format json|text|contract" in shown
    assert "--upgrade-downgrade" in shown
    assert "finished processes that are remembered (default 1000)" in plain
    assert "JSON bodies (default 16 MiB)" in plain
    for name in ("SANDKEEPER_TOKEN ", "SANDBOX_MAX_LOG_PERCENT", "BL_SANDBOX_USER "):
        assert name in shown
    assert "--token TEXT" not in shown
    for settings in CATALOGUE.values():
        for name in settings:
            option = "--" + name.removeprefix("SANDKEEPER_").lower().replace("_", "-")
            assert name in shown or option in shown, name


def test_an_option_is_the_variable(make_server: Callable[..., Server], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    log = tmp_path / "log"
    options = ("--token-file", str(token), "-log", str(log), "--keep-finished=7")
    server = make_server(args=options, env={"SANDKEEPER_LOG": "none"})

    assert server.client.get("/process").status_code == 401
    allowed = {"Authorization": "Bearer s3cret"}
    assert server.client.get("/process", headers=allowed).status_code == 200
    until(lambda: "listens on" in log.read_text())


def test_a_wrong_value_of_an_option_is_told_as_that_of_its_variable() -> None:
    done = command("--keep-finished", "many", "--log-format", "xml")

    assert done.returncode == 2
    assert "SANDKEEPER_KEEP_FINISHED='many' is no whole number from 0 on" in done.stderr
    assert "SANDKEEPER_LOG_FORMAT='xml' is none of: json, text, contract" in done.stderr
