"""The terminal page in a real browser: typed at, read, resized, cut off and found again."""

import threading
from base64 import b64encode
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


def test_an_exit_is_told_with_its_code_and_a_fresh_shell_is_a_click_away(
    server: Server, page: Page
) -> None:
    opened(page, server.url + "/terminal?sessionId=ended&shell=/bin/sh")
    run(page, "echo la''st; exit 3")
    expect(page.locator("#status")).to_have_text("exited")
    expect(page.locator("#ending")).to_have_text("with code 3")
    expect(page.locator("#reconnect")).to_have_text("New shell")
    shown(page, "last")

    page.click("#reconnect")

    connected(page)
    expect(page.locator("#ending")).to_have_text("")
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
    # The page is connected as soon as it is heard, which is before the terminal is there.
    until(lambda: server.client.get("/terminals/seen").status_code == 200)
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
        thread = threading.Thread(target=gateway.serve_forever, args=(0.02,))
        thread.start()
        page.goto(f"http://127.0.0.1:{gateway.server_port}/some/prefix/terminal?sessionId=p")
        page.click("#start")
        until(lambda: any("/ws?" in path for path in _Gateway.asked))
        page.goto("about:blank")
        gateway.shutdown()
        thread.join()

    paths = {path.partition("?")[0] for path in _Gateway.asked}
    assert paths <= {"/some/prefix/terminal", "/some/prefix/terminal/ws"}


def test_what_is_typed_while_it_reconnects_reaches_the_shell(make_server: Any, page: Page) -> None:
    own: Server = make_server()
    opened(page, own.url + "/terminal?shell=/bin/sh")
    run(page, "echo read''y")
    shown(page, "ready")

    own.kill9()
    expect(page.locator("#status")).to_have_text("connecting")
    expect(page.locator("#reconnect")).to_have_text("Try now")
    run(page, "echo typed mean''while")
    own.start()

    shown(page, "typed meanwhile")


def test_it_tries_again_for_as_long_as_it_is_open(make_server: Any, page: Page) -> None:
    own: Server = make_server()
    page.clock.install()
    opened(page, own.url + "/terminal?shell=/bin/sh")
    run(page, "echo read''y")
    shown(page, "ready")
    tries = []
    page.on("websocket", lambda one: tries.append(one))

    own.kill9()
    expect(page.locator("#status")).to_have_text("connecting")

    def tried_often() -> bool:
        page.clock.run_for(11_000)
        return len(tries) > 12

    until(tried_often)
    own.start()
    until(lambda: page.clock.run_for(11_000) or "connected" in page.inner_text("#status").split())


def test_a_person_without_the_token_gets_a_field_for_it(make_server: Any, browser: Any) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    page = browser.new_page()  # of a 401 the console tells, as of any
    answer = page.goto(own.url + "/terminal?sessionId=a%22b&shell=/bin/sh")
    assert answer is not None
    assert answer.status == 401

    page.fill("input[name=token]", "wrong")
    page.press("input[name=token]", "Enter")
    expect(page.locator("label")).to_contain_text("not accepted")
    page.fill("input[name=token]", "s3cret")
    page.press("input[name=token]", "Enter")
    started(page)
    run(page, "echo in''side")

    shown(page, "inside")
    assert own.client.get("/terminals/a%22b", params={"token": "s3cret"}).status_code == 200
    page.close()
    assert own.client.get("/terminal").json() == {"error": "missing or wrong token"}


def test_the_last_row_is_whole_whatever_the_height_of_the_window(
    server: Server, page: Page
) -> None:
    opened(page, server.url + "/terminal?sessionId=heights&shell=/bin/sh")
    measure = """() => {
        const rows = document.querySelector(".xterm-screen").getBoundingClientRect();
        return [rows.bottom, rows.right, innerHeight, innerWidth];
    }"""
    for height in range(300, 330, 3):
        page.set_viewport_size({"width": 640 + height % 7, "height": height})
        until(lambda height=height: page.evaluate(measure)[2] == height)

        def fits() -> bool:
            bottom, right, high, wide = page.evaluate(measure)
            return bottom <= high and right <= wide

        until(fits)


def test_an_underscore_is_visible(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=underscores&shell=/bin/sh&readOnly=true")

    def inked(text: str) -> int:
        """Count the pixels of the cells of the first row that are not background."""
        done = "done => window.sandkeeperTerminal.write('\\x1b[?25l\\x1b[2J\\x1b[H' + TEXT, done)"
        page.evaluate(f"() => new Promise({done.replace('TEXT', repr(text))})")
        box = page.locator(".xterm-rows > div").first.bounding_box()
        assert box is not None
        picture = page.screenshot(clip={**box, "width": 160})
        image = f"data:image/png;base64,{b64encode(picture).decode()}"
        return page.evaluate(COUNT, image)

    # What is written is drawn with the next frame.
    until(lambda: inked("") == 0)
    until(lambda: inked("__________") > 50)


COUNT = """async source => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
        const apart = [0, 1, 2].map((n) => Math.abs(data[at + n] - data[n]));
        if (Math.max(...apart) > 90) count += 1;
    }
    return count;
}"""


def test_the_page_counts_clusters_as_the_servers_screen_does(server: Server, page: Page) -> None:
    opened(page, server.url + "/terminal?sessionId=wide&shell=/bin/sh")
    text = "हिन्दी 👨‍👩‍👧 ❤️ 🇩🇪 \u1112\u1161\u11ab e\u0301"
    run(page, f"clear; printf '%s' '{text}'; sleep 100")

    def drawn() -> dict[str, Any] | None:
        seen = server.client.get("/terminals/wide/screen").json()
        return seen if seen["lines"][0] == text else None

    col = until(drawn)["cursor"]["col"]
    until(lambda: page.evaluate(TEXT).startswith(text))
    assert page.evaluate("window.sandkeeperTerminal.buffer.active.cursorX") == col
