"""The page of a person who has the console open all day: the tests of a module share one.

To load a page takes half a second of CPU, to go from one place of the console to another a tenth.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.api.conftest import WINDOW, look_at
from tests.harness import Server

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


class Seat:
    """A window of a browser, with one page that outlives a test that went well."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._page: Page | None = None
        self.faults: list[str] = []

    def take(self, server: Server) -> Page:
        """Return the page: it shows no place of the console, and has no other session."""
        if self._page is None:
            context = self._browser.new_context(viewport=WINDOW, reduced_motion="reduce")
            self._page = context.new_page()
            self.faults = look_at(self._page)
            return self._page
        page = self._page
        for other in page.context.pages:
            if other != page:
                other.close()
        page.context.clear_cookies()
        page.context.clear_permissions()
        page.unroute_all()
        page.set_viewport_size(WINDOW)
        page.emulate_media(color_scheme="null", reduced_motion="reduce")
        if page.url.startswith(f"{server.url}/console/"):
            page.evaluate("location.hash = '#/nowhere'")
            expect(page.get_by_text("There is no such page")).to_be_visible()
        self.faults.clear()
        return page

    def leave(self) -> None:
        """Close the page."""
        if self._page is not None:
            self._page.context.close()
            self._page = None


@pytest.fixture(scope="module")
def seat(browser: Any) -> Iterator[Seat]:
    made = Seat(browser)
    yield made
    made.leave()


@pytest.fixture
def page(seat: Seat, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return the page of the module; one in which a test has failed is no other's."""
    yield seat.take(server)
    faults = list(seat.faults)
    if faults or request.node.stash.get(FAILED, False):
        seat.leave()
    assert faults == []
