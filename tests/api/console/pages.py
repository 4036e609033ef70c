"""The console as a person has it, for tests: opened, looked at, checked for faults."""

import subprocess
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Page, expect
from tests.harness import Server

__all__ = [
    "TOKEN",
    "describe_little",
    "fits",
    "in_both_themes",
    "open_console",
    "serious",
    "sign_in",
]

TOKEN = "s3cret-of-the-test"

ROOT = Path(__file__).parents[3]
AXE = ROOT / "console/node_modules/axe-core/axe.min.js"
RUN = """async ([where, rules]) => {
    const options = {resultTypes: ["violations"]};
    if (rules) options.runOnly = rules;
    const found = await axe.run(where, options);
    return found.violations
        .filter((one) => one.impact === "serious" || one.impact === "critical")
        .map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html).join(" | ")}`);
}"""
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe-core whose answer is another in another theme."""


def open_console(page: Page, server: Server, place: str = "") -> None:
    """Open a page of the console (`#/files`) and wait until it is shown."""
    page.goto(f"{server.url}/console/{place}")
    expect(page.locator("main h1").first).to_be_visible()


def describe_little(page: Page, server: Server) -> None:
    """Have the page of the API get one area of the description: to draw all takes it 2 s of CPU."""
    told = server.client.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    paths = told["paths"]
    told["paths"] = {path: paths[path] for path in paths if path.startswith("/network/")}
    assert told["paths"]
    page.route("**/openapi.json", lambda route: route.fulfill(json=told))


def sign_in(page: Page, server: Server, place: str) -> None:
    """Open a page of a console that asks for TOKEN, and give it."""
    page.goto(f"{server.url}/console/{place}")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()


def serious(page: Page, where: str = "body", rules: list[str] | None = None) -> list[str]:
    """Return what axe-core finds serious or critical in what is shown, by all or some rules."""
    if not page.evaluate("'axe' in window"):
        if not AXE.exists():
            subprocess.run([ROOT / "scripts/npm", ROOT / "console"], check=True)
        page.evaluate(AXE.read_text())
    found: Any = page.evaluate(RUN, [where, rules])
    return list(found)


def in_both_themes(page: Page) -> list[str]:
    """Return what is serious in the dark theme, and of the colours of the light one."""
    themed(page, "dark")
    found = serious(page)
    themed(page, "light")
    return [*found, *serious(page, rules=COLOURS)]


def themed(page: Page, theme: Literal["dark", "light"]) -> None:
    """Have a page take the system's theme, and wait until it is drawn in it."""
    page.emulate_media(color_scheme=theme)
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    # Colours go over from one to the other, if in no time.
    page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished)).catch(() => 0)")


def fits(page: Page) -> bool:
    """Say whether nothing is wider than the window."""
    wide: Any = page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    inside: Any = page.evaluate(
        "(() => { const it = document.getElementById('page');"
        " return !it || it.scrollWidth <= it.clientWidth; })()"
    )
    return bool(wide and inside)
