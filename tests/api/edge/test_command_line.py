"""The `sandkeeper` command: its options and what it says when it cannot serve."""

import socket

import pytest
from tests.harness import Server, until

from sandkeeper import __version__
from sandkeeper.cli import main


@pytest.mark.parametrize("option", ["--version", "-version"])
def test_an_option_takes_one_dash_or_two(option, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sandkeeper {__version__}\n"


@pytest.mark.parametrize("option", ["-h", "-help", "--help"])
def test_help_is_asked_for_in_any_usual_way(option, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 0
    assert "-port PORT" in capsys.readouterr().out


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_what_is_no_port_is_refused_with_a_line_and_no_traceback(port, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--port={port}"])
    assert ended.value.code == 2
    assert "argument --port/-port: " in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_taken_is_said_in_one_line(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("SANDKEEPER_STATE_DIR", str(tmp_path / "state"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["--host", "127.0.0.1", "--port", str(port)]) == 1
    why = f"sandkeeper: cannot listen on 127.0.0.1:{port}: Address already in use; --port "
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(why)


def test_a_setting_that_would_leave_something_open_is_refused_by_its_name(
    monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("SANDKEEPER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDKEEPER_TRUSTED_GATEWAYS", "10.0.0.0/8, gateway")
    assert main([]) == 1
    why = "sandkeeper: a setting makes no sense: SANDKEEPER_TRUSTED_GATEWAYS: 'gateway' "
    assert capsys.readouterr().err.startswith(why)


def test_the_log_says_where_it_listens_and_keeps_its_state(server: Server) -> None:
    until(lambda: " listens on " in server.log_path.read_text())
    (line,) = [x["msg"] for x in server.log_lines() if " listens on " in x["msg"]]
    assert line.startswith(f"sandkeeper {__version__} listens on {server.url}, state in /")
