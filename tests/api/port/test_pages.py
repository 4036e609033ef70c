"""Pages behind /port in a real browser: what they can do there, and that they are not the API."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.harness import Server, until
from websockets.asyncio.server import serve

TOKEN = "s3cret-of-the-tests"


class Program(BaseHTTPRequestHandler):
    """A program in the sandbox that serves pages; what it was asked is kept."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]
    files: dict[str, tuple[str, bytes, list[tuple[str, str]]]]

    def answer(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        self.seen.append((f"{self.command} {self.path}", dict(self.headers.items())))
        path = urlsplit(self.path).path
        kind, data, fields = self.files.get(path, ("text/plain", b"echo:" + body, []))
        status = 303 if any(name == "Location" for name, _ in fields) else 200
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Site:
    """One such program on a port of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.files: dict[str, tuple[str, bytes, list[tuple[str, str]]]] = {}
        handler = type("Of", (Program,), {"seen": self.seen, "files": self.files})
        ThreadingHTTPServer.request_queue_size = 128
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, path: str, data: str | bytes, kind: str = "text/html", **fields: str) -> None:
        raw = data if isinstance(data, bytes) else data.encode()
        told = [(name.replace("_", "-"), value) for name, value in fields.items()]
        self.files[path] = (kind, raw, told)

    def asked(self, line: str) -> list[dict[str, str]]:
        return [fields for seen, fields in self.seen if seen == line]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["", TOKEN], ids=["no-token", "token"])
def own(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_CORS_ORIGINS": "https://a.example"}
    if request.param:
        env["SANDKEEPER_TOKEN"] = request.param
    with Server(tmp_path_factory.mktemp("pages"), env=env) as running:
        running.url = f"http://localhost:{running.port}"
        yield running


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def address(server: Server, site: Site, path: str) -> str:
    token = server.env.get("SANDKEEPER_TOKEN", "")
    given = f"?%74oken={token}&kept=1" if token else "?kept=1"
    return f"{server.url}/port/{site.port}{path}{given}"


ORDINARY = """<!doctype html><title>ordinary</title><script>done = {}</script>
<link rel=stylesheet href=style.css>
<img src=dot.svg onload="done.img=1" onerror="done.img=0"><script src=classic.js></script>
<script type=module src=module.js></script>
<script>
const text = async (url, options) => (await fetch(url, options)).text();
(async () => {
  done.fetch = await text('data.json');
  const headers = {'Content-Type': 'application/json', 'X-Own': '1'};
  done.post = await text('submit', {method: 'POST', body: 'x'});
  done.json = await text('submit', {method: 'PUT', body: '{}', headers});
  done.include = await text('data.json', {credentials: 'include'});
  const x = new XMLHttpRequest(); x.open('GET', 'data.json');
  done.xhr = await new Promise(r => {
    x.onload = () => r(x.responseText); x.onerror = () => r('!'); x.send() });
  done.events = await new Promise(r => { const e = new EventSource('events');
    e.onmessage = m => { e.close(); r(m.data) }; e.onerror = () => r('!') });
  const font = new FontFace('own', 'url(font.woff2)');
  done.font = await font.load().then(() => 1, e => String(e));
  done.origin = self.origin;
  done.end = 1;
})().catch(e => { done.failure = String(e); done.end = 1 });
</script>"""


def test_an_ordinary_page_works(own: Server, site: Site, tab: Any) -> None:
    site.put("/app/index.html", ORDINARY)
    site.put("/app/style.css", "title { --own: 1 } body { color: rgb(1, 2, 3) }", "text/css")
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>"
    site.put("/app/dot.svg", svg, "image/svg+xml", Cross_Origin_Resource_Policy="same-origin")
    site.put("/app/classic.js", "done.classic = 1", "text/javascript")
    site.put(
        "/app/module.js", "import {one} from './part.js'; done.module = one", "text/javascript"
    )
    site.put("/app/part.js", "export const one = 1", "text/javascript")
    site.put("/app/data.json", '{"a": 1}', "application/json")
    site.put("/app/events", "data: told\n\n", "text/event-stream")

    tab.goto(address(own, site, "/app/index.html"))
    tab.wait_for_function(
        "window.done && done.end && done.img !== undefined && done.module !== undefined"
    )
    done = tab.evaluate("done")

    assert done.pop("font") != 1  # there is none; it was asked for
    assert done == {
        "img": 1,
        "classic": 1,
        "module": 1,
        "fetch": '{"a": 1}',
        "include": '{"a": 1}',
        "post": "echo:x",
        "json": "echo:{}",
        "xhr": '{"a": 1}',
        "events": "told",
        "origin": "null",
        "end": 1,
    }
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    assert site.asked("GET /app/font.woff2")
    assert "kept=1" in tab.url
    assert TOKEN not in tab.url
    (asked,) = site.asked("PUT /app/submit")
    assert asked["origin"] == f"http://localhost:{site.port}"
    assert TOKEN not in json.dumps(site.seen)
    assert "sandkeeper_port" not in json.dumps(site.seen)


@pytest.fixture
def socket_port() -> Iterator[int]:
    """A port that serves a page, and a WebSocket that echoes and tells its Origin."""
    ready: list[Any] = []

    def respond(connection: Any, request: Any) -> Any:
        if request.headers.get("Upgrade"):
            return None
        response = connection.respond(200, SOCKET_PAGE)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html"
        return response

    async def echo(connection: Any) -> None:
        await connection.send(str(connection.request.headers.get("Origin")))
        async for message in connection:
            await connection.send(message)

    async def run() -> None:
        ended = asyncio.Event()
        async with serve(echo, "127.0.0.1", 0, process_request=respond) as running:
            loop = asyncio.get_running_loop()
            ready.extend([running.sockets[0].getsockname()[1], loop, ended])
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    until(lambda: len(ready) == 3)
    yield ready[0]
    ready[1].call_soon_threadsafe(ready[2].set)
    thread.join()


SOCKET_PAGE = """<title>socket</title><script>
told = []
const socket = new WebSocket(new URL('socket', location.href).href.replace('http', 'ws'))
socket.onmessage = m => { told.push(m.data); if (told.length == 1) socket.send('hello') }
socket.onerror = () => told.push('error')
</script>"""


def test_a_pages_websocket_reaches_its_own_server(own: Server, socket_port: int, tab: Any) -> None:
    tab.goto(f"{own.url}/port/{socket_port}/?token={own.env.get('SANDKEEPER_TOKEN', '')}")
    tab.wait_for_function("told.length >= 2 || told.includes('error')")

    assert tab.evaluate("told") == [f"http://localhost:{socket_port}", "hello"]


STEAL = """<!doctype html><title>steal</title><script>
const api = location.origin, token = 'TOKEN', port = PORT, out = {}
const attempt = async (name, what) => {
  try { out[name] = await what() } catch (e) { out[name] = 'refused' } }
const ran = async (url, options) => (await fetch(url, options)).status
const socket = url => new Promise(r => { const s = new WebSocket(url.replace('http', 'ws'))
  s.onmessage = s.onopen = () => r('open'); s.onerror = () => r('refused') })
const image = url => new Promise(r => { const i = new Image()
  i.onload = () => r('seen'); i.onerror = () => r('refused'); i.src = url })
const register = () => navigator.serviceWorker.register('sw.js').then(() => 'registered')
const command = JSON.stringify({command: 'touch PROOF', waitForCompletion: true})
addEventListener('load', async () => {
  out.address = location.href.includes(token)
  await attempt('cookie', async () => document.cookie)
  await attempt('storage', async () => String(localStorage))
  await attempt('worker', register)
  for (const options of [{}, {credentials: 'include'}, {mode: 'no-cors', credentials: 'include'},
      {headers: {'Content-Type': 'application/json'}}, {referrerPolicy: 'unsafe-url'},
      {referrerPolicy: 'no-referrer'}]) {
    const key = JSON.stringify(options), post = {method: 'POST', body: command, ...options}
    await attempt('run ' + key, () => ran(api + '/process', post))
    await attempt('read ' + key, () => ran(api + '/process', options))
    await attempt('other ' + key, () => ran(api + `/port/${port}/secret`, options))
    await attempt('self ' + key, () => ran(api + '/port/SELF/process', post))
    await attempt('up ' + key, () => ran('../../../process', post))
  }
  navigator.sendBeacon(api + '/process', command)
  await attempt('terminal', () => socket(api + '/terminal/ws?shell=sh'))
  await attempt('socket', () => socket(api + `/port/${port}/`))
  await attempt('image', () => image(api + `/port/${port}/secret.svg`))
  const form = 'application/x-www-form-urlencoded'
  for (const enctype of ['text/plain', 'multipart/form-data', form]) {
    const frame = document.createElement('iframe')
    frame.name = 'f' + enctype; document.body.append(frame)
    const sent = document.createElement('form'); sent.method = 'post'; sent.enctype = enctype
    sent.action = api + '/process'; sent.target = frame.name
    const field = document.createElement('input')
    field.name = command.slice(0, -1) + ',"x":"'; field.value = '"}'
    sent.append(field); document.body.append(sent); sent.submit()
    await new Promise(r => { frame.onload = r; setTimeout(r, 3000) })
  }
  out.end = 1; window.out = out
})
</script><body>"""


def test_a_page_gets_nothing_of_the_api_nor_of_another_port(
    own: Server, site: Site, other: Site, tab: Any
) -> None:
    proof = own.workdir / "stolen"
    text = STEAL.replace("TOKEN", TOKEN).replace("PORT", str(other.port))
    site.put("/a/b/steal.html", text.replace("SELF", str(own.port)).replace("PROOF", str(proof)))
    site.put("/a/b/sw.js", "1", "text/javascript", Service_Worker_Allowed="/")
    other.put("/secret", "secret")
    other.put("/secret.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")

    tab.goto(address(own, site, "/a/b/steal.html"))
    tab.wait_for_function("window.out && out.end", timeout=60_000)
    out = tab.evaluate("out")

    assert out.pop("address") is False
    assert out.pop("end") == 1
    # An opaque answer has status 0 whatever it is; that nothing was done shows below.
    # "up" names a path of the page's own server, which has none like it.
    reached = {name: got for name, got in out.items() if got not in ("refused", 0)}
    assert {name for name in reached if not name.startswith("up ")} == set()
    assert not proof.exists()
    assert other.seen == []
    token = own.env.get("SANDKEEPER_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    assert own.client.get("/process", headers=headers).json() == []
    assert TOKEN not in json.dumps(site.seen)


@pytest.mark.parametrize("kind", ["image/svg+xml", "application/xhtml+xml", "text/xml", ""])
def test_whatever_a_browser_shows_as_a_document_is_sandboxed(
    own: Server, site: Site, tab: Any, kind: str
) -> None:
    script = "<script>document.documentElement.setAttribute('told', self.origin)</script>"
    space = {"image/svg+xml": "2000/svg"}.get(kind, "1999/xhtml")
    root = {"image/svg+xml": "svg"}.get(kind, "html")
    site.put("/page", f'<{root} xmlns="http://www.w3.org/{space}">{script}</{root}>', kind)

    tab.goto(address(own, site, "/page"))

    assert tab.evaluate("document.documentElement.getAttribute('told')") == "null"


EVIL = """<!doctype html><title>evil</title><body><script>
const api = 'API', port = PORT, out = {}
const attempt = async (name, what) => {
  try { out[name] = await what() } catch (e) { out[name] = 'refused' } }
const load = (tag, url, more) => new Promise(r => {
  const e = Object.assign(document.createElement(tag), more || {})
  e.onload = () => r('loaded'); e.onerror = () => r('refused')
  e.src = e.href = url; document.body.append(e) })
const socket = url => new Promise(r => { const s = new WebSocket(url.replace('http', 'ws'))
  s.onopen = () => r('open'); s.onerror = () => r('refused') })
addEventListener('load', async () => {
  const url = api + `/port/${port}/secret`
  await attempt('fetch', async () => (await fetch(url)).status)
  const simple = {mode: 'no-cors', credentials: 'include'}
  await attempt('no-cors', async () => (await fetch(url, simple)).status)
  await attempt('post', async () => (await fetch(url, {method: 'POST', ...simple})).status)
  await attempt('img', () => load('img', url + '.svg'))
  await attempt('script', () => load('script', url + '.js'))
  await attempt('style', () => load('link', url + '.css', {rel: 'stylesheet'}))
  await attempt('socket', () => socket(url))
  await attempt('frame', () => load('iframe', url))
  navigator.sendBeacon(url, 'x')
  const boxed = document.createElement('iframe'); boxed.sandbox = 'allow-scripts'
  boxed.srcdoc = `<script>new WebSocket('${url}'.replace('http', 'ws'))
    fetch('${url}', {mode: 'no-cors', credentials: 'include'})
      .finally(() => parent.postMessage('done', '*'))<` + '/script>'
  const answered = new Promise(r => addEventListener('message', r, {once: true}))
  document.body.append(boxed); await answered
  out.end = 1; window.out = out
})
</script>"""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_pages_of_other_sites_reach_no_port(
    own: Server, site: Site, other: Site, tab: Any, host: str
) -> None:
    other.put("/secret", "secret")
    tab.goto(address(own, other, "/secret"))  # there is a cookie for it now, if that takes one
    other.seen.clear()
    site.put("/evil", EVIL.replace("API", own.url).replace("PORT", str(other.port)))

    tab.goto(f"http://{host}:{site.port}/evil")
    tab.wait_for_function("window.out && out.end")
    out = tab.evaluate("out")

    assert {out[name] for name in ("fetch", "img", "script", "style", "socket")} == {"refused"}
    assert other.seen == []


def test_a_link_from_elsewhere_opens_a_page(own: Server, site: Site, other: Site, tab: Any) -> None:
    other.put("/page", "<title>opened</title>")
    tab.goto(address(own, other, "/page"))
    site.put("/links", f"<a href='{own.url}/port/{other.port}/page'>go</a>")

    tab.goto(f"http://127.0.0.1:{site.port}/links")
    tab.click("a")
    tab.wait_for_url("**/page")

    assert tab.title() == "opened"
    assert tab.evaluate("self.origin") == "null"


def test_a_form_logs_in_and_the_session_is_known_afterwards(
    own: Server, site: Site, tab: Any
) -> None:
    form = "<form method=post action=/login><input name=a value=b><button>in</button></form>"
    site.put("/", f"<title>start</title>{form}")
    site.put(
        "/login", "", Location="/home", Set_Cookie="session=42; Path=/; HttpOnly; SameSite=Lax"
    )
    site.put("/home", "<title>home</title><a href='again?x'>again</a>")
    site.put("/again", "<title>again</title>")
    site.put("/", form.replace("/login", "login"))

    tab.goto(address(own, site, "/"))
    tab.click("button")
    tab.wait_for_url("**/home")
    (posted,) = site.asked("POST /login")
    assert posted["origin"] == f"http://localhost:{site.port}"
    (home,) = site.asked("GET /home")
    assert home["cookie"] == "session=42"
    tab.click("a")
    tab.wait_for_url("**/again?x")
    tab.reload()

    assert [one["cookie"] for one in site.asked("GET /again?x")] == ["session=42"] * 2
    assert tab.title() == "again"
