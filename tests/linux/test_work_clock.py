"""The clock by which workloads are measured leaves out the times in which nothing ran."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandkeeper.api.edge.connections import lifesigns
from sandkeeper.linux.children.adopted import boot_id
from sandkeeper.linux.clocks import MOST_STILLS, STILL_SECONDS, WORK, WorkClock
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.observability.standstills import Standstills


class Machine:
    """Clocks that go as they are told, and a work clock that is beaten by them."""

    def __init__(self) -> None:
        self.uptime, self.wall = 100.0, 1e9
        self.clock = WorkClock(lambda: self.uptime, lambda: self.wall)
        self.woken: list[float] = []
        self.clock.woken.append(self.woken.append)
        self.clock.beat()

    def passes(self, seconds: float, *, leap: float = 0.0) -> None:
        """Have time pass, and the wall clock put forward by `leap` besides."""
        self.uptime += seconds
        self.wall += seconds + leap


def test_a_standstill_is_left_out_and_told_once() -> None:
    machine = Machine()
    machine.passes(STILL_SECONDS - 1)
    assert machine.clock.now() == 100 + STILL_SECONDS - 1
    machine.passes(36000)
    # Whoever asks first notices: a timer may be due before the next beat.
    assert machine.clock.now() == 100 + STILL_SECONDS - 1
    machine.clock.beat()
    machine.passes(1)
    assert machine.clock.now() == 100 + STILL_SECONDS
    assert machine.woken == [36000]


def test_what_it_showed_at_a_moment_of_the_past_can_be_asked() -> None:
    machine = Machine()
    machine.passes(1000)
    machine.clock.beat()
    machine.passes(10)
    assert [machine.clock.at(moment) for moment in (50, 100, 600, 1100, 1110)] == [
        50,
        100,
        100,
        100,
        110,
    ]


@pytest.mark.parametrize(("leap", "told"), [(3600, [0.0]), (-3600, []), (1, [])])
def test_a_wall_clock_that_leaps_ahead_wakes_and_takes_no_time(
    leap: float, told: list[float]
) -> None:
    machine = Machine()
    machine.passes(1, leap=leap)
    machine.clock.beat()
    assert machine.woken == told
    assert machine.clock.now() == 101


def test_without_a_beat_nothing_is_a_standstill() -> None:
    machine = Machine()
    machine.clock.rest()
    machine.passes(36000)
    machine.clock.beat()
    assert (machine.clock.now(), machine.woken) == (36100, [])


@pytest.mark.parametrize(
    ("kept", "believed"),
    [
        ([[1.0, 30.0], [40.0, 25.0]], True),
        ([[0.0, 1e12]], False),
        ([[1.0, -30.0]], False),
        ([[1.0, 30.0], [1.0, 30.0]], False),
    ],
)
def test_only_standstills_that_may_be_true_are_taken_up(
    kept: list[list[float]], believed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would put off time limits for ever."""
    monkeypatch.setattr(WORK, "stills", [])
    path = tmp_path / "standstills.json"
    path.write_text(json.dumps({"boot": boot_id(), "stills": kept}))
    log = Log(Sink(2, dropped_line=lambda _: b""))
    with ThreadPoolExecutor(1) as writer, Standstills(path, writer, log).kept():
        assert (len(WORK.stills) == len(kept)) is believed


def test_any_number_of_standstills_is_left_out_in_bounded_room() -> None:
    machine = Machine()
    for _ in range(3 * MOST_STILLS):
        machine.passes(100)
        machine.clock.beat()
        machine.passes(1)
        machine.clock.beat()
    assert machine.clock.now() == 100 + 3 * MOST_STILLS
    assert len(machine.clock.stills) == MOST_STILLS


def test_connections_of_a_listener_are_asked_for_signs_of_life() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lifesigns.ask_quiet_ones(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle == lifesigns.IDLE_SECONDS
