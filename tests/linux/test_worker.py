"""Worker threads: orders, descriptors, and what cannot end them."""

import os
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from sandkeeper.linux.worker import Bell, Worker


class Reading(Worker):
    """Reads pipes; a byte `!` is more than it can take."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        super().__init__("reading", failed=self.failures.append)
        self.read: list[bytes] = []
        self.given_up: list[int] = []

    def add(self, fd: int) -> None:
        self._order(lambda: self._poller.register(fd))

    def fail(self) -> None:
        self._order(lambda: self._poller.unregister(-1))
        self._order(partial(self._poller.unregister, -1))

    def passed(self) -> None:
        """Wait until all orders so far were carried out."""
        done = threading.Event()
        self._order(done.set)
        assert done.wait(60)

    def _ready(self, fd: int) -> None:
        data = os.read(fd, 100)
        if data == b"!":
            raise ValueError("too much")
        self.read.append(data)
        if not data:
            self._poller.unregister(fd)

    def _give_up(self, fd: int) -> None:
        self._poller.unregister(fd)
        self.given_up.append(fd)


@pytest.fixture
def worker() -> Iterator[Reading]:
    made = Reading()
    made.start()
    yield made
    made.stop()


def test_an_order_that_fails_is_told_and_the_thread_goes_on(worker: Reading) -> None:
    worker.fail()
    worker.passed()

    assert worker.alive
    assert [told.startswith("reading: ") for told in worker.failures] == [True, True]


def test_a_descriptor_that_fails_is_given_up_and_others_are_served(worker: Reading) -> None:
    bad, bad_end = os.pipe()
    good, good_end = os.pipe()
    worker.add(bad)
    worker.add(good)
    os.write(bad_end, b"!")
    while not worker.given_up:
        worker.passed()
    os.write(bad_end, b"more")
    os.write(good_end, b"hello")
    while not worker.read:
        worker.passed()

    assert (worker.given_up, worker.read) == ([bad], [b"hello"])
    assert "too much" in worker.failures[0]
    for fd in (bad, bad_end, good, good_end):
        os.close(fd)


def test_orders_given_before_the_stop_are_carried_out_and_a_second_stop_is_nothing() -> None:
    made = Reading()
    order: list[int] = []
    made.start()
    for number in range(100):
        made._order(lambda number=number: order.append(number))  # type: ignore[misc]
    made.stop()
    made.stop()

    assert order == list(range(100))
    assert not made.alive


def test_a_bell_may_be_rung_after_it_was_closed() -> None:
    bell = Bell()
    bell.ring()
    bell.hush()
    bell.hush()
    bell.close()
    bell.close()
    bell.ring()
