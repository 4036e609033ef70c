"""A real browser for the tests of pages."""

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import debian

BROWSER = "chromium-headless-shell"
"""Debian's chromium without what draws windows: it costs a third of the CPU time."""
WINDOW = {"width": 900, "height": 500}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def _playwright() -> Iterator[tuple[Any, Any, Any]]:
    """Return what launches browsers, what gives the common one, and their event loop.

    The start of a browser is dear: the common one is started when the first test wants it.
    """
    debian(BROWSER)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    with sync_playwright() as launcher:
        loop = asyncio.get_running_loop()
        common = functools.cache(lambda: launch(launcher))
        asyncio._set_running_loop(None)
        yield launcher, common, loop
        asyncio._set_running_loop(loop)
        if common.cache_info().currsize:
            common().close()


def launch(launcher: Any, *flags: str) -> Any:
    """Start a browser."""
    return launcher.chromium.launch(
        executable_path=f"/usr/bin/{BROWSER}", args=[*FLAGS.split(), *flags], headless=True
    )


@pytest.fixture(scope="module")
def playwright(_playwright: tuple[Any, Any, Any]) -> Iterator[Any]:
    """Return what launches browsers.

    Between calls of its own its event loop counts as running in this thread, and modules without a
    browser run theirs there.
    """
    launcher, _, loop = _playwright
    asyncio._set_running_loop(loop)
    yield launcher
    asyncio._set_running_loop(None)


@pytest.fixture(scope="module")
def browser(playwright: Any, _playwright: tuple[Any, Any, Any]) -> Iterator[Any]:
    """Return the browser of all modules; what a test opens in it is gone after the module."""
    running = _playwright[1]()
    yield running
    for context in running.contexts:
        context.close()


def look_at(page: Any) -> list[str]:
    """Return a list of the faults of a page's scripts, which grows."""
    faults: list[str] = []
    # What a server cannot answer because the test has killed it is no fault of the page.
    expected = ("WebSocket", "ERR_CONNECTION_", "ERR_EMPTY_RESPONSE", "ERR_CONTENT_LENGTH_")

    def note(one: Any) -> None:
        if one.type == "error" and not any(word in one.text for word in expected):
            faults.append(one.text)

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", note)
    return faults


@pytest.fixture
def own_page(browser: Any) -> Iterator[Any]:
    """Return a page of the test's own, in which nothing has been shown."""
    context = browser.new_context(viewport=WINDOW, reduced_motion="reduce")
    made = context.new_page()
    faults = look_at(made)
    yield made
    context.close()
    assert faults == []


@pytest.fixture
def page(own_page: Any) -> Any:
    return own_page
