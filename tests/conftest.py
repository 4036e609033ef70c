"""Fixtures shared by all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or one worker ends with them alone."""
    items.sort(key=lambda item: "/e2e/" not in item.nodeid)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a running server shared by the tests of one module."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of one's own; all are stopped at the end of the test."""
    made: list[Server] = []

    def make(**options: Any) -> Server:
        running = Server(tmp_path / f"server{len(made)}", **options)
        made.append(running)
        running.start()
        return running

    yield make
    for running in made:
        running.stop()
        running.client.close()
        running.let_go()
