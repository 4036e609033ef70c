"""The console: its shell, its session, and what happens when the server goes and comes back."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.api.console.pages import (
    describe_little,
    fits,
    in_both_themes,
    open_console,
    serious,
)
from tests.api.port.listener import Echo
from tests.harness import Server, until

TOKEN = "s3cret-of-the-test"
MINE = ("overview", "processes", "api")


def settled(page: Page) -> None:
    """Wait until what the page asks for first is shown."""
    expect(page.locator(".loading")).to_have_count(0)
    expect(page.locator("main h1").first).to_be_visible()


def test_pages_have_no_serious_fault_in_either_theme_and_fit_a_phone(
    server: Server, page: Page
) -> None:
    server.run("echo shown; exit 3")
    describe_little(page, server)  # all operations look like those of one area
    for name in MINE:
        page.set_viewport_size({"width": 1280, "height": 800})
        open_console(page, server, f"#/{name}")
        settled(page)
        if name == "api":
            expect(page.locator(".opblock").first).to_be_visible()
        assert in_both_themes(page) == [], name
        page.set_viewport_size({"width": 360, "height": 740})
        until(lambda: fits(page))


def test_everything_can_be_reached_by_keyboard(server: Server, own_page: Page) -> None:
    page = own_page  # in which nothing has the focus yet
    describe_little(page, server)
    open_console(page, server)
    settled(page)
    for keys, title in (("gp", "Processes"), ("ga", "API"), ("go", "Overview")):

        def has_led(keys: str = keys, title: str = title) -> bool:
            page.keyboard.type(keys)  # again: the first key is forgotten after 1.5 s
            return page.locator("main h1").first.inner_text() == title

        until(has_led, every=0.5)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Go to Processes")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#page")).to_be_focused()

    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.goto(f"{server.url}/console/#/nowhere")
    page.get_by_role("button", name="Go to the overview").click()
    expect(page.locator("main h1")).to_have_text("Overview")


def test_the_overview_shows_figures_that_were_taken_before_it_was_opened(
    server: Server, page: Page
) -> None:
    until(lambda: len(server.client.get("/diagnostics/history").json()["times"]) >= 2)
    open_console(page, server, "#/overview")
    settled(page)

    for name in ("CPU", "Memory", "Disk", "Processes", "Terminals", "Ports", "Drives"):
        expect(page.get_by_role("region", name=name, exact=True).locator("canvas")).to_be_visible()
    for name in ("Output of processes", "Loop delay", "Lag of readers"):
        expect(page.get_by_role("region", name=name).locator("canvas")).to_be_visible()
    reader = server.client.post("/process", json={"command": "echo read; exec sleep 600"}).json()
    with server.client.stream("GET", f"/process/{reader['id']}/logs/stream"):
        expect(page.get_by_role("table", name="Cursors")).to_contain_text("logs")
    history = server.client.get("/diagnostics/history").json()
    last = history["times"][-1]
    later = server.client.get(f"/diagnostics/history?since={last}").json()["times"]
    assert all(time > last for time in later)  # there may be one: every five seconds
    assert all(len(values) == len(history["times"]) for values in history["figures"].values())
    assert history["figures"]["memoryUsedBytes"][-1] > 0
    assert server.client.get("/diagnostics/history?since=x").status_code == 400


def test_every_route_is_described_and_can_be_tried(server: Server, own_page: Page) -> None:
    page = own_page  # which has got no smaller description
    open_console(page, server, "#/api")
    settled(page)
    paths = server.client.get("/openapi.json").json()["paths"]
    expect(page.locator(".opblock").first).to_be_visible()
    operations = sum(len(set(item) - {"parameters"}) for item in paths.values())
    expect(page.locator(".opblock")).to_have_count(operations)

    health = page.locator("#operations-system-health")
    health.locator(".opblock-summary-control").click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()

    answer = health.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_contain_text("200")
    start = page.locator(".opblock-post").filter(has=page.locator('[data-path="/process"]'))
    start.locator(".opblock-summary-control").click()
    start.get_by_role("button", name="Try it out").click()
    example = json.loads(start.locator("textarea").first.input_value())
    assert {"command", "env", "limits"} <= set(example)
    assert server.client.get("/swagger", follow_redirects=True).status_code == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    env = {"SANDKEEPER_TOKEN": "user-token", "SANDKEEPER_ADMIN_TOKEN": TOKEN}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


def test_a_token_becomes_a_session_of_which_no_script_can_read_the_cookie(
    guarded: Server, browser: Any
) -> None:
    page = browser.new_page()  # of a 401 the JavaScript console tells, as of any
    page.goto(f"{guarded.url}/console/#/processes")
    field = page.get_by_label("Token")
    assert serious(page) == []
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("alert").last).to_contain_text("does not accept")

    field.fill(TOKEN)
    field.press("Enter")
    expect(page.locator("main h1")).to_have_text("Processes")
    expect(page.get_by_text("No processes yet")).to_be_visible()

    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    kept = page.evaluate("[document.cookie, JSON.stringify(localStorage), location.href]")
    assert kept[0] == ""
    assert TOKEN not in json.dumps([cookie, kept])
    page.reload()
    expect(page.locator("main h1")).to_have_text("Processes")
    half = page.evaluate("localStorage.getItem('sandkeeper.session /')")
    socket = "(names) => new Promise((done) => { const one = new WebSocket("
    socket += "'ws' + location.origin.slice(4) + '/terminal/ws?shell=/bin/sh', names);"
    socket += " one.onopen = () => { one.close(); done('open'); };"
    socket += " one.onerror = () => done('refused'); })"
    assert page.evaluate(socket, [f"sandkeeper.session.{half}"]) == "open"
    assert page.evaluate(socket, []) == "refused"

    shown = {"Cookie": f"{cookie['name']}={cookie['value']}", "Sec-Fetch-Site": "same-origin"}
    assert guarded.client.get("/process", headers=shown).status_code == 200
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.context.cookies() == []
    assert guarded.client.get("/process", headers=shown).status_code == 401
    guarded.restart()
    assert guarded.client.get("/process", headers=shown).status_code == 401
    page.close()


def signed_in(server: Server, token: str) -> tuple[str, dict[str, Any]]:
    reply = server.client.post("/console-session", json={"token": token})
    assert reply.status_code == 200, reply.text
    server.client.cookies.clear()  # each request says which one it shows
    return reply.headers["set-cookie"].partition(";")[0], reply.json()


def test_a_session_has_the_right_of_its_token_and_serves_our_own_pages_only(
    make_server: Any,
) -> None:
    env = {"SANDKEEPER_TOKEN": "user-token", "SANDKEEPER_ADMIN_TOKEN": TOKEN}
    own: Server = make_server(env={**env, "SANDKEEPER_CORS_ORIGINS": "*"})
    user, told = signed_in(own, "user-token")
    operator, operators = signed_in(own, TOKEN)
    page = {"X_Sandkeeper_Session": operators["page"]}
    assert (told["right"], told["signedIn"], told["tokenNeeded"]) == ("user", True, True)
    bare = own.client.get("/console-session").json()
    assert bare == {"signedIn": False, "session": False, "tokenNeeded": True, "right": "none"}

    def asked(method: str, path: str, cookie: str, **headers: str) -> int:
        fields = {"Cookie": cookie, **{name.replace("_", "-"): v for name, v in headers.items()}}
        return own.client.request(method, path, headers=fields).status_code

    ours = {"Sec_Fetch_Site": "same-origin"}
    assert asked("GET", "/process", user, **ours) == 200
    assert asked("GET", "/archive/status", user, **ours) == 403
    assert asked("GET", "/archive/status", operator, **ours, **page) == 200
    assert asked("GET", "/process", user) == 200  # over http to a name browsers say no more
    assert asked("DELETE", "/process/x", operator, **page) == 401
    assert asked("DELETE", "/process/x", operator, Origin=own.url, **page) == 404
    # Another port of this host gets the cookie from the browser, and whoever listens there may
    # show it: without the page's half it reads as any user does, and nothing else.
    assert asked("GET", "/archive/status", operator, **ours) == 403
    assert asked("DELETE", "/process/x", operator, Origin=own.url) == 401
    tcp = {"Connection": "Upgrade", "Upgrade": "tcp"}
    assert asked("GET", "/network/ports/0/tcp", operator, **ours, **tcp) == 401
    assert asked("GET", "/network/ports/0/tcp", operator, **ours, **tcp, **page) == 400
    half = {"X_Sandkeeper_Session": told["page"]}
    assert asked("DELETE", "/process/x", operator, Origin=own.url, **half) == 401
    assert asked("DELETE", "/process/x", "", Origin=own.url, **page) == 401
    cookie = {"Cookie": operator, "Sec-Fetch-Site": "same-origin"}
    looked = own.client.get("/console-session", headers=cookie)
    assert looked.json() == bare
    assert "set-cookie" not in looked.headers
    other = "http://127.0.0.1:1"
    assert asked("GET", "/process", operator, Origin=other, Sec_Fetch_Site="same-site") == 401
    assert asked("DELETE", "/process/x", operator, Origin=other, Sec_Fetch_Site="same-site") == 401
    assert asked("GET", "/process", operator.replace("2.", "1.", 1), **ours) == 401
    assert asked("GET", "/process", user.replace("1.", "2.", 1), **ours) == 401

    for _ in range(10):
        reply = own.client.post("/console-session", json={"token": "guess"})
        assert reply.status_code == 401
    late = own.client.post("/console-session", json={"token": "guess"})
    assert (late.status_code, 0 < int(late.headers["retry-after"]) <= 60) == (429, True)
    # Whoever knows it is let in, though somebody at the same address does not.
    assert own.client.post("/console-session", json={"token": TOKEN}).status_code == 200


def test_tokens_that_are_tried_at_once_count_as_those_one_after_the_other(
    make_server: Any,
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": TOKEN})
    head = b"POST /console-session HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    guess = b'{"token":"guess"}'
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(guess)
    clients = [socket.create_connection(("127.0.0.1", own.port)) for _ in range(15)]
    for client in clients:
        client.sendall(head + guess[:-1])
    own.client.get("/health")  # all of them have been looked at
    for client in clients:
        client.sendall(guess[-1:])
    answers = sorted(client.makefile("rb").readline().split()[1] for client in clients)
    for client in clients:
        client.close()

    assert answers == [b"401"] * 10 + [b"429"] * 5


def test_sessions_that_end_at_once_are_all_over_and_stay_so(make_server: Any) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": TOKEN})
    made = [signed_in(own, TOKEN) for _ in range(20)]
    whole = [
        {"Cookie": cookie, "X-Sandkeeper-Session": told["page"], "Sec-Fetch-Site": "same-origin"}
        for cookie, told in made
    ]

    def sign_out(fields: dict[str, str]) -> int:
        return own.client.delete("/console-session", headers=fields).status_code

    def asks(fields: dict[str, str]) -> int:
        return own.client.get("/process", headers=fields).status_code

    assert {asks(fields) for fields in whole} == {200}
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(sign_out, whole)) == {200}
    assert {asks(fields) for fields in whole} == {401}
    own.restart()
    assert {asks(fields) for fields in whole} == {401}


def test_a_session_opens_ports_and_never_reaches_them(guarded: Server) -> None:
    cookie, told = signed_in(guarded, "user-token")
    echo = Echo()
    try:
        both = {"Cookie": f"a=1; {cookie}; b=2", "Sec-Fetch-Site": "same-origin"}
        both["X-Sandkeeper-Session"] = told["page"]
        both["Sec-WebSocket-Protocol"] = f"chat, sandkeeper.session.{told['page']},x"
        reply = guarded.client.get(f"/port/{echo.port}/x", headers=both)
        shut = guarded.client.get(f"/port/{echo.port}/x", headers={"Cookie": "a=1"})
    finally:
        echo.close()

    assert (reply.status_code, shut.status_code) == (200, 401)
    (head,) = echo.heads
    assert b"cookie: a=1; b=2\r\n" in head.lower()
    assert b"sec-websocket-protocol: chat, x\r\n" in head.lower()
    assert b"sandkeeper_session" not in head
    assert told["page"].encode() not in head


class _Gateway(BaseHTTPRequestHandler):
    """Serves the server under a prefix that it does not tell it of, cookies and bodies included."""

    client: httpx.Client

    def _pass(self) -> None:
        path = self.path.removeprefix("/some/prefix")
        if path == self.path:
            self.send_error(404)
            return
        names = (
            "Cookie",
            "X-Sandkeeper-Session",
            "Content-Type",
            "Accept",
            "Sec-Fetch-Site",
            "Sec-Fetch-Mode",
        )
        fields = {name: self.headers[name] for name in names if name in self.headers}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.client.request(self.command, path, headers=fields, content=body)
        self.send_response(reply.status_code)
        for name in ("content-type", "set-cookie", "location", "content-security-policy"):
            if name in reply.headers:
                self.send_header(name, reply.headers[name])
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_POST = do_DELETE = do_PUT = _pass

    def log_message(self, *_args: object) -> None:
        pass


def test_behind_a_path_prefix_everything_stays_below_it(guarded: Server, browser: Any) -> None:
    _Gateway.client = httpx.Client(base_url=guarded.url, trust_env=False, timeout=60)
    asked: list[str] = []
    page = browser.new_page()
    describe_little(page, guarded)
    page.on("request", lambda one: asked.append(one.url))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gateway) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, args=(0.02,))
        thread.start()
        base = f"http://127.0.0.1:{gateway.server_port}/some/prefix/"
        page.goto(base + "console")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        expect(page.locator("main h1")).to_have_text("Overview")
        page.get_by_role("link", name="API").click()
        expect(page.locator(".opblock").first).to_be_visible()
        (cookie,) = page.context.cookies()
        page.close()
        gateway.shutdown()
        thread.join()
    _Gateway.client.close()

    assert cookie["path"] == "/some/prefix"
    assert all(one.startswith(base) for one in asked if not one.startswith("data:"))


def test_a_server_that_was_killed_is_waited_for_and_the_page_goes_on(
    make_server: Any, page: Page
) -> None:
    own: Server = make_server()
    go = own.workdir / "go"
    command = f"echo before; until [ -e {go} ]; do sleep 0.1; done; echo after; exec sleep 600"
    own.client.post("/process", json={"command": command, "name": "lives"})
    open_console(page, own, "#/processes/lives")
    expect(page.get_by_role("log")).to_contain_text("before")

    own.kill9()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")
    assert serious(page) == []
    go.touch()
    own.start()
    expect(page.locator(".banner")).to_have_count(0)
    expect(page.get_by_role("log")).to_contain_text("after")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("region", name="CPU", exact=True).locator("canvas")).to_be_visible()


def test_a_sandbox_that_sleeps_is_told_from_one_that_answers(make_server: Any, page: Page) -> None:
    own: Server = make_server()
    open_console(page, own, "#/overview")
    os.kill(own.pid, signal.SIGSTOP)
    try:
        expect(page.get_by_role("alert").first).to_contain_text("does not answer")
    finally:
        os.kill(own.pid, signal.SIGCONT)
    expect(page.locator(".banner")).to_have_count(0)


def test_a_console_that_stays_open_keeps_nothing_of_the_pages_it_has_shown(
    server: Server, own_page: Page
) -> None:
    page = own_page  # nothing of what others did in it is given back meanwhile
    identifier = server.client.post("/process", json={"command": "seq 2000; sleep 600"}).json()[
        "id"
    ]
    describe_little(page, server)
    open_console(page, server)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")

    shown = {
        "overview": page.get_by_role("region", name="CPU", exact=True).locator("canvas"),
        "processes": page.get_by_role("table", name="Processes").locator("tbody tr").first,
        f"processes/{identifier}": page.get_by_role("log").get_by_text("2000", exact=True).first,
        "api": page.locator(".opblock").first,
    }

    def around() -> None:
        for place in (*shown, "overview"):
            page.evaluate(f"location.hash = '#/{place}'")
            expect(shown[place]).to_be_visible()
            settled(page)

    def kept() -> dict[str, float]:
        devtools.send("HeapProfiler.collectGarbage")
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in metrics}

    around()
    before = kept()
    around()
    after = kept()

    # The same to the last one, when all is well.
    assert after["JSEventListeners"] < before["JSEventListeners"] + 30
    assert after["Nodes"] < before["Nodes"] + 300
    assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] + 3_000_000


def test_what_is_served_is_what_was_built_and_nothing_else(server: Server) -> None:
    page = server.client.get("/console/", headers={"Sec-Fetch-Site": "same-origin"})
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert page.text.count(policy.partition("'nonce-")[2].partition("'")[0]) == 1
    assert server.client.get("/console/").headers["content-security-policy"] != policy
    asset = page.text.partition('src="./')[2].partition('"')[0]
    script = server.client.get(f"/console/{asset}")
    assert script.headers["content-encoding"] == "gzip"
    assert "immutable" in script.headers["cache-control"]
    redirect = server.client.get("/console")
    assert (redirect.status_code, redirect.headers["location"]) == (301, "console/")
    for path in ("assets/nothing.js", "index.html", "assets/..%2f..%2fterminal.html", "none"):
        assert server.client.get(f"/console/{path}").status_code == 404
    reply = server.client.get("/process", headers={"Origin": "http://evil.example"})
    assert reply.status_code == 403
