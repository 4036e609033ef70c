"""Fixtures shared by all tests."""

import functools
import gc
import os
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.harness import Server, cases
from tests.interpreter_port import nobody_interprets

OURS = ("SANDKEEPER_", "SANDBOX_", "BL_", "BLAXEL_")


def _plain_environment() -> None:
    """Have all tests start from the same environment, whatever the one is that they are run in."""
    for name in list(os.environ):
        if name.startswith(OURS) and not name.startswith("SANDKEEPER_TEST_"):
            del os.environ[name]
    for name in ("NO_COLOR", "COLUMNS", "LINES", "LC_ALL"):
        os.environ.pop(name, None)
    os.environ.update(TERM="xterm-256color", LANG="C.UTF-8")
    # What a shell starts in the background ignores these, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _read_certificates_once() -> None:
    """Have the clients that tests make share what checks certificates; hardly any speaks TLS.

    Reading the usual ones takes each client of httpx 50 ms, more than most requests. Which these
    are the variables of whoever runs the tests may say.
    """
    make = ssl.create_default_context
    usual = functools.cache(make)

    def made(*args: Any, **options: Any) -> ssl.SSLContext:
        # Without a file the variables say now which ones: a test may have set them.
        shared = not args and options.keys() in ({"cafile"}, {"capath"})
        return usual(**options) if shared else make(*args, **options)

    ssl.create_default_context = made


def _wait_longer() -> None:
    """Have httpx's own calls wait as long as our servers' clients do: five seconds is its usual."""
    for name in ("get", "post", "put", "patch", "delete", "head", "options", "request", "stream"):
        setattr(httpx, name, functools.partial(getattr(httpx, name), timeout=60.0))


_plain_environment()
_read_certificates_once()
_wait_longer()
# How long a case takes is the machine's matter; how many there are is told as for our own.
settings.register_profile(
    "ours",
    deadline=None,
    max_examples=cases(100),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ours")
Server.warm = not os.environ.get("SANDKEEPER_TEST_COLD")

LONGEST = (
    "e2e/test_upgrade",
    "console/test_console.py",
    "interpreter/test_hostile_cells",
    "edge/test_browsers",
    "e2e/test_clients_page",
    "console/test_console_files",
    "blaxel/test_git",
    "port/test_pages",
    "tests/test_setup",
    "console/test_console_terminals",
    "edge/test_rights",
    "client/test_sync",
    "console/test_console_processes",
    "edge/test_body",
    "blaxel/test_watch",
    "console/test_terminal_page",
    "linux/test_spawner",
    "client/test_run",
    "mcp/test_mcp_clients",
    "interpreter/test_outlives",
    "client/test_hostile",
    "e2e/test_costs",
    "log/test_log_files",
    "port/test_port_application",
    "edge/test_hostile_wire",
    "e2e/test_code_python",
    "blaxel/test_archive",
    "e2e/test_hostile",
    "egress/",
    "interpreter/",
    "watch/test_changes_programs",
    "e2e/",
    "/api/",
    "client/",
)
"""Parts of the names of files, those first that take the longest.

What waits stands between what computes: files that begin together leave the processors neither
idle nor wanted by all at once.
"""


# All that is collected stays to the end: a collector that looks at it is a third of the time.
gc.disable()


def pytest_collection_finish() -> None:
    """Put aside what is loaded, and collect what tests leave."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or one worker ends with them alone."""

    def place(item: pytest.Item) -> int:
        found = (number for number, part in enumerate(LONGEST) if part in item.nodeid)
        return next(found, len(LONGEST))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Put the environment back: what a test changes there must not reach the servers of others."""
    before = dict(os.environ)
    yield
    # pytest's own, which says how far a test is: for that alone nothing is put back.
    before["PYTEST_CURRENT_TEST"] = os.environ["PYTEST_CURRENT_TEST"]
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a running server shared by the tests of one module."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def no_interpreter() -> Iterator[None]:
    """Have nobody else answer for the ports of code interpreters."""
    with nobody_interprets():
        yield


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
        running.leave()
