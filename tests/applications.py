"""Real applications behind ports, in a real browser: run by hand (`scripts/applications`).

Each is opened by the host name of its port, below `/port/N/`, and, if it can be told its base,
below `/port-keep/N/…`; what it has to show there is shown or the reason is printed. The tests hold
a small application that behaves like these (`tests/api/port/test_port_application.py`); this is the
proof that it does. Needs npm, and the registries of npm and Python for the first time.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, sync_playwright

from tests.harness import Server, free_port, until

__all__ = ["main"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandkeeper-applications"
TOKEN = "s3cret-of-real-applications"
PATIENCE = 240_000
SHORT = 60_000
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"

Check = Callable[[Any, Path], None]


@dataclass(frozen=True)
class Application:
    """`files` are written first; `command` gets the port and the base ("" where it has none)."""

    name: str
    files: dict[str, str]
    command: Callable[[int, str], Sequence[str]]
    check: Check
    path: str = "/"
    npm: tuple[str, ...] = ()
    has_base: bool = False


def pip_bin(name: str) -> str:
    """Return a program of the Python environment of the cache, which is made once."""
    folder = CACHE / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "jupyterlab", "flask"], check=True)
        (folder / "done").touch()
    return str(folder / "bin" / name)


def modules(packages: tuple[str, ...]) -> Path:
    """Return a folder with these npm packages, made once."""
    folder = CACHE / packages[0].partition("@")[0]
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(["npm", "install", *options, *packages], cwd=folder, check=True)
        (folder / "done").touch()
    return folder


def has_text(tab: Any, text: str) -> None:
    tab.wait_for_function("wanted => document.body.innerText.includes(wanted)", arg=text)


def has_style(tab: Any) -> None:
    tab.wait_for_function("getComputedStyle(document.body).color == 'rgb(1, 2, 3)'")


def replaced(path: Path) -> None:
    path.write_text(path.read_text().replace("first", "second"))


def check_files(tab: Any, _folder: Path) -> None:
    has_text(tab, "first")
    has_style(tab)
    tab.click("a")
    has_text(tab, "below")


def check_flask(tab: Any, _folder: Path) -> None:
    tab.fill("input", "ada")
    tab.click("button")
    has_text(tab, "hello ada")
    has_style(tab)
    tab.reload()
    has_text(tab, "hello ada")


def check_hot(view: str) -> Check:
    def check(tab: Any, folder: Path) -> None:
        has_text(tab, "first 0")
        tab.click("button")
        has_text(tab, "first 1")
        replaced(folder / view)
        has_text(tab, "second 1")  # the state stays: it was not loaded anew

    return check


def check_jupyter(tab: Any, _folder: Path) -> None:
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell .cm-content")
    tab.wait_for_function(
        "document.getElementById('jp-main-statusbar')?.textContent.includes('| Idle')"
    )
    tab.click(".jp-Notebook .jp-CodeCell .cm-content")
    tab.keyboard.press("Shift+Enter")
    tab.wait_for_function(
        "document.querySelector('.jp-OutputArea')?.textContent.match(/42 8388608.*x{9}/s)"
    )


CELL = """from IPython.display import HTML
text = 'x' * (8 << 20)
print(6 * 7, len(text))
HTML(f'<i>{text[:9]}</i><!--{text}-->')"""
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "one",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": CELL.splitlines(keepends=True),
        }
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
STYLE = "body { color: rgb(1, 2, 3) }"
COUNTER = """export default function App() {
  const [count, set] = useState(0)
  return <button onClick={() => set(count + 1)}>first {count}</button>
}
"""
NEXT_CONFIG = """const basePath = process.env.BASE.replace(/[/]$/, '')
export default basePath ? { basePath } : {}
"""
FLASK = """from flask import Flask, redirect, request, session, url_for
app = Flask(__name__)
app.secret_key = 'x'
@app.get('/')
def home():
    if 'name' not in session:
        return redirect(url_for('login'))
    style = url_for('static', filename='style.css')
    return f'<link rel=stylesheet href="{style}">hello {session["name"]}'
@app.route('/login', methods=['GET', 'POST'])
def login():
    if request.method == 'POST':
        session['name'] = request.form['name']
        return redirect(url_for('home'))
    return '<form method=post><input name=name><button>in</button></form>'
"""
PROXY_FIX = """
from werkzeug.middleware.proxy_fix import ProxyFix
app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1, x_host=1)
"""


def vite(port: int, base: str) -> Sequence[str]:
    program = "node_modules/vite/bin/vite.js"
    options = ["--host", "127.0.0.1", "--port", str(port), "--strictPort"]
    return ["node", program, *options, *(["--base", base] if base else [])]


def jupyter(port: int, base: str) -> Sequence[str]:
    given = {
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.allow_root": True,
        "ServerApp.allow_remote_access": True,
        "IdentityProvider.token": "",
        "ZMQChannelsWebsocketConnection.iopub_data_rate_limit": 1e10,
        "ServerApp.base_url": base or "/",
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    return [pip_bin("jupyter"), "lab", "--no-browser", *options]


APPLICATIONS = [
    Application(
        "plain files",
        {
            "index.html": "<link rel=stylesheet href=style.css>first <a href=sub>x</a>",
            "style.css": STYLE,
            "sub/index.html": "below",
        },
        lambda port, _base: [sys.executable, "-m", "http.server", "-b", "127.0.0.1", str(port)],
        check_files,
    ),
    Application(
        "Flask",
        {"app.py": FLASK, "static/style.css": STYLE},
        lambda port, _base: [pip_bin("flask"), "run", "--port", str(port)],
        check_flask,
    ),
    Application(
        "Flask, ProxyFix",
        {"app.py": FLASK + PROXY_FIX, "static/style.css": STYLE},
        lambda port, _base: [pip_bin("flask"), "run", "--port", str(port)],
        check_flask,
    ),
    Application(
        "vite",
        {
            "index.html": "<div id=root></div><script type=module src=/main.jsx></script>",
            "vite.config.js": "import react from '@vitejs/plugin-react'\n"
            "export default { plugins: [react()], cacheDir: '.vite' }",
            "main.jsx": "import { createRoot } from 'react-dom/client'\n"
            "import App from './App.jsx'\n"
            "createRoot(document.getElementById('root')).render(<App />)",
            "App.jsx": "import { useState } from 'react'\n" + COUNTER,
        },
        vite,
        check_hot("App.jsx"),
        npm=("vite@7", "@vitejs/plugin-react@5", "react@19", "react-dom@19"),
        has_base=True,
    ),
    Application(
        "Next.js",
        {
            "package.json": '{"private": true}',
            "next.config.mjs": NEXT_CONFIG,
            "app/layout.jsx": "export default function Layout({ children }) {\n"
            "  return <html><body>{children}</body></html>\n}",
            "app/page.jsx": "'use client'\nimport { useState } from 'react'\n" + COUNTER,
        },
        lambda port, base: [
            *("env", f"BASE={base}", "node", "node_modules/next/dist/bin/next", "dev"),
            *("-H", "127.0.0.1", "-p", str(port)),
        ],
        check_hot("app/page.jsx"),
        npm=("next@15", "react@19", "react-dom@19"),
        has_base=True,
    ),
    Application(
        "JupyterLab",
        {"a.ipynb": json.dumps(NOTEBOOK)},
        jupyter,
        check_jupyter,
        path="/lab/tree/a.ipynb?reset",
        has_base=True,
    ),
]


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def open_by(server: Server, app: Application, via: str, browser: Any) -> str:
    """Start an application, open it that way and return "" or why it does not work."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, text in app.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        if app.npm:
            (folder / "node_modules").symlink_to(modules(app.npm) / "node_modules")
        port = free_port()
        link = server.client.post(
            f"/network/ports/{port}/links",
            json={"via": via, "path": app.path, "once": False},
            headers={"Authorization": f"Bearer {TOKEN}", "Host": f"localhost:{server.port}"},
        ).json()
        log = stack.enter_context(open(folder / "log", "wb"))
        command = app.command(port, link["base"])
        program = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        stack.callback(program.wait)
        stack.callback(program.terminate)
        until(partial(listens, port), 180, 0.2)
        context = browser.new_context()
        stack.callback(context.close)
        tab = context.new_page()
        tab.set_default_timeout(SHORT if via == "prefix" else PATIENCE)
        said: list[str] = []
        tab.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        try:
            tab.goto(link["url"])
            app.check(tab, folder)
        except Error as error:
            return (said or [str(error)])[0].splitlines()[0][:150]
        return ""


def main(names: Sequence[str]) -> int:
    """Print a row for each application; returns 1 if one does not work by its name."""
    wanted = [app for app in APPLICATIONS if not names or app.name.lower() in names]
    failed = False
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Server(folder, env={"SANDKEEPER_TOKEN": TOKEN}))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path="/usr/bin/chromium", args=FLAGS.split()
        )
        stack.callback(browser.close)
        print(
            "| Application | by name | `/port/N/` | `/port-keep/N/…`, told its base |\n"
            "|---|---|---|---|"
        )
        for app in wanted:
            told = []
            for via in ("host", "prefix", "base"):
                if via == "base" and not app.has_base:
                    told.append("")
                    continue
                why = open_by(server, app, via, browser)
                told.append(why or "works")
                failed = failed or (via == "host" and bool(why))
            print(f"| {app.name} | {' | '.join(told)} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
