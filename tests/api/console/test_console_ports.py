"""The console's page of ports: what listens, by whom, and opened in a new tab."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.api.console.pages import TOKEN, fits, open_console, serious, sign_in
from tests.harness import Server, free_port, start, until


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_port_is_shown_with_its_process_and_opens(
    make_server: Any, page: Page, token: str
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": token} if token else {})
    if token:
        own.client.headers["Authorization"] = f"Bearer {token}"
    if token:
        sign_in(page, own, "#/ports")
    else:
        open_console(page, own, "#/ports")
    (own.workdir / "index.html").write_text("<title>served</title><h1>It works</h1>")
    port = free_port()
    start(own, f"exec python3 -m http.server {port} --bind 127.0.0.1 -d {own.workdir}", name="site")

    one = page.get_by_role("row", name=str(port))
    expect(one.get_by_role("link", name="site")).to_be_visible()
    expect(one).to_contain_text("This machine")
    with page.context.expect_page() as tab:
        one.get_by_role("button", name=f"Open port {port} in a new tab").click()
    expect(tab.value.locator("h1")).to_have_text("It works")
    assert token == "" or token not in tab.value.url
    tab.value.close()

    page.get_by_role("searchbox").fill("no such thing")
    expect(page.get_by_text("No port matches")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    one.get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name="Copy a link for others").click()
    revoke = page.get_by_role("button", name=f"Revoke the link to port {port}")
    expect(revoke).to_be_visible()
    assert f"{port}" in page.evaluate("navigator.clipboard.readText()")
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    until(lambda: fits(page))
    revoke.click()
    expect(revoke).to_have_count(0)
    links = own.client.get("/network/links").json()["links"]
    assert all(link["once"] for link in links)
    own.client.delete("/process/site/kill")
    expect(one).to_have_count(0)
