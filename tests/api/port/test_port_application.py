"""An ordinary web application in a real browser, by the host name of its port.

It does what those do that a path prefix breaks: addresses from the root, modules, a login with a
redirect and a cookie, a socket that reloads the page's parts, a worker, storage, a history.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.harness import Server, until

TOKEN = "s3cret-of-applications"

INDEX = """<!doctype html><title>app</title><link rel=stylesheet href="/assets/app.css">
<div id=root>loading</div><script type=module src="/assets/app.js"></script>"""
LOGIN = """<!doctype html><form method=post action="/login"><input name=name><button>in</button>"""
SCRIPTS = {
    "app.js": """import {render} from '/assets/view.js';
const done = {}; window.done = done;
const socket = new WebSocket(`ws://${location.host}/hmr`);
socket.onmessage = async message => {
  const {view} = JSON.parse(message.data);
  (await import(view)).render();
};
await new Promise(resolve => { socket.onopen = resolve });
localStorage.setItem('kept', 'yes'); done.kept = localStorage.getItem('kept');
done.me = await (await fetch('/api/me')).text();
done.event = await new Promise(resolve => {
  const events = new EventSource('/events');
  events.onmessage = one => { events.close(); resolve(one.data) } });
const cell = new WebSocket(`ws://${location.host}/kernel`);
cell.binaryType = 'arraybuffer';
done.cell = await new Promise(resolve => {
  cell.onopen = () => cell.send(new Uint8Array(4 << 20));
  cell.onmessage = one => resolve(one.data.byteLength) });
const worker = await navigator.serviceWorker.register('/worker.js');
done.scope = new URL(worker.scope).pathname;
history.pushState({}, '', '/deep/place');
done.origin = self.origin;
render();""",
    "view.js": "export const render = () => document.getElementById('root').textContent = 'first'",
}


class Application:
    """The program in the sandbox, on a port of its own."""

    def __init__(self) -> None:
        self.editors: set[WebSocket] = set()
        routes = [
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/assets/{name}", self.asset),
            Route("/api/me", lambda request: Response(request.cookies["session"])),
            Route("/events", self.events),
            Route("/worker.js", self.worker),
            WebSocketRoute("/hmr", self.hmr),
            WebSocketRoute("/kernel", self.kernel),
            Route("/{path:path}", self.index),
        ]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.loop = asyncio.new_event_loop()
        config = uvicorn.Config(
            Starlette(routes=routes), ws="websockets-sansio", log_level="critical", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.server.serve(sockets=[self.listener]))

    def close(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(30)

    async def login(self, request: Request) -> Response:
        if request.method == "GET":
            return HTMLResponse(LOGIN)
        async with request.form() as form:
            name = str(form["name"])
        answer = RedirectResponse("/", 303)
        answer.set_cookie("session", name, httponly=True, samesite="lax")
        return answer

    async def index(self, request: Request) -> Response:
        if "session" not in request.cookies:
            return RedirectResponse("/login", 302)
        return HTMLResponse(INDEX)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name.endswith(".css"):
            return Response("body { color: rgb(1, 2, 3) }", media_type="text/css")
        second = SCRIPTS["view.js"].replace("first", "second")
        return Response(SCRIPTS.get(name, second), media_type="text/javascript")

    async def worker(self, _request: Request) -> Response:
        return Response("self.addEventListener('fetch', () => {})", media_type="text/javascript")

    async def events(self, _request: Request) -> Response:
        async def told() -> AsyncIterator[str]:
            yield "data: told\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(told(), media_type="text/event-stream")

    async def hmr(self, editor: WebSocket) -> None:
        origin, host = editor.headers["origin"], editor.headers["host"]
        if origin.partition("://")[2] != host:  # as development servers do
            await editor.close()
            return
        await editor.accept()
        self.editors.add(editor)
        async for _ in editor.iter_text():
            pass
        self.editors.discard(editor)

    async def kernel(self, client: WebSocket) -> None:
        await client.accept()
        await client.send_bytes(await client.receive_bytes())
        await client.close()

    def edit(self) -> None:
        """Have all open pages take another version of the view."""

        async def tell() -> None:
            for editor in list(self.editors):
                await editor.send_text(json.dumps({"view": "/assets/view-2.js"}))

        asyncio.run_coroutine_threadsafe(tell(), self.loop).result(30)


@pytest.fixture
def application() -> Iterator[Application]:
    made = Application()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["", TOKEN], ids=["no-token", "token"])
def own(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_TOKEN": request.param} if request.param else {}
    with Server(tmp_path_factory.mktemp("application"), env=env) as running:
        yield running


def link(server: Server, port: int) -> str:
    token = server.env.get("SANDKEEPER_TOKEN", "")
    headers = {"Host": f"localhost:{server.port}"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    reply = server.client.post(f"/network/ports/{port}/links", json={}, headers=headers)
    return str(reply.json()["url"])


def test_an_application_works_by_the_name_of_its_port(
    own: Server, application: Application, page: Any
) -> None:
    base = f"http://{application.port}.localhost:{own.port}"
    page.goto(link(own, application.port))
    assert page.url == f"{base}/login"
    page.fill("input", "ada")
    page.click("button")

    page.wait_for_function("document.getElementById('root')?.textContent == 'first'")
    done = page.evaluate("done")
    assert done == {
        "kept": "yes",
        "me": "ada",
        "event": "told",
        "cell": 4 << 20,
        "scope": "/",
        "origin": base,
    }
    assert page.url == f"{base}/deep/place"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    until(lambda: application.editors)
    application.edit()
    page.wait_for_function("document.getElementById('root').textContent == 'second'")

    page.reload()
    page.wait_for_function("document.getElementById('root')?.textContent == 'first'")
    cookies = page.context.cookies()
    assert "ada" in {one["value"] for one in cookies}
    assert {one["domain"] for one in cookies} == {f"{application.port}.localhost"}


ASK = """async ([api, other]) => {
  const ask = (url, options) => fetch(url, options).then(one => one.status, () => 'refused');
  const connect = url => new Promise(told => { const socket = new WebSocket(url);
    socket.onopen = () => told('open'); socket.onerror = () => told('refused') });
  return [
    await ask(`${api}/process`, {credentials: 'include'}),
    await ask(`${api}/process`, {method: 'POST', mode: 'no-cors', body: '{"command": "true"}'})
      .then(status => status || 'opaque'),
    await connect(`${api.replace('http', 'ws')}/terminal/ws`),
    await ask('/process').then(status => status == 200 ? 'own' : status),
    document.cookie,
  ];
}"""


def test_its_pages_are_strangers_to_the_api(
    own: Server, application: Application, browser: Any
) -> None:
    context = browser.new_context()
    tab = context.new_page()
    api = f"http://localhost:{own.port}"
    token = own.env.get("SANDKEEPER_TOKEN", "")
    context.add_cookies([{"name": "sandkeeper_token", "value": token or "x", "url": api}])
    tab.goto(link(own, application.port))
    tab.fill("input", "eve")
    tab.click("button")
    tab.wait_for_function("window.done && done.origin")
    before = own.client.get("/process", headers=bearer(token)).json()

    told = tab.evaluate(ASK, [api, ""])

    assert told == ["refused", "opaque", "refused", "own", ""]
    assert own.client.get("/process", headers=bearer(token)).json() == before == []
    context.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
