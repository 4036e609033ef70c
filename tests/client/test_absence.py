"""What counts as a server that is away, and every verb that goes on does so behind a router too."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import (
    Absence,
    ClientError,
    NoServer,
    NotAllowed,
    Refused,
    is_absence,
)
from sandkeeper.client.files.transfer import download, send_whole
from sandkeeper.client.following import ProcessFollower
from sandkeeper.client.processes import record_after

END = (
    b'{"seq":1,"type":"end","offset":0,"status":"completed","exitCode":0,"exitSignal":0,'
    b'"reason":"exited"}\n'
)


class Router(BaseHTTPRequestHandler):
    """Answers as a router does whose server is just starting, and then as the server."""

    asked: set[str]

    def answer(self) -> None:
        """Answer any request."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = self.path.partition("?")[0]
        if route not in self.asked:
            self.asked.add(route)
            self.say(502, "text/html", b"<h1>Bad Gateway</h1>")
        elif route.endswith("/events"):
            self.say(200, "application/x-ndjson", END)
        else:
            self.say(200, "application/json", b'{"status": "completed"}')

    do_GET = do_PUT = answer

    def say(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.fixture
def behind_router() -> Iterator[Server]:
    handler = type("Handler", (Router,), {"asked": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield Server(f"http://127.0.0.1:{listener.server_port}")
        listener.shutdown()


def _down(server: Server, folder: Path) -> None:
    download(server, "/file", folder / "target", 0o600, lambda _more: None)


def _up(server: Server, folder: Path) -> None:
    (folder / "source").write_bytes(b"text")
    with (folder / "source").open("rb") as file:
        send_whole(server, file, 4, "/filesystem/file", {}, lambda _more: None)


def _waited(server: Server, _folder: Path) -> None:
    assert record_after(server, "one", 5)["status"] == "completed"


def _followed(server: Server, _folder: Path) -> None:
    told: list[str] = []
    end = ProcessFollower(server, "one", lambda *_: None, told.append).follow()
    assert end is not None
    assert end.code == 0
    assert told[0].endswith("trying again")
    assert told[1:] == ["connected again"]


@pytest.mark.parametrize("act", [_down, _up, _waited, _followed])
def test_a_server_that_starts_behind_a_router_is_waited_for(
    act: Callable[[Server, Path], None], behind_router: Server, tmp_path: Path
) -> None:
    act(behind_router, tmp_path)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (NoServer("nothing listens there"), True),
        (NoServer("a router's page", 502), True),
        (NoServer("another program's page", 404), False),
        (Refused("it ends", 503), True),
        (Refused("unknown", 404), False),
        (NotAllowed("no token"), False),
        (ClientError("disk full"), False),
    ],
)
def test_what_counts_as_away(error: ClientError, away: bool) -> None:
    assert is_absence(error) is away


def test_an_absence_is_told_once_and_given_up_in_the_end() -> None:
    told: list[str] = []
    absence = Absence(0, told.append)
    gone = NoServer("gone")
    assert absence.bear(gone) > 0
    with pytest.raises(NoServer):
        absence.bear(gone)
    absence.heard()
    absence.heard()
    assert told == ["gone; trying again", "connected again"]
