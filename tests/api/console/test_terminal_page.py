"""The terminal page in a real browser: typed at, read, resized, cut off and found again."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
from playwright.sync_api import Page, expect
from tests.harness import Server, until

TEXT = """() => {
    const buffer = window.sandkeeperTerminal.buffer.active;
    const lines = [];
    for (let row = 0; row < buffer.length; row += 1) {
        lines.push(buffer.getLine(row).translateToString(true));
    }
    return lines.join("\\n");
}"""


def connected(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("connected")


def started(page: Page) -> None:
    """Say yes to what the address names, which the page asks for first, and connect."""
    page.click("#start")
    connected(page)


def opened(page: Page, address: str) -> None:
    page.goto(address)
    started(page)


def shown(page: Page, text: str) -> str:
    return until(lambda: text in page.evaluate(TEXT) and page.evaluate(TEXT))


def run(page: Page, command: str) -> None:
    page.keyboard.type(command)
    page.keyboard.press("Enter")


def test_a_person_types_and_reads(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=typed&shell=/bin/sh&workingDir=/usr")

    run(page, "pwd; echo a''é漢b; stty size")

    text = shown(page, "aé漢b")
    assert "/usr" in text
    size = page.evaluate("[window.sandkeeperTerminal.rows, window.sandkeeperTerminal.cols]")
    shown(page, f"{size[0]} {size[1]}")
    assert size != [24, 80]


def test_a_page_that_is_loaded_again_shows_the_same_screen(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=reload&shell=/bin/sh")
    run(page, "seq 1 200; printf '\\033[1;32mcol''oured\\033[0m\\n'")
    before = shown(page, "coloured")

    page.reload()
    started(page)

    after = shown(page, "coloured")
    assert after.splitlines()[-8:] == before.splitlines()[-8:]
    assert "\n100\n" in after
    run(page, "echo on''wards")
    shown(page, "onwards")


def test_the_terminal_follows_the_size_of_the_window(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=sized&shell=/bin/sh")
    page.set_viewport_size({"width": 600, "height": 300})

    def same() -> bool:
        reply = server.client.get("/terminals/sized")
        if reply.status_code == 404:  # connected, and not yet there
            return False
        record = reply.json()
        here = page.evaluate("[window.sandkeeperTerminal.cols, window.sandkeeperTerminal.rows]")
        return here == [record["cols"], record["rows"]] and here[0] < 80

    until(same)


def test_the_page_comes_back_when_the_server_does(make_server: Any, page: Page) -> None:
    own: Server = make_server()
    opened(page, own.url + "/terminal?shell=/bin/sh")
    run(page, "kept=42; echo read''y")
    shown(page, "ready")

    own.kill9()
    expect(page.locator("#status")).to_have_text("connecting")
    own.start()

    connected(page)
    run(page, "echo [$kept]")
    shown(page, "[42]")


def test_an_exit_is_told_and_a_fresh_shell_is_a_click_away(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=ended&shell=/bin/sh")
    run(page, "echo la''st; exit")
    expect(page.locator("#status")).to_have_text("exited")
    shown(page, "last")

    page.click("#reconnect")

    connected(page)
    run(page, "echo fre''sh")
    shown(page, "fresh")


def test_search_copy_and_the_two_themes(server: Server, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, server.url + "/terminal?sessionId=tools&shell=/bin/sh")
    run(page, "seq 1 300; echo need''le")
    shown(page, "needle")

    page.fill("#needle", "needle")
    page.press("#needle", "Enter")
    until(lambda: page.evaluate("window.sandkeeperTerminal.getSelection()") == "needle")
    page.click("#copy")
    until(lambda: page.evaluate("navigator.clipboard.readText()") == "needle")

    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_view_only_page_does_not_type(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=seen&shell=/bin/sh&readOnly=true")
    run(page, "echo for''bidden")
    typed = server.client.post("/terminals/seen/input", content=b"echo allo''wed\r")

    assert typed.status_code == 200, typed.text
    assert "forbidden" not in shown(page, "allowed")


def test_a_token_in_the_pages_address_opens_the_socket_too(make_server: Any, page: Page) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    opened(page, own.url + "/terminal?token=s3cret&shell=/bin/sh")
    run(page, "echo in''side")
    shown(page, "inside")


class _Gateway(BaseHTTPRequestHandler):
    """Serves the page under a prefix and notes which path its socket asks for."""

    target = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        told = {name: text for name, text in self.headers.items() if name.startswith("Sec-Fetch-")}
        reply = httpx.get(self.target + self.path.removeprefix("/some/prefix"), headers=told)
        self.send_response(reply.status_code)
        self.send_header("Content-Type", reply.headers["content-type"])
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, *_args: object) -> None:
        pass


def test_behind_a_path_prefix_the_socket_keeps_it(server: Server, page: Page) -> None:
    _Gateway.target = server.url
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gateway) as gateway:
        thread = threading.Thread(target=gateway.serve_forever)
        thread.start()
        opened(page, f"http://127.0.0.1:{gateway.server_port}/some/prefix/terminal?sessionId=p")
        until(lambda: any("/ws?" in path for path in _Gateway.asked))
        page.goto("about:blank")
        gateway.shutdown()
        thread.join()

    paths = {path.partition("?")[0] for path in _Gateway.asked}
    assert paths <= {"/some/prefix/terminal", "/some/prefix/terminal/ws"}
