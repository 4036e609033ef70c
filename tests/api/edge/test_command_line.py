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


@pytest.mark.parametrize("port", ["65536", "-1", "http", "٣", "1_0", ""])
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


def test_a_folder_that_is_gone_keeps_nobody_from_starting(monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "file").touch()
    assert main(["--state-dir", str(tmp_path / "file/state")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": Not a directory; --state-dir takes another")


def test_a_setting_that_would_leave_something_open_is_refused_by_its_name(
    monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("SANDKEEPER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDKEEPER_TRUSTED_GATEWAYS", "10.0.0.0/8, gateway")
    assert main([]) == 2
    why = "sandkeeper: a setting makes no sense: SANDKEEPER_TRUSTED_GATEWAYS: 'gateway' "
    assert capsys.readouterr().err.startswith(why)


WRONG = {
    "SANDKEEPER_KEEP_FINISHED": ("abc", "'abc' is no whole number from 0 on"),
    "SANDKEEPER_KEEP_FINISHED_SECONDS": ("-1", "'-1' is no whole number from 0 on"),
    "SANDKEEPER_UPLOAD_SECONDS": ("1.5", "'1.5' is no whole number from 0 on"),
    "SANDKEEPER_E2B_PORT": ("70000", "'70000' is no whole number from 0 to 65535"),
    "SANDKEEPER_ON_SHUTDOWN": ("bogus", "'bogus' is none of: stop, keep"),
    "SANDKEEPER_ARCHIVE_BASELINE": ("maybe", "'maybe' is none of: record, required"),
    "SANDKEEPER_DRIVE_DRIVER": ("nfs", "'nfs' is none of: blfs, weed, rclone, bind"),
    "DISABLE_TERMINAL": ("yes", "'yes' is neither true nor false"),
    "BL_SANDBOX_USER_ENABLED": ("on", "'on' is neither true nor false"),
    "SANDKEEPER_LOCAL_CODEGEN": ("2", "'2' is neither true nor false"),
    "SANDKEEPER_CODEGEN_TIMEOUT": ("soon", "'soon' is no number of seconds"),
    "WORKDIR": ("/not/there", "'/not/there' is no folder"),
    "SANDKEEPER_ARCHIVE_ROOT": ("/etc/passwd", "'/etc/passwd' is no folder"),
    "SANDKEEPER_ARCHIVE_IMAGE": ("/not/there", "'/not/there' is no folder and no device"),
}


def test_all_settings_that_make_no_sense_are_told_at_once_a_line_each(
    monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("SANDKEEPER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDKEEPER_HOSTS", "a.example https://b.example c:80")
    monkeypatch.setenv("SANDKEEPER_ADMIN_TOKEN", "")
    for name, (value, _) in WRONG.items():
        monkeypatch.setenv(name, value)

    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("sandkeeper: a setting makes no sense: ") for line in lines)
    told = {line.rpartition("no sense: ")[2] for line in lines}
    assert told == {
        *(f"{name}={text}" for name, (_, text) in WRONG.items()),
        "SANDKEEPER_HOSTS: 'https://b.example' is no host name",
        "SANDKEEPER_HOSTS: 'c:80' is no host name",
        "SANDKEEPER_ADMIN_TOKEN is set but empty: give a token, or unset it",
    }
    assert not (tmp_path / "state").exists()


def test_a_setting_that_is_not_obeyed_is_a_line_in_the_log(make_server) -> None:
    """For its own variables the contract has the default where a value makes no sense."""
    server: Server = make_server(
        env={
            "SANDKEEPER_TOKN": "secret",
            "SANDKEEPER_KEEP_FINISHED": "",
            "SANDBOX_MAX_LOG_PERCENT": "900",
            "SANDBOX_MAX_LOG_FILE_BYTES": "-1",
            "SANDBOX_LOCAL_PROXY_PORT": "many",
            "SANDBOX_EXTRA_CA_CERTS": "/not/there.pem",
        }
    )

    until(lambda: "/not/there.pem" in server.log_path.read_text())
    lines = [line["msg"] for line in server.log_lines() if line["level"] in {"warning", "error"}]
    for told in (
        "SANDKEEPER_TOKN is no setting",
        "SANDBOX_MAX_LOG_PERCENT='900' is no whole number from 1 to 100; the default is used",
        "SANDBOX_MAX_LOG_FILE_BYTES='-1' is no whole number from 0 on; the default is used",
        "SANDBOX_LOCAL_PROXY_PORT='many' is no whole number from 1 to 65535; the default is used",
        "SANDBOX_EXTRA_CA_CERTS: extra certificates are not used",
    ):
        assert sum(told in line for line in lines) == 1, (told, lines)
    assert "secret" not in server.log_path.read_text()


def test_the_log_says_where_it_listens_and_keeps_its_state(server: Server) -> None:
    until(lambda: " listens on " in server.log_path.read_text())
    (line,) = [x["msg"] for x in server.log_lines() if " listens on " in x["msg"]]
    assert line.startswith(f"sandkeeper {__version__} listens on {server.url}, state in /")
