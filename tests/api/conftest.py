"""A real browser for the tests of pages."""

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import debian

BROWSER = "chromium-headless-shell"
"""Debian's chromium without what draws windows: it costs a third of the CPU time."""
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


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    size = {"width": 900, "height": 500}
    context = browser.new_context(viewport=size, reduced_motion="reduce")
    problems: list[str] = []
    made = context.new_page()
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    yield made
    context.close()
    # What a server cannot answer because the test has killed it is no fault of the page.
    expected = ("WebSocket", "ERR_CONNECTION_", "ERR_EMPTY_RESPONSE", "ERR_CONTENT_LENGTH_")
    assert [one for one in problems if not any(word in one for word in expected)] == []
