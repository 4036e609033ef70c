"""The state folder: one server at a time, its owner's only, and never thrown away unread."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.harness import Server, free_port, needs_root, until


def refused(state: Path, **env: str) -> str:
    """Start a server on a state folder that it may not have; returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(free_port())],
        env={**os.environ, "SANDKEEPER_STATE_DIR": str(state), "SANDKEEPER_LOG": "none", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_a_second_server_on_the_same_state_is_refused_and_the_first_goes_on(make_server) -> None:
    server: Server = make_server()
    server.client.post("/process", json={"command": "sleep 60", "name": "kept"})

    assert f"another server (process {server.pid}) uses it" in refused(server.state)
    assert server.client.get("/process/kept").json()["status"] == "running"
    server.kill9()
    server.start()
    assert server.client.get("/process/kept").json()["status"] == "running"
    server.client.delete("/process/kept/kill")


@needs_root
def test_a_state_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    os.chown(planted, 65534, 65534)

    assert "it belongs to user 65534" in refused(planted)
    assert list(planted.iterdir()) == []


def test_folders_that_anybody_can_replace_are_refused_in_one_line(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)

    said = refused(shared / "state", TMPDIR=str(shared))
    assert said.count("\n") == 1
    assert "cannot start: uploads in parts have no folder" in said


def test_a_run_whose_record_cannot_be_understood_is_left_as_it_is(make_server) -> None:
    server: Server = make_server()
    known = server.run("echo kept", name="known")
    strange = server.run("echo strange", name="strange")
    server.stop()
    record = server.state / "runs" / strange["id"] / "meta.jsonl"
    record.write_text(json.dumps({"id": strange["id"], "version": "of the future"}) + "\n")
    torn = server.state / "runs" / "torn"
    torn.mkdir()
    (torn / "meta.jsonl").write_text('\n{"id": "to')
    server.start()

    assert [item["id"] for item in server.client.get("/process").json()] == [known["id"]]
    assert record.exists()
    until(lambda: not torn.exists())


def test_what_is_no_lock_is_out_of_the_way_and_told(make_server) -> None:
    server: Server = make_server()
    server.run("echo kept", name="kept")
    for make in (os.mkdir, os.mkfifo):
        server.stop()
        (server.state / "lock").unlink()
        make(server.state / "lock")
        server.start()
        assert server.client.get("/process/kept").status_code == 200
        lock = str(server.state / "lock")
        until(lambda lock=lock: any(lock in line["msg"] for line in server.log_lines()))
    assert len(list((server.state / "damaged").iterdir())) == 2
