"""The console's terminals: shared, left and found again, renamed, played back."""

import json
from typing import Any

from playwright.sync_api import Page, expect
from tests.api.console.pages import TOKEN, fits, in_both_themes, open_console, serious, sign_in
from tests.harness import Server, until

STATUS = ".session .badge"


def connected(page: Page) -> None:
    expect(page.locator(STATUS).first).to_have_text("Connected")


def started(page: Page, server: Server) -> str:
    """Open a terminal by its button; returns its id."""
    open_console(page, server, "#/terminals")
    page.get_by_role("button", name="New terminal").first.click()
    connected(page)
    return page.url.rpartition("/")[2]


def run(page: Page, command: str) -> None:
    page.keyboard.type(command)
    page.keyboard.press("Enter")


def shows(page: Page, text: str) -> None:
    """Wait until a terminal, or a player, shows a text in one line."""
    expect(page.locator(".xterm-rows > div", has_text=text).first).to_be_visible()


def record(server: Server, identifier: str) -> dict[str, Any]:
    return server.client.get(f"/terminals/{identifier}").json()


def test_typed_renamed_left_found_again_and_ended(server: Server, page: Page) -> None:
    mine = started(page, server)
    run(page, "seq 1 50; echo he''re $((6*7))")
    shows(page, "here 42")
    assert serious(page) == []

    page.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_label("Name", exact=True).fill("build")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="build")).to_be_visible()
    assert record(server, mine)["sessionId"] == "build"

    page.reload()
    connected(page)
    shows(page, "here 42")
    page.get_by_role("tab", name="All sessions").click()
    expect(page.get_by_role("row", name="build")).to_be_visible()
    page.get_by_role("tab", name="All sessions").press("ArrowRight")
    connected(page)
    page.locator(".xterm-helper-textarea").focus()
    run(page, "exit 3")
    expect(page.get_by_text("This session ended with code 3")).to_be_visible()
    shows(page, "here 42")
    page.get_by_role("tab", name="build").press("Delete")
    expect(page.get_by_role("tab", name="build")).to_have_count(0)

    page.get_by_role("row", name="build").get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name="Remove it and its recording").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    until(lambda: server.client.get(f"/terminals/{mine}").status_code == 404)


def test_several_viewers_share_one_size_and_one_may_only_look(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 700})
    mine = started(page, server)
    first = record(server, mine)
    other = page.context.new_page()
    other.set_viewport_size({"width": 760, "height": 480})
    open_console(other, server, f"#/terminals/{mine}")
    connected(other)

    expect(page.get_by_text("Another viewer's size")).to_be_visible()
    expect(page.get_by_text("2 viewers", exact=True)).to_be_visible()
    small = record(server, mine)
    assert small["cols"] < first["cols"]
    run(other, "stty size; echo from''other")
    shows(page, "fromother")
    shows(page, f"{small['rows']} {small['cols']}")
    page.get_by_role("button", name="Fit to this window").click()
    until(lambda: record(server, mine)["cols"] == first["cols"])
    expect(other.get_by_text("Another viewer's size")).to_be_visible()

    open_console(other, server, f"#/terminals/{mine}?view=only")
    expect(other.get_by_text("View only", exact=True)).to_be_visible()
    connected(other)
    shows(other, "fromother")
    other.locator(".xterm-helper-textarea").focus()
    run(other, "echo for''bidden")
    page.locator(".xterm-helper-textarea").focus()
    run(page, "echo al''lowed")
    shows(other, "allowed")
    assert "forbidden" not in other.locator(".xterm-rows").inner_text()
    other.close()


def test_a_terminal_is_there_again_when_the_server_is(make_server: Any, page: Page) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": TOKEN})
    sign_in(page, own, "#/terminals")
    started(page, own)
    run(page, "kept=42; echo read''y")
    shows(page, "ready")

    own.kill9()
    expect(page.locator(STATUS).first).to_have_text("Waiting for the server")
    run(page, "echo [$kept]")
    own.start()

    connected(page)
    shows(page, "[42]")


def test_an_address_opens_no_session(server: Server, page: Page) -> None:
    before = len(server.client.get("/terminals").json())
    open_console(page, server, "#/terminals/nobody")
    expect(page.get_by_text("There is no such session")).to_be_visible()
    assert len(server.client.get("/terminals").json()) == before


def test_a_recording_is_played_with_a_time_bar(server: Server, page: Page) -> None:
    mine = started(page, server)
    run(page, "echo fi''rst; sleep 3; echo la''st")
    shows(page, "last")
    open_console(page, server, f"#/terminals/{mine}/recording")

    shows(page, "last")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    bar = page.get_by_role("slider", name="Time")
    assert 2 <= float(bar.get_attribute("max") or 0) < 3 + 60
    assert serious(page) == []
    page.get_by_label("Shorten pauses").uncheck()
    until(lambda: float(bar.get_attribute("max") or 0) >= 3)
    bar.press("Home")
    expect(page.locator(".xterm-rows")).not_to_contain_text("last")
    bar.press("End")
    shows(page, "last")
    page.get_by_label("Speed").select_option("0.5")
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator(".xterm-rows")).not_to_contain_text("last")
    page.get_by_label("Speed").select_option("8")
    shows(page, "last")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    with open(download.value.path()) as file:
        assert json.loads(file.readline())["version"] == 2


def test_lists_and_terminals_have_no_serious_fault_and_fit_a_phone(
    server: Server, page: Page
) -> None:
    mine = started(page, server)
    for place in ("", f"/{mine}", f"/{mine}/recording"):
        page.set_viewport_size({"width": 1280, "height": 800})
        open_console(page, server, f"#/terminals{place}")
        expect(page.locator(".loading")).to_have_count(0)
        assert in_both_themes(page) == [], place
        page.set_viewport_size({"width": 360, "height": 740})
        until(lambda: fits(page))


def test_pages_that_are_left_give_everything_back(server: Server, own_page: Page) -> None:
    page = own_page  # nothing of what others did in it is given back meanwhile
    mine = started(page, server)
    run(page, "seq 1 100")
    shows(page, "100")
    (server.workdir / "text.py").write_text("print(1)\n" * 500)
    (server.workdir / "bytes.bin").write_bytes(b"\0" * 100_000)
    file = f"#/files{server.workdir}?file={server.workdir}"
    shown = {
        "#/ports": ".ports table",  # of the whole machine: not the last, which is measured
        f"#/terminals/{mine}": ".xterm-screen",
        f"#/terminals/{mine}/recording": ".xterm-screen",
        f"{file}/text.py": ".cm-content",
        f"{file}/bytes.bin": ".hex-row",
    }
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable")

    def kept() -> tuple[float, float]:
        for _ in range(3):
            browser.send("HeapProfiler.collectGarbage")
        found = browser.send("Performance.getMetrics")["metrics"]
        values = {one["name"]: one["value"] for one in found}
        return values["Nodes"], values["JSEventListeners"]

    def around() -> tuple[float, float]:
        for place, selector in shown.items():
            page.evaluate("place => { location.hash = place; }", place)
            page.locator(selector).first.wait_for()
        return kept()

    nodes, listeners = around()
    more_nodes, more_listeners = around()
    # One round makes some thousand of each.
    assert more_nodes - nodes < 330
    assert more_listeners - listeners < 50
