"""A real browser for the tests of pages."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSER = "chromium-headless-shell"
"""Debian's chromium without what draws windows: it costs a third of the CPU time."""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    subprocess.run([Path(__file__).parents[2] / "scripts/apt", BROWSER], check=True)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=f"/usr/bin/{BROWSER}", args=FLAGS.split(), headless=True
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 900, "height": 500})
    problems: list[str] = []
    made = context.new_page()
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    yield made
    context.close()
    # What a server cannot answer because the test has killed it is no fault of the page.
    expected = ("WebSocket", "ERR_CONNECTION_", "ERR_EMPTY_RESPONSE", "ERR_CONTENT_LENGTH_")
    assert [one for one in problems if not any(word in one for word in expected)] == []
