"""`completion`: what shells offer."""

import socket
import subprocess
from pathlib import Path

import pytest
from tests.client.conftest import Ask
from tests.harness import Server, start, until


def offered(ask: Ask, words: str, count: int) -> list[str]:
    """Return what bash is offered for the last of the words."""
    env = {
        "_SANDKEEPER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(count),
    }
    return ask(env=env).stdout.decode().split()


def test_verbs_names_and_paths_are_completed_from_the_live_server(ask: Ask, server: Server) -> None:
    start(server, "exec sleep 1000", name="complete-me")
    server.run("true", name="complete-no-more")
    (server.workdir / "folder").mkdir()
    (server.workdir / "folder" / "file").write_text("")

    assert offered(ask, "sandkeeper lo", 1) == ["logs"]
    # A shell is not kept waiting: after two seconds nothing is offered.
    until(lambda: "complete-me" in offered(ask, "sandkeeper logs comp", 2))
    # And nothing that is over.
    until(lambda: offered(ask, "sandkeeper stop ", 2) == ["complete-me"])
    until(lambda: offered(ask, "sandkeeper cp :fol", 2) == [":folder/"])
    until(lambda: offered(ask, "sandkeeper cat folder/f", 2) == ["folder/file"])
    server.client.delete("/process/complete-me/kill")


def test_ports_are_those_on_which_something_listens(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])

        until(lambda: port in offered(ask, f"sandkeeper open {port[:2]}", 2))
        until(lambda: f"8080:{port}" in offered(ask, f"sandkeeper forward 8080:{port[:2]}", 2))
        until(lambda: port in offered(ask, f"sandkeeper wait --port {port[:2]}", 3))


def test_names_are_those_of_the_server_that_the_line_names(ask: Ask, server: Server) -> None:
    (server.workdir / "named").write_text("")
    nobody = {"SANDKEEPER_URL": "http://127.0.0.1:1", "_SANDKEEPER_COMPLETE": "complete_bash"}

    for words in (f"--url {server.url} cat nam", f"cat --url={server.url} nam"):
        line = f"sandkeeper {words}"
        env = {**nobody, "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        until(lambda env=env: ask(env=env).stdout.split() == [b"named"])


def test_a_server_that_is_not_there_offers_nothing(ask: Ask) -> None:
    env = {"SANDKEEPER_URL": "http://127.0.0.1:1"}
    found = ask(
        env={
            **env,
            "_SANDKEEPER_COMPLETE": "complete_bash",
            "COMP_WORDS": "sandkeeper logs x",
            "COMP_CWORD": "2",
        }
    )

    assert found.stdout.strip() == b""
    assert found.stderr == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(ask: Ask, shell: str) -> None:
    assert b"_SANDKEEPER_COMPLETE" in ask("completion", shell).stdout


def test_another_shell_is_refused(ask: Ask) -> None:
    assert ask("completion", "csh").stderr == (
        b"sandkeeper: completion is for bash, zsh, fish, not 'csh'\n"
    )


def test_bash_takes_the_script(ask: Ask, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(ask("completion", "bash").stdout)

    done = subprocess.run(
        ["bash", "-c", f"source {script}; complete -p sandkeeper"], capture_output=True, check=True
    )

    assert b"_sandkeeper_completion" in done.stdout


def test_the_manual_page_has_every_verb_and_nothing_that_troff_would_obey(ask: Ask) -> None:
    from sandkeeper.client.main import MODULES

    page = ask("man").stdout.decode()

    heads = {line.split('"')[1].split()[0] for line in page.splitlines() if line[:3] == ".SS"}
    assert heads == set().union(*MODULES.values())
    assert {line[:3] for line in page.splitlines() if line[:1] in {".", "'"}} <= {
        ".TH",
        ".SH",
        ".SS",
        ".TP",
        ".B ",
    }
    assert "\\-\\-missed" in ask("man", "attach").stdout.decode()
    assert ask("man", "no-verb").returncode == 2
