"""The console's page of ports: what listens, by whom, and opened in a new tab."""

from typing import Any

from playwright.sync_api import Page, expect
from tests.api.console.pages import TOKEN, fits, open_console, serious, sign_in
from tests.harness import Server, free_port, start, until


def served(server: Server) -> int:
    """Start a process that serves a page; returns its port."""
    (server.workdir / "index.html").write_text("<title>served</title><h1>It works</h1>")
    port = free_port()
    command = f"exec python3 -m http.server {port} --bind 127.0.0.1 -d {server.workdir}"
    start(server, command, name="site")
    return port


def opens(page: Page, port: int) -> str:
    """Open a port, which belongs to that process, in a new tab; returns its address there."""
    one = page.get_by_role("row", name=str(port))
    expect(one.get_by_role("link", name="site")).to_be_visible()
    expect(one).to_contain_text("This machine")
    with page.context.expect_page() as tab:
        one.get_by_role("button", name=f"Open port {port} in a new tab").click()
    expect(tab.value.locator("h1")).to_have_text("It works")
    address = str(tab.value.url)
    tab.value.close()
    return address


def test_a_port_is_shown_with_its_process_and_opens(server: Server, page: Page) -> None:
    open_console(page, server, "#/ports")
    port = served(server)
    opens(page, port)

    page.get_by_role("searchbox").fill("no such thing")
    expect(page.get_by_text("No port matches")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    until(lambda: fits(page))
    server.client.delete("/process/site/kill")
    expect(page.get_by_role("row", name=str(port))).to_have_count(0)


def test_with_a_token_it_opens_without_and_a_link_for_others_is_made_and_revoked(
    make_server: Any, page: Page
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": TOKEN, "SANDKEEPER_ON_SHUTDOWN": "stop"})
    own.client.headers["Authorization"] = f"Bearer {TOKEN}"
    sign_in(page, own, "#/ports")
    port = served(own)
    assert TOKEN not in opens(page, port)

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("row", name=str(port)).get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name="Copy a link for others").click()
    revoke = page.get_by_role("button", name=f"Revoke the link to port {port}")
    expect(revoke).to_be_visible()
    until(lambda: f"{port}" in page.evaluate("navigator.clipboard.readText()"))
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    until(lambda: fits(page))
    revoke.click()
    expect(revoke).to_have_count(0)
    links = own.client.get("/network/links").json()["links"]
    assert all(link["once"] for link in links)
