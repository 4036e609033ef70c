"""Who may ask: the table of names, origins and fetch metadata, over raw sockets."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from tests.harness import Server

from sandkeeper.api.edge.hosts import Gate
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.errors import Forbidden
from sandkeeper.settings import EdgeSettings

WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
START = '{"command": "true"}'
PING = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
MCP = "Content-Type: application/json\r\nAccept: */*\r\n"
IMAGE = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"
VISIT = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
FRAME = VISIT.replace("document", "iframe")
CLICK = VISIT + "Sec-Fetch-User: ?1\r\n"

Start = Callable[..., Server]


def ask(
    server: Server,
    fields: str,
    *,
    line: str = "GET /process",
    host: str | None = "localhost",
    version: str = "1.1",
    body: str = "",
) -> tuple[int, str]:
    """Send one request; returns the status and the whole answer."""
    named = "" if host is None else f"Host: {host}\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{line} HTTP/{version}\r\n{named}{fields}{length}"
    head += "" if "Upgrade" in fields else "Connection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall((head + "\r\n" + body).encode("latin-1"))
        answer = sock.recv(4096) if "Upgrade" in fields else sock.makefile("rb").read()
    return int(answer.split(b" ")[1]), answer.decode("latin-1")


def status(server: Server, fields: str = "", **more: str | None) -> int:
    return ask(server, fields, **more)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with origins and names of the operator's."""
    env = {
        "SANDKEEPER_CORS_ORIGINS": "https://a.example",
        "SANDKEEPER_HOSTS": "box.example *.boxes.example",
        "SANDKEEPER_TRUSTED_GATEWAYS": "10.0.0.0/8",
    }
    with Server(tmp_path_factory.mktemp("other"), env=env) as running:
        yield running


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:1", "localhost.", "localhost:", "box.localhost", "127.0.0.1"),
        *("127.8.9.1:65535", "[::1]", "[::1]:80", "[::ffff:127.0.0.1]", "192.0.2.7", "0.0.0.0:80"),
        *("[2001:db8::1]:9", "[fe80::1%eth0]", "[fe80::1%25eth0]:80", socket.gethostname()),
    ],
)
def test_our_own_names_and_addresses_are_answered(server: Server, host: str) -> None:
    assert status(server, host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:80", "localhost.evil.example", "evil-localhost", "x"),
        *("127.0.0.1.nip.io", "127.1", "2130706433", "0x7f.0.0.1", "1.127.0.0.1", "", "a..b"),
        *("localhost..", ".localhost.evil.example", "xn--lcalhost-4ya", "box.example"),
    ],
)
def test_other_names_are_refused_with_the_setting_that_lists_them(
    server: Server, host: str
) -> None:
    found, answer = ask(server, "", host=host)

    assert (found, "SANDKEEPER_HOSTS" in answer) == (403, True)
    assert status(server, MCP, line="POST /mcp", host=host, body=PING) == 403
    assert status(server, WEBSOCKET, line="GET /terminal/ws", host=host) == 403
    assert status(server, host=host, line="GET /port/1/") == 403
    # Probes come by any address there is.
    assert {status(server, host=host, line=f"GET {path}") for path in ("/health", "/ready")} == {
        200
    }


@pytest.mark.parametrize(
    "host",
    [
        *("me@localhost", "localhost:x", "localhost:65536", "localhost:+80", "local host", "::1"),
        *("[::1", "[::1]x", "[evil.example]", "localhost, evil.example", "localhost/", "a\\b"),
        *("localhost?", "localhost#a", "evil.example%lo", "loc\xe4lhost", "[:::1]", "[127.0.0.1"),
        None,
        "localhost\r\nHost: localhost",
        "localhost\r\nHost: evil.example",
    ],
)
def test_what_is_no_host_is_400_on_every_path(server: Server, host: str | None) -> None:
    assert status(server, host=host) == 400
    assert status(server, host=host, line="GET /health") == 400


def test_a_client_of_http_1_0_need_not_name_anybody(server: Server) -> None:
    assert status(server, host=None, version="1.0") == 200
    assert status(server, host="evil.example", version="1.0") == 403


def test_an_absolute_target_says_who_is_called_whatever_host_says(server: Server) -> None:
    assert status(server, host="localhost", line="GET http://evil.example/process") == 403
    assert status(server, host="evil.example", line="GET http://localhost/process") == 200
    assert status(server, host="localhost", line="GET http://me@localhost/process") == 400
    assert status(server, WEBSOCKET, line="GET http://evil.example/terminal/ws") == 403
    assert status(server, host=None, line="GET http://localhost:8080/process?a=1") == 200


def test_names_of_the_operators_are_answered(other: Server) -> None:
    for host in ("box.example", "BOX.example.:80", "a.boxes.example", "a.b.boxes.example"):
        assert status(other, host=host) == 200, host
    for host in ("boxes.example", "evilboxes.example", "a.box.example", "box.example.evil.example"):
        assert status(other, host=host) == 403, host
    assert status(other, MCP, line="POST /mcp", host="box.example", body=PING) == 200


def test_on_loopback_the_tools_are_called_by_loopback_names_alone(server: Server) -> None:
    for host in ("0.0.0.0", "192.0.2.7", socket.gethostname()):
        found, answer = ask(server, MCP, line="POST /mcp", host=host, body=PING)
        assert (found, answer.partition("\r\n\r\n")[2]) == (
            403,
            f'Forbidden: invalid Host header "{host}"',
        )


@pytest.mark.parametrize(
    ("fields", "line", "expected"),
    [
        # No browser at all, and what a person types.
        ("", "POST /process", 200),
        ("Sec-Fetch-Mode: cors\r\n", "POST /process", 200),  # Node's fetch
        ("Sec-Fetch-Site: none\r\n", "GET /process", 200),
        # Our own pages.
        ("Origin: http://localhost\r\n", "POST /process", 200),
        ("Origin: http://localhost:80\r\n", "POST /process", 200),
        ("Sec-Fetch-Site: same-origin\r\n", "POST /process", 200),
        ("Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n", "POST /process", 200),
        # Another scheme, port or host is another origin, and so is one that is hidden.
        ("Origin: https://localhost\r\n", "POST /process", 403),
        ("Origin: http://localhost:81\r\n", "POST /process", 403),
        ("Origin: http://localhost:443\r\n", "POST /process", 403),
        ("Origin: http://127.0.0.1\r\n", "POST /process", 403),
        ("Origin: http://localhost.evil.example\r\n", "GET /process", 403),
        ("Origin: http://localhost@evil.example\r\n", "POST /process", 403),
        ("Origin: null\r\n", "POST /process", 403),
        ("Origin: null\r\n", "GET /process", 403),
        ("Origin: \r\n", "POST /process", 403),
        ("Origin: *\r\n", "POST /process", 403),
        ("Origin: http://localhost\r\nOrigin: http://localhost\r\n", "POST /process", 403),
        ("Origin: https://evil.example\r\n", "GET /health", 403),
        ("Origin: https://evil.example\r\n", "GET /nothing", 403),
        ("Origin: https://evil.example\r\n", "GET /mcp", 403),
        ("Origin: https://evil.example\r\n", "DELETE /mcp", 403),
        ("Origin: https://evil.example\r\n", "OPTIONS /port/1/", 403),
        ("Origin: https://evil.example\r\nX-Forwarded-Host: evil.example\r\n", "PUT /x", 403),
        ("Origin: http://localhost\r\nSec-Fetch-Site: same-site\r\n", "POST /process", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Site: none\r\n", "POST /process", 403),
        ("Sec-Fetch-Site: something-new\r\n", "POST /process", 403),
        # What needs no Origin: images, scripts, event streams, requests that may not be read.
        (IMAGE, "GET /process", 403),
        (IMAGE.replace("cross-site", "same-site"), "GET /process", 403),
        (IMAGE, "GET /terminal", 403),
        (IMAGE, "GET /port/1/", 403),
        (IMAGE, "HEAD /process", 403),
        # Links lead to pages, frames do not, and nothing that streams or has effects is one.
        (VISIT, "GET /", 200),
        (VISIT, "GET /terminal?shell=/bin/false", 200),
        (VISIT, "GET /swagger/index.html", 200),
        (VISIT, "GET /process", 403),
        (VISIT, "GET /mcp", 403),
        (VISIT, "GET /process/1/logs/stream", 403),
        (VISIT, "GET /watch/filesystem/x", 403),
        (VISIT, "GET /terminal/ws", 403),
        (VISIT, "POST /", 403),
        (FRAME, "GET /terminal", 403),
        (FRAME, "GET /", 403),
        # A port's page may do anything: a link to it is clicked on.
        (VISIT, "GET /port/1/", 403),
        (CLICK, "GET /port/1/", 303),
        (CLICK, "POST /port/1/", 403),
        (CLICK.replace("document", "iframe"), "GET /port/1/", 403),
        (CLICK, "GET /process", 403),
    ],
)
def test_pages_of_other_origins_are_refused(
    server: Server, fields: str, line: str, expected: int
) -> None:
    before = len(server.client.get("/process").json())
    body = START if line.startswith(("POST", "PUT")) else ""

    assert status(server, fields, line=line, body=body) == expected
    started = len(server.client.get("/process").json()) - before
    assert started == (1 if (line, expected) == ("POST /process", 200) else 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", 101),
        ("Origin: http://localhost\r\n", 101),
        ("Origin: http://localhost:5173\r\n", 403),
        ("Origin: https://localhost\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\nOrigin: http://localhost\r\n", 403),
    ],
)
def test_sockets_of_other_origins_are_refused(server: Server, fields: str, expected: int) -> None:
    for path in ("/terminal/ws?sessionId=gate&shell=/bin/cat", "/port/1/"):
        found = status(server, WEBSOCKET + fields, line=f"GET {path}")
        refused = expected == 403
        assert found == (403 if refused else {"/port/1/": 422}.get(path, 101)), path


def test_a_token_does_not_stand_in_for_an_origin(make_server: Start) -> None:
    own = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    cookie = "Cookie: sandkeeper_token=s3cret\r\n"

    assert status(own, cookie, line="POST /process", body=START) == 200
    for site in ("Origin: http://localhost:5173\r\n", "Sec-Fetch-Site: same-site\r\n"):
        assert status(own, cookie + site, line="POST /process", body=START) == 403
        assert status(own, cookie + site + WEBSOCKET, line="GET /terminal/ws") == 403
    # With a token any name is answered: a page that has its own lead here knows no token.
    assert status(own, cookie, host="box.example") == 200
    assert status(own, "", host="box.example") == 401


def test_a_listed_origin_may_do_everything_and_read_the_answer(other: Server) -> None:
    page = "Origin: https://a.example\r\nSec-Fetch-Site: cross-site\r\n"
    referer = "Referer: https://a.example/ui?x\r\n"

    found, answer = ask(other, page, line="POST /process", body=START)
    assert (found, "access-control-allow-origin: https://a.example\r\n" in answer) == (200, True)
    assert status(other, page + MCP, line="POST /mcp", body=PING) == 200
    assert status(other, page + WEBSOCKET, line="GET /terminal/ws?shell=/bin/cat") == 101
    assert status(other, IMAGE + referer, line="GET /process") == 200
    assert status(other, FRAME + referer, line="GET /terminal") == 200
    assert status(other, IMAGE + "Referer: https://a.example.evil.example/\r\n") == 403
    assert status(other, IMAGE + "Referer: https://a.example@evil.example/\r\n") == 403
    assert status(other, page.replace("https", "http"), line="POST /process", body=START) == 403


def test_every_origin_and_every_name_where_the_operator_says_so(make_server: Start) -> None:
    own = make_server(env={"SANDKEEPER_CORS_ORIGINS": "*"})
    page = "Origin: https://any.example\r\nSec-Fetch-Site: cross-site\r\n"

    found, answer = ask(own, page, line="POST /process", host="box.example", body=START)
    assert (found, "access-control-allow-origin: *\r\n" in answer) == (200, True)
    assert status(own, page + MCP, line="POST /mcp", host="box.example", body=PING) == 200
    assert status(own, page + WEBSOCKET, line="GET /terminal/ws?shell=/bin/cat") == 101
    assert status(own, IMAGE) == 200


def test_who_a_request_came_from_is_told_by_trusted_gateways_alone(make_server: Start) -> None:
    env = {"SANDKEEPER_TRUSTED_GATEWAYS": "127.0.0.1", "SANDKEEPER_HOSTS": "box.example"}
    own = make_server(env=env)
    page = "Origin: https://box.example\r\n"
    forwarded = "X-Forwarded-Host: box.example\r\nX-Forwarded-Proto: https\r\n"

    assert status(own, page + forwarded, line="POST /process", body=START) == 200
    assert status(own, page, line="POST /process", body=START) == 403
    assert status(own, page, host="box.example", line="POST /process", body=START) == 403
    secure = page + "X-Forwarded-Proto: https\r\n"
    assert status(own, secure, host="box.example", line="POST /process", body=START) == 200
    # A page that had its name lead here asks from this machine, too.
    rebound = forwarded.replace("box", "evil")
    assert status(own, rebound, host="evil.example", line="POST /process", body=START) == 403


class Peer:
    """A request that came from an address, to a server that trusts a network as its gateways."""

    def __init__(self, client: str, *, beyond: bool = True, token: bool = False) -> None:
        settings = EdgeSettings(gateways=(ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")))
        self.gate = Gate(settings, Gateways(settings.gateways), guarded=token, beyond=beyond)
        self.client = client

    def passes(self, host: str, *, path: str = "/process", server: str = "10.0.0.2") -> bool:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "scheme": "http",
            "client": (self.client, 1),
            "server": (server, 8080),
            "headers": [(b"host", host.encode())],
        }
        try:
            self.gate.check(scope)
        except Forbidden:
            return False
        return True


def test_a_gateway_elsewhere_vouches_for_the_name_it_passes_on() -> None:
    assert Peer("10.0.0.1").passes("box.example")
    assert Peer("10.0.0.1").passes("box.example", path="/mcp")
    assert not Peer("127.0.0.1").passes("box.example")
    assert not Peer("192.168.1.4").passes("box.example")


def test_names_without_a_dot_are_answered_where_the_server_is_reached_from_elsewhere() -> None:
    assert Peer("192.168.1.4").passes("box")
    assert Peer("192.168.1.4").passes("box:8080", path="/mcp")
    assert not Peer("192.168.1.4").passes("box", path="/mcp", server="127.0.0.1")
    assert not Peer("192.168.1.4", beyond=False).passes("box")
    assert not Peer("192.168.1.4").passes("")
    assert Peer("192.168.1.4", token=True).passes("box.example")


def test_of_others_than_the_gateways_nothing_forwarded_is_passed_on(other: Server) -> None:
    prefixed = "X-Forwarded-Prefix: /edge\r\n"
    assert "location: /swagger/index.html\r\n" in ask(other, prefixed, line="GET /swagger")[1]


def test_our_pages_cannot_be_framed_and_tell_nobody_their_address(
    server: Server, other: Server, make_server: Start
) -> None:
    everywhere = make_server(env={"SANDKEEPER_CORS_ORIGINS": "*"})
    for path in ("/terminal", "/swagger/index.html"):
        for one, may in (
            (server, "'self'"),
            (other, "'self' https://a.example"),
            (everywhere, "*"),
        ):
            headers = one.client.get(path).headers
            rules = headers["content-security-policy"].split("; ")
            assert f"frame-ancestors {may}" in rules
            assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'"} <= {*rules}
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("fields", "query", "asks"),
    [
        ("Sec-Fetch-Site: none\r\n", "", False),
        ("Sec-Fetch-Site: none\r\n", "?sessionId=x", True),  # a redirect may have named it
        ("Sec-Fetch-Site: none\r\n", "?cols=80&session%49d", True),
        ("Sec-Fetch-Site: same-origin\r\n", "?sessionId=x", False),
        (VISIT, "", True),
        ("", "", True),  # nobody knows who asks
    ],
)
def test_a_page_connects_at_once_only_if_a_person_or_our_own_page_led_there(
    server: Server, fields: str, query: str, asks: bool
) -> None:
    page = ask(server, fields, line=f"GET /terminal{query}")[1]
    assert ("<body data-ask>" in page) is asks


def test_a_preflight_grants_nothing_to_an_origin_that_is_not_listed(other: Server) -> None:
    wish = "Access-Control-Request-Method: PUT\r\nOrigin: https://"
    assert (
        "access-control-allow-origin"
        not in ask(other, wish + "b.example\r\n", line="OPTIONS /x")[1]
    )
    _, answer = ask(other, wish + "a.example\r\n", line="OPTIONS /x")
    assert "access-control-allow-origin: https://a.example\r\n" in answer


def test_a_refused_request_is_logged_like_others(make_server: Start, tmp_path: Path) -> None:
    own = make_server()
    assert status(own, "Origin: https://evil.example\r\n", line="POST /process", body=START) == 403
    own.stop()
    assert any(" 403 " in str(one) or one.get("status") == 403 for one in own.log_lines())
