"""Pages of other origins in a real browser: all that they try, and what of it takes effect.

Each attack is tried on a server that lets every page in as well: there it must succeed, or the
attempt proves nothing.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.api.conftest import launch
from tests.harness import Server, free_port, until
from tests.node_client import SCRIPTS as NODE

pytestmark = pytest.mark.timeout(180)
PUBLIC, REBOUND = free_port(), "evil.example"
WIRED = "--ip-address-space-overrides=127.0.0.1:{}=public"
UNCHECKED = "--disable-features=LocalNetworkAccessChecks"
RESOLVER = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP *.evil.example 127.0.0.1"

# Each gets the target's address and a command; what it returns is what the page learned.
SCRIPTS = {
    "fetch": "(t, c) => fetch(t + '/process', {method: 'POST', body: c}).then(r => r.text())",
    "no-cors": "(t, c) => fetch(t + '/process', {method: 'POST', mode: 'no-cors', body: c})",
    "cookies": "(t, c) => fetch(t + '/process',"
    " {method: 'POST', mode: 'no-cors', credentials: 'include', body: c})",
    "put": "(t, c) => fetch(t + '/filesystem/' + encodeURIComponent(JSON.parse(c).file),"
    " {method: 'PUT', headers: {'Content-Type': 'application/json'}, body: '{\"content\":\"x\"}'})",
    "mcp": "(t, c) => fetch(t + '/mcp', {method: 'POST', headers:"
    " {'Content-Type': 'application/json', Accept: 'application/json, text/event-stream'},"
    " body: JSON.stringify({jsonrpc: '2.0', id: 1, method: 'tools/call', params: {name:"
    " 'processExecute', arguments: {command: JSON.parse(c).command}}})}).then(r => r.text())",
    "beacon": "(t, c) => { navigator.sendBeacon(t + '/process', c); }",
    "socket": "(t, c) => new Promise((done) => {"
    " const s = new WebSocket(t.replace('http', 'ws') + '/terminal/ws?sessionId=' + Math.random());"
    " s.onopen = () => s.send(JSON.stringify({type: 'input',"
    " data: JSON.parse(c).command + '; exit\\r'})); s.onclose = s.onerror = () => done(); })",
}
FORM = """(t, c) => {
    const form = document.createElement('form');
    form.method = 'POST'; form.enctype = ENCTYPE; form.action = t + '/process';
    const field = document.createElement('input');
    field.name = c.slice(0, -1) + ',"x":"'; field.value = '"}';
    form.append(field); document.body.append(form);
    TARGET
    form.submit();
}"""
FRAME = "const f = document.createElement('iframe'); f.name = 'f'; document.body.append(f);"
READS = {
    "fetch": "(t) => fetch(t + PATH).then(r => r.text())",
    "event stream": "(t) => new Promise((done) => { const e = new EventSource(t + PATH);"
    " e.onmessage = (m) => { e.close(); done(m.data); }; e.onerror = () => done(''); })",
}


class _Foreign(BaseHTTPRequestHandler):
    """Serves an empty page under any name, and counts who came here through `/port`."""

    def do_GET(self) -> None:
        if self.path.startswith("/hit"):
            self.server.hits.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>foreign</title><link rel=icon href=data:,><body>")

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def foreign() -> Iterator[Any]:
    """A server of foreign pages."""
    with ThreadingHTTPServer(("127.0.0.1", PUBLIC), _Foreign) as serving:
        serving.hits = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromiums(playwright: Any) -> Iterator[tuple[Any, Any]]:
    """Two browsers: one that checks access to the local network, and one that does not."""
    running = [launch(playwright, RESOLVER, more) for more in (WIRED.format(PUBLIC), UNCHECKED)]
    yield running[0], running[1]
    for one in running:
        one.close()


@pytest.fixture
def page(chromiums: tuple[Any, Any]) -> Iterator[Page]:
    """A page in the browser that lets public pages ask the local network."""
    context = chromiums[1].new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def lax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that every page may use."""
    env = {"SANDKEEPER_CORS_ORIGINS": "*"}
    with Server(tmp_path_factory.mktemp("lax"), env=env) as running:
        yield running


class Attempt:
    """One attack: the command that it would run, and whether it did."""

    def __init__(self, server: Server, page: Page, folder: Path) -> None:
        self.server = server
        self.page = page
        self.file = folder / f"made{len(list(folder.iterdir()))}"
        self.file.with_suffix(".tried").touch()
        self.command = json.dumps({"command": f"echo x > {self.file}", "file": str(self.file)})
        self.target = f"http://localhost:{server.port}"

    def run(self, script: str) -> Any:
        """Run a script in the page; a refusal that the page sees is one."""
        call = f"([t, c]) => Promise.resolve(({script})(t, c)).catch(String)"
        return self.page.evaluate(call, [self.target, self.command])

    def worked(self) -> bool:
        """Say whether it took effect, when whatever the server was asked is answered."""
        mark = f"after-{self.file.name}"
        self.page.wait_for_timeout(50)  # a beacon is sent when nobody waits for it
        self.server.run(f"echo {mark}")
        return self.file.exists()


def attempt(server: Server, page: Page, folder: Path, script: str) -> bool:
    made = Attempt(server, page, folder)
    made.run(script)
    return made.worked()


def form(enctype: str, target: str) -> str:
    to = {"top": "", "blank": "form.target = '_blank';", "frame": FRAME + "form.target = 'f';"}
    return FORM.replace("ENCTYPE", repr(enctype)).replace("TARGET", to[target])


MODULES = {
    "@blaxel/core": "@blaxel/core/dist/esm-browser/index.js",
    "@hey-api/client-fetch": "@hey-api/client-fetch/dist/index.js",
    "jwt-decode": "jwt-decode/build/esm/index.js",
    "smol-toml": "smol-toml/dist/index.js",
    "uuid": "uuid/dist/esm-browser/index.js",
    "yaml": "yaml/browser/index.js",
    "zod": "zod/index.js",
}
ABSENT = {
    "@modelcontextprotocol/sdk/client/index.js": "export class Client {}",
    "@modelcontextprotocol/sdk/client/streamableHttp.js": "export class"
    " StreamableHTTPClientTransport {}",
    "@modelcontextprotocol/sdk/types.js": "export const JSONRPCMessageSchema = {};",
    "ws": "export default WebSocket; export class WebSocketServer {}",
}
"""What the client's build for browsers wants of other packages, for an import map; its part for MCP
is not used here."""

ORIGINS = {
    "cross-site": f"http://127.0.0.1:{PUBLIC}/",
    "another port of the host": f"http://localhost:{PUBLIC}/",
    "a name below": f"http://a.localhost:{PUBLIC}/",
    "a named site": f"http://www.{REBOUND}:{PUBLIC}/",
}


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("origin", ORIGINS)
def test_scripts_of_other_origins_change_nothing(
    server: Server, lax: Server, page: Page, tmp_path: Path, origin: str
) -> None:
    for name, script in SCRIPTS.items():
        page.goto(ORIGINS[origin])
        assert not attempt(server, page, tmp_path, script), name
        made = Attempt(lax, page, tmp_path)
        made.run(script)
        until(made.file.exists)
    assert server.client.get("/terminals").json() == []


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("target", ["top", "frame", "blank"])
def test_forms_of_other_origins_change_nothing(
    server: Server, lax: Server, page: Page, tmp_path: Path, target: str
) -> None:
    asked = f"http://localhost:{server.port}/process"
    for enctype in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        for origin in ("cross-site", "another port of the host"):
            page.goto(ORIGINS[origin])
            with page.context.expect_event("response", lambda reply: reply.url == asked) as reply:
                made = Attempt(server, page, tmp_path)
                made.run(form(enctype, target))
            assert reply.value.status == 403
            if target == "top":
                page.wait_for_url(asked)
            assert not made.worked()
    page.goto(ORIGINS["cross-site"])
    made = Attempt(lax, page, tmp_path)
    made.run(form("text/plain", target))
    until(made.file.exists)


@pytest.mark.usefixtures("foreign")
def test_pages_without_an_origin_change_nothing(
    server: Server, lax: Server, page: Page, tmp_path: Path
) -> None:
    """A sandboxed frame and a `data:` address have the origin `null`."""
    frame = """(t, c) => new Promise((done) => {
        const f = document.createElement('iframe');
        const text = '<script>fetch(' + JSON.stringify(t + '/process') + ', {method: "POST",' +
            ' mode: "no-cors", body: ' + JSON.stringify(c) + '}).catch(String)' +
            '.then(() => parent.postMessage("done", "*"))</' + 'script>';
        KIND
        onmessage = () => done();
        document.body.append(f);
    })"""
    kinds = (
        "f.sandbox = 'allow-scripts'; f.srcdoc = text;",
        "f.src = 'data:text/html,' + encodeURIComponent(text);",
    )
    for kind in kinds:
        script = frame.replace("KIND", kind)
        page.goto(ORIGINS["cross-site"])
        assert not attempt(server, page, tmp_path, script)
        made = Attempt(lax, page, tmp_path)
        made.run(script)
        until(made.file.exists)


@pytest.mark.parametrize("origin", ORIGINS)
def test_other_origins_read_nothing_and_reach_no_port(
    server: Server, lax: Server, page: Page, foreign: Any, origin: str
) -> None:
    (server.workdir / "secret").write_text("s3cret")
    (lax.workdir / "secret").write_text("s3cret")
    done = [one.run("echo s3cret", name="said")["name"] for one in (server, lax)]
    assert done == ["said"] * 2
    paths = {"fetch": "/filesystem/secret", "event stream": "/process/said/events?s3cret"}
    foreign.hits.clear()
    for kind, script in READS.items():
        if kind == "event stream":
            script = script.replace("t + PATH", "t + '/process/said/events'")
            script = script.replace("e.onmessage", "e.addEventListener('output', (m) => {"
                " e.close(); done(m.data); }); e.onmessage")  # fmt: skip
        script = script.replace("PATH", repr(paths[kind]))
        page.goto(ORIGINS[origin])
        call = f"(t) => Promise.resolve(({script})(t)).catch(String)"
        assert "s3cret" not in str(page.evaluate(call, f"http://localhost:{server.port}")), kind
        assert "s3cret" in str(page.evaluate(call, f"http://localhost:{lax.port}")), kind
    image = """(address) => new Promise((done) => {
        const i = new Image(); i.onload = i.onerror = done; i.src = address;
        document.body.append(i);
    }).then(() => 0)"""
    page.evaluate(image, f"http://localhost:{server.port}/port/{PUBLIC}/hit")
    assert foreign.hits == []
    page.evaluate(image, f"http://localhost:{lax.port}/port/{PUBLIC}/hit")
    assert foreign.hits == ["/hit"]


@pytest.mark.usefixtures("foreign")
def test_an_address_with_a_program_starts_it_by_a_click_only(
    server: Server, page: Page, tmp_path: Path
) -> None:
    made = tmp_path / "ran"
    program = tmp_path / "evil.sh"
    program.write_text(f"#!/bin/sh\necho x > {made}\nexec cat\n")
    program.chmod(0o755)
    address = f"http://localhost:{server.port}/terminal?sessionId=led&shell={program}"
    page.goto(ORIGINS["cross-site"])
    page.evaluate("(to) => { location.href = to; }", address)
    button = page.locator("#start")
    expect(button).to_have_text(f"Start {program}")
    expect(page.locator("#what")).to_contain_text(str(program))
    expect(page.locator("#status")).to_have_text("waiting")
    page.evaluate("document.getElementById('start').disabled = false")
    page.evaluate("document.getElementById('start').click()")  # a script's click is none
    assert (made.exists(), server.client.get("/terminals").json()) == (False, [])

    button.click()

    expect(page.locator("#status")).to_have_text("connected")
    until(made.exists)


@pytest.mark.usefixtures("foreign")
def test_no_shell_is_started_by_a_link_or_in_a_frame(server: Server, page: Page) -> None:
    before = server.client.get("/terminals").json()
    address = f"http://localhost:{server.port}/terminal?sessionId=led2"
    for origin in ORIGINS.values():
        page.goto(origin)
        with page.expect_response(address) as reply:
            page.evaluate(
                "(to) => { const f = document.createElement('iframe'); f.src = to;"
                " document.body.append(f); }",
                address,
            )
        assert reply.value.status == 403
        page.evaluate("(to) => { location.href = to; }", address)
        expect(page.locator("#start")).to_have_text("Connect")
        expect(page.locator("#status")).to_have_text("waiting")
    assert server.client.get("/terminals").json() == before

    page.locator("#start").click()
    expect(page.locator("#status")).to_have_text("connected")
    page.goto("about:blank")
    page.goto(address)  # typed by a person, or so it seems: a redirect would look the same
    expect(page.locator("#status")).to_have_text("waiting")
    page.goto(f"http://localhost:{server.port}/terminal")  # this one names nothing
    expect(page.locator("#status")).to_have_text("connected")


def test_a_name_that_was_made_to_lead_here_opens_nothing(
    server: Server, lax: Server, page: Page, tmp_path: Path
) -> None:
    """DNS rebinding: the page is ours for the browser, name, port and all."""
    for one, may in ((server, False), (lax, True)):
        home = f"http://{REBOUND}:{one.port}"
        page.route(
            home + "/start", lambda route: route.fulfill(body="<body>", content_type="text/html")
        )
        for name, script in {**SCRIPTS, "form": form("text/plain", "frame")}.items():
            page.goto(home + "/start")
            made = Attempt(one, page, tmp_path)
            made.target = home
            made.run(script)
            if may:
                until(made.file.exists)
            else:
                assert not made.worked(), name
        page.goto(home + "/start")
        read = page.evaluate("(t) => fetch(t + '/filesystem/etc').then(r => r.status)", home)
        assert (read == 403) is not may
    assert "SANDKEEPER_HOSTS" in page.goto(f"http://{REBOUND}:{server.port}/terminal").text()


@pytest.mark.usefixtures("foreign")
def test_with_a_token_in_a_cookie_pages_of_other_ports_stay_outside(
    make_server: Any, page: Page, tmp_path: Path
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    own.client.headers["Authorization"] = "Bearer s3cret"
    site = f"http://localhost:{own.port}"
    page.context.add_cookies(
        [{"name": "sandkeeper_token", "value": "s3cret", "url": site, "httpOnly": True}]
    )
    for script in (*SCRIPTS.values(), form("text/plain", "frame"), form("text/plain", "blank")):
        page.goto(ORIGINS["another port of the host"])
        assert not attempt(own, page, tmp_path, script)

    page.goto(site + "/swagger/index.html")
    made = Attempt(own, page, tmp_path)
    made.run(SCRIPTS["cookies"])
    until(made.file.exists)


@pytest.mark.usefixtures("foreign")
def test_local_network_access_or_not_a_public_page_runs_nothing(
    server: Server, chromiums: tuple[Any, Any], tmp_path: Path
) -> None:
    """The browser's own check stops all but the form at the top; ours stops all."""
    context = chromiums[0].new_context()
    try:
        page = context.new_page()
        forms = [form("text/plain", target) for target in ("frame", "blank", "top")]
        for script in (*SCRIPTS.values(), *forms):
            page.goto(ORIGINS["cross-site"])
            made = Attempt(server, page, tmp_path)
            page.evaluate(
                f"([t, c]) => {{ Promise.resolve(({script})(t, c)).catch(String); }}",
                [made.target, made.command],
            )
            if script == forms[-1]:
                page.wait_for_url(made.target + "/process")
                page.goto("about:blank")
            assert not made.worked()
    finally:
        context.close()


@pytest.mark.usefixtures("foreign")
def test_a_page_of_a_listed_origin_uses_it_as_its_own(
    make_server: Any, page: Page, tmp_path: Path
) -> None:
    home = ORIGINS["cross-site"].rstrip("/")
    own: Server = make_server(env={"SANDKEEPER_CORS_ORIGINS": home})
    for name, script in SCRIPTS.items():
        page.goto(home)
        made = Attempt(own, page, tmp_path)
        made.run(script)
        assert until(made.file.exists), name
    # What the published client sends, by preflight, and what it reads.
    call = """async (t) => {
        const headers = {'Content-Type': 'application/json', 'X-Blaxel-Authorization': 'Bearer x',
            'X-Blaxel-Workspace': 'w', 'Blaxel-Version': '2026-01-01', 'Authorization': 'Bearer x'};
        const made = await fetch(t + '/process', {method: 'POST', headers, body:
            JSON.stringify({command: 'echo seen', waitForCompletion: true})});
        const file = await fetch(t + '/filesystem/a', {method: 'PUT', headers, body:
            JSON.stringify({content: 'abc'})});
        return [(await made.json()).stdout, file.status, file.headers.get('x-request-id') !== null];
    }"""
    assert page.evaluate(call, f"http://localhost:{own.port}") == ["seen\n", 200, True]
    page.goto(f"http://127.0.0.1:{PUBLIC}/".replace("127.0.0.1", "localhost"))
    assert not attempt(own, page, tmp_path, SCRIPTS["no-cors"])


@pytest.mark.usefixtures("foreign")
def test_the_published_client_works_in_a_page_of_a_listed_origin(
    make_server: Any, page: Page
) -> None:
    subprocess.run([NODE.parents[2] / "scripts" / "npm", NODE], check=True, timeout=300)
    home = ORIGINS["cross-site"].rstrip("/")
    own: Server = make_server(env={"SANDKEEPER_CORS_ORIGINS": home})

    def serve(route: Any) -> None:
        name = route.request.url.removeprefix(home + "/modules/")
        file = NODE / "node_modules" / name
        file = file if file.is_file() else file.with_name(file.name + ".js")
        route.fulfill(path=file, content_type="text/javascript")

    page.route(home + "/modules/**", serve)
    imports = {name: f"{home}/modules/{path}" for name, path in MODULES.items()}
    imports |= {name: f"data:text/javascript,{text}" for name, text in ABSENT.items()}
    page.route(
        home + "/app",
        lambda route: route.fulfill(
            body=f"<script type=importmap>{json.dumps({'imports': imports})}</script><body>",
            content_type="text/html",
        ),
    )
    page.goto(home + "/app")
    seen = page.evaluate(
        """async (url) => {
            const { SandboxInstance } = await import('@blaxel/core');
            const box = new SandboxInstance({metadata: {name: 'local'}, spec: {}, forceUrl: url,
                headers: {'X-Blaxel-Preview-Token': 'x'}});
            const lines = [];
            const done = await box.process.exec({command: 'echo out; exit 3',
                waitForCompletion: true, onLog: (text) => lines.push(text)});
            await box.fs.write('from-a-page', 'abc');
            const read = await box.fs.read('from-a-page');
            const listed = (await box.process.list()).length;
            return [done.exitCode, lines.join('').trim(), read, listed];
        }""",
        f"http://localhost:{own.port}",
    )
    assert seen == [3, "out", "abc", 1]
