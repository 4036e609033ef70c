"""keepAlive: the scale file, its limit of time, and the switch that forbids it."""

import fcntl
import os
from pathlib import Path

import pytest
from tests.harness import Server, over, until


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    (tmp_path / "uk").mkdir()
    return tmp_path / "uk" / "scale"


def start(server: Server, command: str, **fields):
    return server.client.post("/process", json={"command": command, "keepAlive": True, **fields})


def test_the_file_is_reset_at_boot_then_counts_up_and_down_once(make_server, scale: Path) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(scale)})
    assert scale.read_text() == "=0"

    made = start(own, "sleep 30", name="held").json()
    assert made["keepAlive"] is True
    assert scale.read_text()[0] == "+"  # before the answer: whoever has it may leave
    own.client.delete("/process/held")
    ended = over(own, "held")
    until(lambda: scale.read_text()[0] == "-")

    assert (ended["status"], ended["keepAlive"]) == ("stopped", False)


def test_a_scale_file_that_somebody_keeps_locked_delays_a_start_but_stops_none(
    make_server, scale: Path
) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(scale)})
    with scale.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert start(own, "sleep 30", name="held").status_code == 200
        assert own.client.get("/process/held").json()["status"] == "running"

    until(lambda: scale.read_text()[0] == "+")


def test_each_change_is_one_write_also_over_restarts(make_server, tmp_path: Path) -> None:
    folder = tmp_path / "uk"
    folder.mkdir()
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(folder / "scale")})
    start(own, "exit 1", name="r", restartOnFailure=True, maxRestarts=1)
    ended = over(own, "r")
    own.stop()
    told = [line["msg"] for line in own.log_lines() if line["msg"].startswith("[KeepAlive]")]

    assert (ended["restartCount"], ended["keepAlive"]) == (1, True)
    assert len(told) == 2
    assert (folder / "scale").read_text()[0] == "-"


def test_its_lines_have_the_contracts_fields(make_server, scale: Path) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(scale)})
    start(own, "exit 3", name="told", timeout=60)
    over(own, "told")
    own.stop()
    first, last = [x for x in own.log_lines() if x["msg"].startswith("[KeepAlive]")]

    assert (first["process_name"], first["command"], first["timeout"]) == ("told", "exit 3", 60)
    assert (last["process_name"], last["status"], last["exit_code"]) == ("told", "failed", 3)
    assert first["process_pid"] == last["process_pid"]


def test_processes_that_outlive_the_server_are_counted_again(make_server, scale: Path) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(scale)})
    start(own, "sleep 60", name="stays")
    until(lambda: scale.read_text()[0] == "+")
    own.kill9()
    own.restart()

    assert scale.read_text()[0] == "+"
    own.client.delete("/process/stays/kill")
    until(lambda: scale.read_text()[0] == "-")


def test_without_the_folder_nothing_is_written_and_nothing_fails(
    make_server, tmp_path: Path
) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(tmp_path / "no" / "scale")})

    assert start(own, "true", waitForCompletion=True).status_code == 200
    assert not os.path.exists(tmp_path / "no")


@pytest.mark.parametrize("value", ["1", " true ", "T"])
def test_it_can_be_forbidden_but_the_reset_stays(make_server, scale: Path, value: str) -> None:
    own: Server = make_server(env={"BLAXEL_SCALE_FILE": str(scale), "BL_DISABLE_KEEPALIVE": value})
    reply = start(own, "true")

    assert (reply.status_code, reply.json()["error"]) == (
        400,
        "keepAlive is not available for this sandbox: it is not included in your current plan",
    )
    assert own.run("true")["status"] == "completed"
    assert scale.read_text() == "=0"


def test_its_timeout_kills_and_is_armed_again_per_restart(server: Server) -> None:
    start(server, "sleep 30", name="limit", timeout=1)
    assert over(server, "limit")["exitReason"] == "timeout"

    start(server, "sleep 1; exit 1", name="rearm", timeout=8, restartOnFailure=True, maxRestarts=5)
    ended = over(server, "rearm")
    assert (ended["restartCount"], ended["exitCode"], ended["exitReason"]) == (5, 1, "exited")


def test_a_record_does_not_say_that_it_keeps_alive_once_its_time_limit_ended_it(
    server: Server,
) -> None:
    made = start(server, "sleep 30", name="timed", timeout=3).json()
    ended = over(server, "timed")

    assert (made["keepAlive"], ended["keepAlive"]) == (True, False)
    assert (ended["status"], ended["exitReason"]) == ("killed", "timeout")
