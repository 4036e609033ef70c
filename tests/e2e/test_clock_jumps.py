"""The wall clock jumps by years, either way, while the server runs and while it does not."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.harness import Server, debian, until
from tests.nursery import Nursery

from sandkeeper.linux.clocks import GRACE_SECONDS, uptime
from sandkeeper.processes.record import RunMeta, ended_uptime


def libraries() -> list[Path]:
    return sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Clock:
    """The wall clock of servers that are started with `env`; the other clocks are left alone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.set("+0d")
        debian("faketime")
        self.env = {
            "LD_PRELOAD": str(libraries()[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }

    @property
    def whole_env(self) -> dict[str, str]:
        """What has all clocks jump, as they do for a container that was frozen."""
        return {**self.env, "FAKETIME_DONT_FAKE_MONOTONIC": "0"}

    def set(self, offset: str) -> None:
        """Jump; nobody reads half of it."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{offset}\n")
        new.rename(self.path)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clock, Nursery]]:
    """Return the clock, and what forks servers that go by it."""
    clock = Clock(tmp_path_factory.mktemp("clock"))
    with pytest.MonkeyPatch.context() as patched:
        for name, text in clock.env.items():
            patched.setenv(name, text)
        nursery = Nursery(("sandkeeper.cli", "sandkeeper.api.app", "sandkeeper.sandbox"))
    yield clock, nursery
    nursery.close()


@pytest.fixture
def clock(clocked: tuple[Clock, Nursery]) -> Clock:
    clocked[0].set("+0d")
    return clocked[0]


@pytest.fixture
def make(
    make_server: Callable[..., Server], clocked: tuple[Clock, Nursery]
) -> Callable[..., Server]:
    """Start servers by that clock."""
    return partial(make_server, env=clocked[0].env, forker=clocked[1])


def names(server: Server) -> set[str]:
    return {item["name"] for item in server.client.get("/process").json()}


def test_a_jump_drops_no_record_while_the_server_runs_nor_over_its_restarts(
    make: Callable[..., Server], clock: Clock
) -> None:
    server = make()
    server.run("echo first", name="first")
    for number, offset in enumerate(("-20000d", "+400d")):
        clock.set(offset)
        server.run(": an end is when the old ones are looked at", name=f"live{number}")
        assert {"first", f"live{number}"} <= names(server), offset
        server.restart()
        server.run(":", name=f"after{number}")
        known = names(server)
        assert {"first", *(f"live{n}" for n in range(number + 1))} <= known, offset
    assert server.client.get("/process/first/logs").json()["logs"] == "first\n"


def test_the_clock_is_really_moved_by_these_tests(
    make: Callable[..., Server], clock: Clock
) -> None:
    server = make()
    clock.set("+400d")
    made = server.run("date +%s")
    real = int(subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout)
    assert int(made["stdout"]) - real > 399 * 86400


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
def test_time_limits_and_uploads_outlast_a_jump_over_a_restart(
    make: Callable[..., Server], clock: Clock, offset: str
) -> None:
    # No record is written before the end of the server: there is what was announced of the start.
    late = {"sandkeeper.processes.recorder.SAVE_SECONDS": 300}
    server = make(constants=late)
    body = {"command": "echo on; sleep 300", "name": "limited", "timeout": 600}
    server.client.post("/process", json=body)
    upload = server.client.post("/filesystem-multipart/initiate/file", json={}).json()
    server.kill9()
    clock.set(offset)
    server.start()

    assert server.client.get("/process/limited").json()["status"] == "running"
    uploads = server.client.get("/filesystem-multipart").json()["uploads"]
    assert upload["uploadId"] in {item["uploadId"] for item in uploads}
    server.client.delete("/process/limited/kill")


def test_a_time_limit_still_ends_a_process_after_the_clock_went_back(
    make: Callable[..., Server], clock: Clock
) -> None:
    server = make()
    body = {"command": "sleep 300", "name": "limited", "timeout": 1}
    server.client.post("/process", json=body)
    server.kill9()
    clock.set("-400d")
    server.start()

    until(lambda: server.client.get("/process/limited").json()["status"] != "running")
    assert server.client.get("/process/limited").json()["exitReason"] == "timeout"


def test_a_standstill_of_hours_takes_nothing_from_time_limits_nor_over_a_restart(
    make_server: Callable[..., Server], clock: Clock
) -> None:
    server = make_server(env=clock.whole_env)
    ask = server.client
    ask.post("/process", json={"command": "sleep 300", "name": "limited", "timeout": 600})
    shown = ask.post("/terminals", json={"timeout": 600}).json()["id"]
    with ask.stream("GET", "/process/limited/logs/stream") as stream:
        lines = stream.iter_lines()
        next(lines)
        clock.set("+10h")
        until(lambda: "nothing ran here for 3600" in server.log_path.read_text())
        assert next(line for line in lines if line), "the stream goes on"
    for place in ("/process/limited", f"/terminals/{shown}"):
        found = ask.get(place).json()
        assert found["status"] == "running", found
    server.restart()
    for place in ("/process/limited", f"/terminals/{shown}"):
        found = ask.get(place).json()
        assert found["status"] == "running", found


def test_records_are_dropped_when_they_have_been_over_for_long_enough(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(env={"SANDKEEPER_KEEP_FINISHED_SECONDS": "1"})
    server.run(":", name="old")
    until(lambda: "old" not in names(server))


def test_what_another_boot_left_keeps_an_hour_whatever_the_clock_says() -> None:
    week = 7 * 86400.0
    now = uptime()
    for completed_at in (0.0, 1e9, 4e9):
        meta = RunMeta(id="x", command="", name="", completed_at=completed_at)
        ended = ended_uptime(meta, "this boot", week)
        assert now - week + GRACE_SECONDS - 5 <= ended <= uptime()
    meta = RunMeta(
        id="x", command="", name="", completed_at=4e9, completed_boot="b", completed_uptime=0.5
    )
    assert ended_uptime(meta, "b", week) == 0.5
