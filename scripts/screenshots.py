"""Pictures of the console's pages, of a server of its own with something in it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none"]
WIDE, PHONE = (1280, 800), (390, 800)

BUILD = r"""
say() { printf '\033[2m%s\033[0m \033[%sm%-5s\033[0m %s\n' "$(date +%T)" "$1" "$2" "$3"; }
for i in $(seq 1 240); do
  say 32 INFO "GET /api/items/$i 200 $((i % 17 + 3)) ms"
  if [ $((i % 23)) = 0 ]; then say 33 WARN "cache miss for item $i"; fi
  if [ $((i % 61)) = 0 ]; then say 31 ERROR "upstream closed the connection" >&2; fi
done
while :; do i=$((i + 1)); say 32 INFO "GET /api/items/$i 200 $((i % 17 + 3)) ms"; sleep 0.4; done
"""


SALES = """\
from csv import reader

tax = 0.2


def total(rows):
    return sum(float(price) * (1 + tax) for _, price in rows)


with open("sales.csv") as file:
    print(f"{total(reader(file)):.2f}")
"""

FILES = {
    "README.md": "# Shop\n\nA shop for tests.\n",
    "report/sales.py": SALES,
    "report/sales.csv": "tea,3.20\ncoffee,4.10\n",
    "web/app.ts": """\
import { createServer } from "node:http";

// The total is what the basket shows.
export function total(prices: number[]): number {
  return prices.reduce((sum, price) => sum + price, 0);
}

createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ path: request.url, total: total([3.2, 4.1]) }));
}).listen(3000);
""",
    "web/package.json": '{\n  "name": "shop",\n  "scripts": { "dev": "node app.ts" }\n}\n',
    "web/public/index.html": "<!doctype html>\n<title>Shop</title>\n",
}


def nothing(_page: Page, _api: httpx.Client) -> None:
    """Show the page as it is."""


def start_dialog(page: Page, _api: httpx.Client) -> None:
    """Fill in what is to be started."""
    page.get_by_role("button", name="Start process").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Command").fill("npm run dev -- --port 3000")
    dialog.get_by_label("Name", exact=True).fill("web")
    dialog.get_by_role("button", name="Add variable").click()
    dialog.get_by_label("Name of variable 1").fill("NODE_ENV")
    dialog.get_by_label("Value of variable 1").fill("development")
    dialog.get_by_label("Memory", exact=True).fill("512")


def found(page: Page, _api: httpx.Client) -> None:
    """Look for something in the output."""
    page.get_by_role("searchbox").fill("cache miss")
    page.get_by_role("searchbox").press("Shift+Enter")


def opened(page: Page, _api: httpx.Client) -> None:
    """Open one operation."""
    one = page.locator("#operations-system-health")
    one.locator(".opblock-summary-control").click()
    one.get_by_role("button", name="Try it out").click()
    one.get_by_role("button", name="Execute").click()
    one.scroll_into_view_if_needed()


def typed(page: Page, _api: httpx.Client) -> None:
    """Have a terminal show something."""
    page.get_by_text("Connected").wait_for()
    page.keyboard.type("ls -l --color=always\ncat web/app.ts\n")


def in_the_middle(page: Page, api: httpx.Client) -> None:
    """Play a recording that has something in it."""
    for line in ("cd report", "ls -l --color=always", "python3 -V", "cat sales.py"):
        api.post("/terminals/shell/input", content=f"{line}\r".encode())
    page.reload()


def opened_file(page: Page, _api: httpx.Client) -> None:
    """Wait for a file that the address has opened."""
    page.locator(".cm-content").wait_for()


def conflicting(page: Page, api: httpx.Client) -> None:
    """Change a file here and in the sandbox."""
    page.locator(".cm-content").click()
    page.keyboard.press("Control+Home")
    page.keyboard.type('"""Adds up what was sold."""\n\n')
    text = SALES.replace("tax = 0.2", "tax = 0.25").replace("total(", "sum_of(")
    api.put("/filesystem/report/sales.py", json={"content": text}).raise_for_status()
    page.get_by_text("changed by somebody else").wait_for()
    page.get_by_role("button", name="Compare").click()
    page.locator(".cm-mergeView").wait_for()


def searched(page: Page, _api: httpx.Client) -> None:
    """Look for a text in files."""
    page.get_by_role("button", name="Contents").click()
    page.get_by_role("searchbox").fill("total")
    page.locator(".find-line").first.click()


def own_ports(page: Page, _api: httpx.Client) -> None:
    """Leave out what else listens on this machine, and make a link for others."""
    page.get_by_role("searchbox").fill("docs")
    page.get_by_role("button", name="Actions").first.click()
    page.get_by_role("menuitem", name="Copy a link for others").click()
    page.get_by_text("Links that others have").wait_for()


Prepare = Callable[[Page, httpx.Client], None]
PAGES: list[tuple[str, str, str, tuple[int, int], Prepare]] = [
    # name, address, theme, size, what is done before
    ("overview", "#/overview", "dark", WIDE, nothing),
    ("overview-light", "#/overview", "light", WIDE, nothing),
    ("processes", "#/processes", "dark", WIDE, nothing),
    ("start", "#/processes", "dark", WIDE, start_dialog),
    ("output", "#/processes/web", "dark", WIDE, found),
    ("figures", "#/processes/worker?tab=figures", "light", WIDE, nothing),
    ("terminal", "#/terminals/build", "dark", WIDE, typed),
    ("recording", "#/terminals/shell/recording", "light", WIDE, in_the_middle),
    ("files", "#/filesWORK?file=WORK/web/app.ts", "dark", WIDE, opened_file),
    ("conflict", "#/filesWORK?file=WORK/report/sales.py", "dark", WIDE, conflicting),
    ("find", "#/files?side=find", "light", WIDE, searched),
    ("ports", "#/ports", "dark", WIDE, own_ports),
    ("files-phone", "#/files", "dark", PHONE, nothing),
    ("api", "#/api", "dark", WIDE, opened),
    ("phone", "#/processes/web", "dark", PHONE, nothing),
]


def main(names: list[str]) -> None:
    """Take those of the names, all without any."""
    IMAGES.mkdir(exist_ok=True)
    wanted = [page for page in PAGES if not names or page[0] in names]
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        with httpx.Client(base_url=address, timeout=60) as api:
            fill(api)
            for name, place, theme, (width, height), prepare in wanted:
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme=theme,  # type: ignore[arg-type]
                    device_scale_factor=1,
                )
                work = api.get("/filesystem-stat/").json()["path"]
                page.goto(f"{address}/console/{place.replace('WORK', work)}")
                page.locator("main h1").first.wait_for()
                prepare(page, api)
                page.wait_for_timeout(4000)
                page.screenshot(path=IMAGES / f"console-{name}.png")
                page.close()
                print(f"docs/images/console-{name}.png")
        browser.close()


def fill(api: httpx.Client) -> None:
    """Have something run."""
    work = "import time\nwhile True:\n    sum(range(2_000_000)); time.sleep(0.12)"
    orders = (
        {"name": "migrate", "command": "echo 'applied 14 migrations'"},
        {"name": "lint", "command": "echo 'src/app.ts:12:3 unused import' >&2; exit 1"},
        {"name": "docs", "command": "exec python3 -m http.server 0 --bind 127.0.0.1"},
        {"name": "worker", "argv": ["python3", "-c", work], "limits": {"memoryBytes": 256 << 20}},
        {"name": "web", "argv": ["sh", "-c", BUILD], "tag": "preview"},
    )
    for order in orders:
        api.post("/process", json=order).raise_for_status()
    for path, content in FILES.items():
        api.put(f"/filesystem/{path}", json={"content": content}).raise_for_status()
    for name in ("build", "shell"):
        order = {
            "sessionId": name,
            "shell": "/bin/bash",
            "args": ["--norc"],
            "env": {"PS1": r"\[\e[36m\]\W\[\e[0m\] $ "},
            "workingDir": api.get("/filesystem-stat/").json()["path"],
        }
        api.post("/terminals", json=order).raise_for_status()
    until(lambda: len(api.get("/diagnostics/history").json()["times"]) > 5)


@contextmanager
def served() -> Iterator[str]:
    """Run a server in a folder of its own; gives its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        env = {
            **os.environ,
            "HOME": str(work),
            "WORKDIR": str(work),
            "SANDKEEPER_STATE_DIR": f"{folder}/state",
            "SANDKEEPER_LOG": f"{folder}/log",
            "SANDKEEPER_ON_SHUTDOWN": "stop",
        }
        command = [sys.executable, "-P", "-m", "sandkeeper", "--host", "127.0.0.1"]
        server = subprocess.Popen([*command, "--port", str(port)], env=env)
        address = f"http://127.0.0.1:{port}"
        try:
            until(lambda: answers(address))
            yield address
        finally:
            server.terminate()
            server.wait()


def answers(address: str) -> bool:
    """Say whether a server is there."""
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


def until(check: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            sys.exit("screenshots: the server did not get there")
        time.sleep(0.2)


main(sys.argv[1:])
