"""`ps` and `top`: what processes use, once and live."""

import io
import json
import sys
from collections.abc import Callable

import pexpect
import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.client.conftest import Ask
from tests.harness import Server, free_port, over, start, until

from sandkeeper.client.figures import COLUMNS
from sandkeeper.client.output import rich_table


def _listener(server: Server, name: str) -> int:
    """Start something that listens; returns the port."""
    port = free_port()
    script = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(1); input()"
    body = {"argv": [sys.executable, "-u", "-c", script], "name": name, "stdin": True}
    assert server.client.post("/process", json=body).status_code == 200
    until(lambda: server.client.get(f"/process/{name}").json()["stdoutBytes"] == 2)
    return port


def _end(server: Server, name: str) -> None:
    server.client.delete(f"/process/{name}/stdin")
    over(server, name)


def _row(table: str, name: str) -> dict[str, str]:
    """Return the cells of a line by the titles; cells have no spaces but for status and command."""
    titles, *lines = table.splitlines()
    line = next(one for one in lines if f" {name} " in one or one.startswith(f"{name} "))
    return dict(zip(titles.split(), line.split(), strict=False))


def test_a_list_tells_what_runs_uses_and_why_others_ended(ask: Ask, server: Server) -> None:
    port = _listener(server, "listening")
    server.run("exit 3", name="failed")
    server.run("kill -9 $$", name="killed")

    row = _row(ask("ps").stdout.decode(), "listening")
    assert row["STATUS"] == "running"
    assert row["CPU"].endswith("s")
    assert row["%CPU"].isdigit()
    assert row["MEMORY"][-1] in "kM"
    assert row["OUTPUT"] == "2B"
    assert row["PORTS"] == str(port)
    everything = ask("ps", "-a").stdout.decode()
    assert "failed (3)" in everything
    assert "failed (SIGKILL" in everything or "killed (SIGKILL" in everything
    found = {one["name"]: one for one in json.loads(ask("ps", "-a", "--json").stdout)}
    assert found["listening"]["stats"]["ports"] == [port]
    assert found["failed"]["stats"] is None
    _end(server, "listening")


@pytest.mark.parametrize("room", [40, 60, 80, 140])
def test_a_row_is_one_line_on_a_narrow_terminal_and_an_id_is_whole(room: int) -> None:
    identifier = "01m8k4bcvkm9n4gr6s5425jsdx"
    row = [identifier, "a-name-that-is-long", "1234567", "killed (SIGKILL)", "3m28s"]
    row += ["0.26s", "100", "21M", "63B", "8080", "python3 -m http.server 世界 0.0.0.0 8080 --bind"]
    shown = io.StringIO()
    Console(file=shown, width=room).print(rich_table(COLUMNS, [row], room))

    lines = [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]
    assert len(lines) == 3
    assert identifier in lines[2]
    assert "killed (" in lines[2]
    assert max(map(cell_len, lines)) <= room
    assert ("PORTS" in lines[0]) == (room >= 100)
    assert ("8080" in lines[2].split()) == (room >= 100)


def test_looks_go_into_a_pipe_as_tables_or_lines(ask: Ask, server: Server) -> None:
    _listener(server, "watched")
    _listener(server, "other")

    table = ask("top", "watched").stdout.decode()
    lines = ask("top", "--json", "-n", "2", "-d", "0.5", "-s", "name").stdout.splitlines()

    assert _row(table, "watched")["PROCS"] == "1"
    assert "other" not in table
    looks = [json.loads(line) for line in lines]
    assert [[one["name"] for one in look["processes"]] for look in looks] == [
        ["other", "watched"]
    ] * 2
    missing = ask("top", "nobody")
    assert missing.returncode == 1
    assert b"nobody: no such process runs" in missing.stderr
    assert ask("top", "-s", "colour").returncode == 1
    for name in ("watched", "other"):
        _end(server, name)


def test_a_live_table_takes_keys_and_leaves(
    server: Server, terminal: Callable[..., pexpect.spawn]
) -> None:
    _listener(server, "shown")
    child = terminal("top", "-d", "0.5")
    child.expect("shown")
    child.expect("by cpu")
    child.send("m")
    child.expect("by memory")
    child.send("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0

    child = terminal("top")
    child.expect("shown")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    _end(server, "shown")


def test_a_live_table_goes_on_when_the_server_does(
    make_server: Callable[..., Server], terminal: Callable[..., pexpect.spawn]
) -> None:
    server = make_server()
    start(server, "exec sleep 1000", name="surviving")
    child = terminal("--url", server.url, "top", "-d", "0.5")
    child.expect("surviving")
    server.kill9()
    child.expect("nothing listens")
    server.restart()
    child.expect("surviving")
    child.send("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    server.client.delete("/process/surviving/kill")
