"""The state folder is removed, mounted over or made read-only while the server runs."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import Server, needs_root, small_disk, until


def ready(server: Server) -> str:
    return str(server.client.get("/ready").json()["checks"]["state"])


def told(server: Server, words: str) -> list[str]:
    return [line["msg"] for line in server.log_lines() if words in line["msg"]]


def begin(server: Server, name: str) -> None:
    """Start a process that writes a line for each line of its file `go`."""
    go = server.workdir / name
    command = f"mkfifo {go}; exec 3<>{go}; echo before; while read -r x <&3; do echo $x; done"
    started = server.client.post("/process", json={"command": command, "name": name})
    assert started.status_code == 200, started.text
    until(lambda: logs(server, name) == "before\n")


def logs(server: Server, name: str) -> str:
    return str(server.client.get(f"/process/{name}/logs").json()["logs"])


def record(server: Server, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"/process/{name}").json()
    return found


def say(server: Server, name: str, text: str) -> None:
    with (server.workdir / name).open("r+b", buffering=0) as fifo:
        fifo.write(f"{text}\n".encode())


def remove(folder: Path) -> None:
    """Remove a folder in which a server is at work, and what that makes there meanwhile."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(gone)


def test_a_removed_state_folder_is_told_and_what_comes_back_is_used(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    server.run("echo finished", name="finished")
    begin(server, "writer")

    remove(server.state)

    refused = server.client.post("/process", json={"command": "echo x", "name": "refused"})
    assert refused.status_code == 422
    assert "cannot keep its state: the state folder was removed" in refused.json()["error"]
    until(lambda: ready(server) == "the state folder was removed")
    assert server.client.get("/ready").status_code == 503
    assert server.client.post("/terminals", json={}).status_code == 422
    say(server, "writer", "into nothing")
    until(lambda: record(server, "writer")["stdoutBytes"] == len("before\ninto nothing\n"))
    until(lambda: record(server, "writer")["lostBytes"] == len("before\ninto nothing\n"))
    until(lambda: record(server, "finished")["lostBytes"] == len("finished\n"))
    assert server.client.get("/process").status_code == 200
    assert len(told(server, "the state folder was removed")) == 1

    server.state.mkdir(mode=0o700)
    until(lambda: ready(server) == "ok")
    until(lambda: len(told(server, "can be used again")) == 1)
    say(server, "writer", "kept again")
    until(lambda: "kept again" in logs(server, "writer"))
    assert server.run("echo y", name="later")["stdout"] == "y\n"
    server.client.delete("/process/writer/kill")
    until(lambda: record(server, "writer")["status"] == "killed")
    assert record(server, "writer")["lostBytes"] == len("before\ninto nothing\n")
    server.restart()
    assert logs(server, "later") == "y\n"
    assert "kept again" in logs(server, "writer")


def test_a_process_that_ends_just_after_its_folder_was_removed_tells_what_is_lost(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    begin(server, "writer")
    shutil.rmtree(server.state / "runs" / record(server, "writer")["id"])
    server.client.delete("/process/writer/kill")

    until(lambda: record(server, "writer")["status"] == "killed")
    until(lambda: record(server, "writer")["lostBytes"] >= len("before\n"))


@needs_root
def test_a_file_system_mounted_over_the_state_folder_is_used_and_left_again(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    begin(server, "writer")

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", server.state], check=True)
    try:
        until(lambda: told(server, "another folder stands at"))
        until(lambda: record(server, "writer")["lostBytes"] == len("before\n"))
        say(server, "writer", "over there")
        until(lambda: "over there" in logs(server, "writer"))
        assert server.run("echo there", name="there")["stdout"] == "there\n"
    finally:
        subprocess.run(["umount", "--lazy", server.state], check=True)
    until(lambda: len(told(server, "another folder stands at")) == 2)
    # The first words are back; those that were kept over there are not to be had.
    until(lambda: "before\n" in logs(server, "writer"))
    until(lambda: record(server, "writer")["lostBytes"] == len("over there\n"))
    say(server, "writer", "back")
    until(lambda: "back" in logs(server, "writer"))
    assert ready(server) == "ok"
    server.client.delete("/process/writer/kill")


@needs_root
def test_a_state_folder_that_becomes_read_only_refuses_the_first_start_already(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        server = make_server(env={"SANDKEEPER_STATE_DIR": str(disk / "state")})
        begin(server, "writer")
        # Files are open for writing, so it is bound over itself, and that mount is read-only.
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
        until(lambda: "read-only" in ready(server))
        refused = server.client.post("/process", json={"command": "echo x"})
        assert refused.status_code == 422
        assert "read-only" in refused.json()["error"]
        say(server, "writer", "goes on")
        until(lambda: record(server, "writer")["stdoutBytes"] == len("before\ngoes on\n"))

        subprocess.run(["umount", "--lazy", disk], check=True)
        until(lambda: ready(server) == "ok")
        assert server.run("echo y")["stdout"] == "y\n"
        server.client.delete("/process/writer/kill")
        server.stop()
