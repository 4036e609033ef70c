"""Host names of ports: what is called by one reaches that port at its root, and never the API."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.port.listener import Echo
from tests.harness import Server, until
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from sandkeeper.api.edge.tickets.grants import Grants
from sandkeeper.api.edge.tickets.signing import Signer
from sandkeeper.api.port.tickets import COOKIE, Tickets
from sandkeeper.linux import clocks
from sandkeeper.settings.port_names import PortNames

TOKEN = "s3cret-of-hosts"
PATTERNS = "{port}.localhost {port}-{id}.boxes.example {port}.*"


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_TOKEN": TOKEN, "SANDKEEPER_PORT_HOSTS": PATTERNS}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_PORT_HOSTS": PATTERNS, "SANDKEEPER_HOSTS": "*.mine.example"}
    with Server(tmp_path_factory.mktemp("open"), env=env) as running:
        yield running


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.fields = [(k.lower(), v.strip()) for k, _, v in (x.partition(":") for x in lines)]

    def field(self, name: str) -> str:
        return next((value for key, value in self.fields if key == name), "")

    @property
    def seen(self) -> list[str]:
        """What the server at the port was sent."""
        return self.body.decode("latin-1").split("\r\n")


def ask(
    server: Server, host: str, target: str, *fields: str, method: str = "GET", body: bytes = b""
) -> Answer:
    """Send one request as it stands."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "Connection: close"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return Answer(sock.makefile("rb").read())


# Names


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("3000.localhost", 3000),
        ("3000.localhost:8080", 3000),
        ("3000.LOCALHOST.:8080", 3000),
        ("65535-abc.boxes.example", 65535),
        ("3000-a-b_c.boxes.example", 3000),
        ("3000.any.thing.example", 3000),
        ("localhost", 0),
        ("65536.localhost", 0),
        ("03000.localhost", 0),
        ("0.localhost", 0),
        ("3000-.boxes.example", 0),
        ("x3000.localhost", 0),
        ("-1.localhost", 0),
        ("127.0.0.1:3000", 0),
        ("3000.192.0.2.7", 0),
        ("[::1]:3000", 0),
        ("3000", 0),
        ("3000." + "a" * 400, 0),
        ("", 0),
    ],
)
def test_a_name_stands_for_a_port_or_for_none(host: str, port: int) -> None:
    names = PortNames.read(PATTERNS.split(), "X")
    found = names.find(host.encode())

    assert (found.port if found else 0) == port


def test_the_usual_name_is_below_localhost_and_an_address_is_none() -> None:
    usual = PortNames.read([], "X")

    assert usual.patterns == ("{port}.localhost",)
    assert [bool(usual.find(one)) for one in (b"3000.localhost:1", b"127.0.0.1", b"3.x")] == [
        *(True, False, False)
    ]
    assert PortNames.read(["none"], "X").find(b"3000.localhost") is None


def test_a_clients_name_for_this_very_server_is_none_of_a_port(
    guarded: Server, unguarded: Server
) -> None:
    """E2B's clients call the server inside a sandbox `49983-ID.DOMAIN`."""
    names = PortNames(PATTERNS.split(), "X", frozenset({49983}))
    assert names.find(b"49983-abc.boxes.example") is None
    assert names.find(b"49983.localhost") is None
    assert PortNames(PATTERNS.split(), "X").find(b"49983-abc.boxes.example")
    host = "49983-abc.boxes.example"

    assert ask(guarded, host, "/process", f"Authorization: Bearer {TOKEN}").status == 200
    assert ask(guarded, host, "/process").status == 401
    assert ask(unguarded, host, "/process").status == 403


@pytest.mark.parametrize("bad", ["localhost", "{port}{port}.x", "{port}.a b", "{porT}.x", "{x}"])
def test_what_is_no_pattern_ends_the_start_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="X: "):
        PortNames([bad], "X")


# What reaches the port, and how


def test_a_request_reaches_the_root_of_the_port_as_it_is(unguarded: Server, echo: Echo) -> None:
    host = f"{echo.port}.localhost:{unguarded.port}"

    answer = ask(
        unguarded, host, "//process/a%2Fb/../?x=%20+", "X-Forwarded-Host: evil", "Cookie: a=1"
    )

    assert answer.status == 200
    assert answer.seen[0] == "GET //process/a%2Fb/../?x=%20+ HTTP/1.1"
    told = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in answer.seen[1:]}
    assert told["host"] == told["x-forwarded-host"] == host
    assert (told["x-forwarded-proto"], told["x-forwarded-for"]) == ("http", "127.0.0.1")
    assert told["forwarded"] == f'for=127.0.0.1;host="{host}";proto=http'
    assert "x-forwarded-prefix" not in told
    assert told["cookie"] == "a=1"


def test_a_gateways_word_is_added_to(make_server: Callable[..., Server], echo: Echo) -> None:
    behind = make_server(env={"SANDKEEPER_TRUSTED_GATEWAYS": "127.0.0.1"})
    told = ask(
        *(behind, f"{echo.port}.localhost", "/"),
        *("Forwarded: for=203.0.113.7;proto=https", "X-Forwarded-Proto: https"),
        *("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: app.example"),
    ).seen

    host = f"{echo.port}.localhost"
    assert f'forwarded: for=203.0.113.7;proto=https, for=127.0.0.1;host="{host}";proto=http' in told
    assert {"x-forwarded-proto: https", "x-forwarded-host: app.example"} <= set(told)
    assert "x-forwarded-for: 203.0.113.7, 127.0.0.1" in told


def test_what_the_server_says_of_its_own_origin_is_its_affair(
    unguarded: Server, echo: Echo
) -> None:
    host = f"{echo.port}.localhost"
    own = [
        *("location: /login", "content-security-policy: default-src 'self'", "refresh: 1; url=/a"),
        *("set-cookie: a=1; Path=/app; HttpOnly", "service-worker-allowed: /"),
        *(f"set-cookie: d=1; Domain={host}", "cross-origin-opener-policy: same-origin"),
        *("cache-control: max-age=5", "access-control-allow-origin: https://else.example"),
    ]
    foreign = [
        *("set-cookie: sandkeeper_token=x; Path=/", "set-cookie: Sandkeeper_Port=x"),
        *("connection: x-hop", "x-hop: 1", "keep-alive: 5"),
    ]
    echo.fields = [line.encode() for line in (*own, *foreign, "set-cookie: w=1; Domain=localhost")]
    try:
        answer = ask(unguarded, host, "/")
    finally:
        echo.fields = []

    lines = [f"{name}: {value}" for name, value in answer.fields]
    assert set(own) <= set(lines)
    assert "set-cookie: w=1" in lines, "a cookie for all hosts above became one of this host"
    assert not set(foreign) & set(lines)
    assert {"pragma", "x-request-id", "access-control-expose-headers"}.isdisjoint(
        name for name, _ in answer.fields
    )


@pytest.mark.parametrize("path", ["/health", "/ready", "/process", "/mcp", "/port/1/", "/terminal"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_such_a_name_never_reaches_the_api(
    unguarded: Server, echo: Echo, path: str, method: str
) -> None:
    path += "?user=nobody"
    answer = ask(unguarded, f"{echo.port}.localhost", path, method=method)

    assert answer.seen[0] == f"{method} {path} HTTP/1.1"
    assert ask(unguarded, f"{unguarded.port}.localhost", path, method=method).status == 400


def test_a_name_of_a_port_where_nothing_listens_is_said_so(unguarded: Server) -> None:
    answer = ask(unguarded, "1.localhost", "/health")

    assert (answer.status, json.loads(answer.body)["code"]) == (422, "PORT_NOT_LISTENING")


def test_events_flow_one_by_one(unguarded: Server) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with listener, socket.create_connection(("127.0.0.1", unguarded.port), timeout=30) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: %d.localhost\r\n\r\n" % port)
        server, _ = listener.accept()
        server.settimeout(30)
        with server, client.makefile("rb") as lines:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            server.sendall(head + b"data: 1\n\n")
            assert b"data: 1\n" in iter(lines.readline, b"")
            server.sendall(b"data: 2\n\n")
            assert b"data: 2\n" in iter(lines.readline, b"")


# Who may ask

FOREIGN = "https://evil.example"


def own(server: Server, port: int) -> str:
    return f"{port}.localhost:{server.port}"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((), 200),
        (("Origin: http://{own}",), 200),
        (("Sec-Fetch-Site: same-origin",), 200),
        (("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"), 200),
        (("Origin: http://1234.localhost:{at}", "Sec-Fetch-Site: cross-site"), 200),
        (("Origin: http://1234.localhost:1", "Sec-Fetch-Site: cross-site"), 403),
        (("Origin: http://localhost:{at}", "Sec-Fetch-Site: same-site"), 403),
        ((f"Origin: {FOREIGN}",), 403),
        (("Origin: null",), 403),
        (("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), 403),
        (("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), 403),
        (
            (
                *("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
                *("Sec-Fetch-Dest: document", "Sec-Fetch-User: ?1"),
            ),
            200,
        ),
    ],
)
def test_pages_of_a_port_and_those_beside_it_may_ask_and_strangers_may_not(
    unguarded: Server, echo: Echo, fields: tuple[str, ...], status: int
) -> None:
    host = own(unguarded, echo.port)
    told = [one.format(own=host, at=unguarded.port) for one in fields]

    assert ask(unguarded, host, "/", *told).status == status
    upgrade = ["Upgrade: anything", "Connection: upgrade"]
    assert ask(unguarded, host, "/", *told, *upgrade).status == status


@pytest.mark.parametrize("origins", ["", "*"])
def test_a_page_of_a_port_is_a_stranger_to_the_api(
    make_server: Callable[..., Server], origins: str
) -> None:
    server = make_server(
        env={"SANDKEEPER_CORS_ORIGINS": origins, "SANDKEEPER_TERMINAL_ORIGINS": origins}
    )
    at = f"localhost:{server.port}"
    page = f"http://3000.{at}"

    for fields in (
        [f"Origin: {page}"],
        [f"Origin: {page}", "Sec-Fetch-Site: same-site"],
        ["Sec-Fetch-Site: same-site", f"Referer: {page}/"],
        [f"Referer: {page}/x"],
    ):
        assert ask(server, at, "/process", *fields).status == 403, fields
    socket_fields = ["Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13"]
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    refused = ask(server, at, "/terminal/ws", f"Origin: {page}", *socket_fields, key)
    assert refused.status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("{port}.localhost", 200),
        ("{port}-abc.boxes.example", 200),
        ("{port}.sub.mine.example", 200),
        ("{port}.evil.example", 403),
    ],
)
def test_a_name_that_anybody_can_have_lead_here_needs_the_operators_word(
    unguarded: Server, guarded: Server, echo: Echo, host: str, status: int
) -> None:
    name = host.format(port=echo.port)

    assert ask(unguarded, name, "/").status == status
    assert ask(guarded, name, "/", f"Authorization: Bearer {TOKEN}").status == 200


# With a token


def cookie_of(answer: Answer) -> str:
    return answer.field("set-cookie").partition(";")[0]


def link(server: Server, port: int, **wanted: Any) -> Any:
    reply = server.client.post(
        f"/network/ports/{port}/links",
        json=wanted,
        headers={"Authorization": f"Bearer {TOKEN}", "Host": f"localhost:{server.port}"},
    )
    assert reply.status_code == 201, reply.text
    return reply.json()


def revoke(server: Server, key: str) -> int:
    reply = server.client.delete(
        f"/network/links/{key}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    return reply.status_code


def parts(url: str) -> tuple[str, str]:
    """Return host and target of an address."""
    host, _, target = url.removeprefix("http://").partition("/")
    return host, f"/{target}"


def test_without_the_token_a_port_is_shut(guarded: Server, echo: Echo) -> None:
    host = own(guarded, echo.port)

    for path in ("/", "/health", "/ready", "/filesystem-link", "/?user=root"):
        assert ask(guarded, host, path).status == 401, path
    assert ask(guarded, host, "/", "Authorization: Bearer wrong").status == 401
    seen = ask(guarded, host, "/?a=1", f"Authorization: Bearer {TOKEN}").seen
    assert seen[0] == "GET /?a=1 HTTP/1.1"
    assert TOKEN not in "".join(seen)


def test_a_link_is_spent_by_the_first_visit_and_brings_a_cookie_of_that_port(
    guarded: Server, echo: Echo
) -> None:
    made = link(guarded, echo.port, path="/a?b=c")
    host, target = parts(made["url"])
    assert host == own(guarded, echo.port)

    assert ask(guarded, host, target, method="HEAD").status == 204
    assert ask(guarded, host, target, "Sec-Purpose: prefetch").status == 204
    assert ask(guarded, host, target, method="POST").status == 401
    first = ask(guarded, host, target)
    assert (first.status, first.field("location")) == (303, "/a?b=c")
    assert "HttpOnly" in first.field("set-cookie")
    assert "Path=/;" in first.field("set-cookie")
    assert ask(guarded, host, target).status == 401

    cookie = f"Cookie: x=1; {cookie_of(first)}; y=2"
    seen = ask(guarded, host, "/a", cookie).seen
    assert seen[0] == "GET /a HTTP/1.1"
    assert "cookie: x=1; y=2" in [line.lower() for line in seen]
    again = ask(guarded, host, target, cookie)
    assert (again.status, again.field("location")) == (303, "/a?b=c")
    for name, path in [
        (f"1{echo.port}.localhost", "/"),
        (f"{echo.port}-abc.boxes.example", "/"),
        ("localhost", f"/port/{echo.port}/"),
        ("localhost", "/process"),
    ]:
        assert ask(guarded, name, path, cookie).status == 401, (name, path)

    assert revoke(guarded, made["id"]) == 200
    assert ask(guarded, host, "/a", cookie).status == 401
    assert revoke(guarded, made["id"]) == 404


@pytest.mark.parametrize("which", ["guarded", "unguarded"])
def test_a_link_opens_a_window_also_when_the_click_for_it_is_long_ago(
    which: str, request: pytest.FixtureRequest, echo: Echo
) -> None:
    server: Server = request.getfixturevalue(which)
    host, target = parts(link(server, echo.port, path='/a?b=c&d="x"')["url"])
    led = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    framed = (*led[:2], "Sec-Fetch-Dest: iframe")

    for fields in (framed, (*led, "Origin: https://a.example"), led[:1]):
        assert ask(server, host, target, *fields).status == 403, fields
    assert ask(server, host, target, *led, method="POST").status == 403
    assert ask(server, host, "/a?link=forged", *led).status == 403
    first = ask(server, host, target, *led)
    assert first.status == 200
    assert b'content="0;url=/a?b=c&amp;d=' in first.body
    assert first.field("content-security-policy") == "default-src 'none'"
    led_on = ("Sec-Fetch-Site: same-origin", *led[1:], f"Cookie: {cookie_of(first)}")
    assert ask(server, host, "/a?b=c", *led_on).seen[0] == "GET /a?b=c HTTP/1.1"
    assert ask(server, host, "/a?b=c", *led, f"Cookie: {cookie_of(first)}").status == 403


def test_of_many_who_open_a_link_at_once_one_comes_in(guarded: Server, echo: Echo) -> None:
    host, target = parts(link(guarded, echo.port)["url"])
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(guarded, host, target).status))
        for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert statuses.count(303) == 1
    assert set(statuses) <= {303, 401, 403}


def test_a_preview_opens_a_port_for_all_who_have_it_until_it_is_revoked(
    guarded: Server, echo: Echo
) -> None:
    made = link(guarded, echo.port, once=False, seconds=3600)
    host, target = parts(made["url"])

    visits = [ask(guarded, host, target) for _ in range(2)]
    assert [one.status for one in visits] == [303, 303]
    cookie = f"Cookie: {cookie_of(visits[1])}"
    assert ask(guarded, host, "/", cookie).status == 200
    asked = ask(guarded, host, target, method="POST")
    assert asked.seen[0] == "POST / HTTP/1.1", "a client that keeps no cookies may go on with it"

    token = {"Authorization": f"Bearer {TOKEN}"}
    listed = guarded.client.get("/network/links", headers=token).json()["links"]
    assert made["id"] in [one["id"] for one in listed]
    assert "url" not in listed[0]
    assert revoke(guarded, made["id"]) == 200
    assert ask(guarded, host, target).status == 401
    assert ask(guarded, host, "/", cookie).status == 401


def test_a_link_below_the_prefix_opens_that_prefix(guarded: Server, echo: Echo) -> None:
    made = link(guarded, echo.port, via="prefix", path="/x")
    host, target = parts(made["url"])
    assert target.startswith(f"/port/{echo.port}/x?")

    first = ask(guarded, host, target)
    assert first.field("location") == f"/port/{echo.port}/x"
    assert f"Path=/port/{echo.port}/;" in first.field("set-cookie")
    cookie = f"Cookie: {cookie_of(first)}"
    assert ask(guarded, host, f"/port/{echo.port}/x", cookie).status == 200
    assert ask(guarded, own(guarded, echo.port), "/", cookie).status == 401
    assert ask(guarded, host, "/process", cookie).status == 401


def test_a_base_is_a_path_that_its_server_sees_whole(guarded: Server, echo: Echo) -> None:
    made = link(guarded, echo.port, via="base", once=False)
    host, target = parts(made["url"])
    assert target == made["base"]

    page = ("Origin: null", "Sec-Fetch-Site: cross-site")
    assert ask(guarded, host, target + "a?b", *page).seen[0] == f"GET {target}a?b HTTP/1.1"
    assert revoke(guarded, made["id"]) == 200
    assert ask(guarded, host, target + "a?b", *page).status in {401, 403}


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"path": "//\\evil"}, ""),
        ({"path": "x"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/a#b"}, "path"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 10**9}, "seconds"),
        ({"via": "x"}, "via"),
        ({"via": "base"}, "once"),
        ({"host": "1.localhost"}, "host"),
        ({"host": "evil"}, "host"),
    ],
)
def test_a_link_that_makes_no_sense_is_refused_by_the_fields_name(
    guarded: Server, echo: Echo, wanted: dict[str, Any], named: str
) -> None:
    reply = guarded.client.post(
        f"/network/ports/{echo.port}/links",
        json=wanted,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )

    if named:
        assert (reply.status_code, reply.json()["error"].partition(":")[0]) == (400, named)
    else:
        host, target = parts(reply.json()["url"])
        led = ask(guarded, host, target).field("location")
        assert led.startswith("/./"), "it leads to no other host"


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_a_link_to_no_port_is_refused(guarded: Server, port: str) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    reply = guarded.client.post(f"/network/ports/{port}/links", json={}, headers=token)

    assert reply.status_code == 400


def test_a_token_in_an_address_becomes_a_cookie_of_that_host(guarded: Server, echo: Echo) -> None:
    host = own(guarded, echo.port)
    tab = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none")

    answer = ask(guarded, host, f"//x?token={TOKEN}&a=1", *tab)

    assert (answer.status, answer.field("location")) == (303, "/.//x?a=1")
    assert "SameSite=Lax" in answer.field("set-cookie")
    cookie = f"Cookie: {cookie_of(answer)}"
    assert ask(guarded, host, "/", cookie, *tab).status == 200
    assert ask(guarded, own(guarded, 1), "/", cookie, *tab).status == 401


def test_a_links_ticket_is_in_no_log_line(guarded: Server, echo: Echo) -> None:
    made = link(guarded, echo.port)
    host, target = parts(made["url"])
    ask(guarded, host, target)
    ask(guarded, host, "/seen")

    seen = f"//{echo.port}.localhost/seen"
    until(lambda: seen in guarded.log_path.read_text())
    text = guarded.log_path.read_text()
    assert target.partition("token=")[2] not in text


def test_links_outlive_a_restart_and_not_another_token(
    make_server: Callable[..., Server], echo: Echo
) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": TOKEN})
    kept, spent = (link(server, echo.port) for _ in range(2))
    host, target = parts(spent["url"])
    cookie = f"Cookie: {cookie_of(ask(server, host, target))}"
    server.stop()
    server.start()
    assert ask(server, host, target).status == 401
    assert ask(server, host, "/", cookie).status == 200
    server.stop()
    server.env["SANDKEEPER_TOKEN"] = "another"
    server.start()

    assert ask(server, host, "/", cookie).status == 401
    assert ask(server, *parts(kept["url"])).status == 401


def test_no_jump_of_the_clock_prolongs_a_ticket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"wall": 1_800_000_000.0, "up": 100.0}
    monkeypatch.setattr(clocks.time, "time", lambda: now["wall"])
    monkeypatch.setattr(clocks, "uptime", lambda: now["up"])
    made = Tickets(tmp_path / "key", [])
    ticket = made.issue(COOKIE, 80).encode()

    def opens() -> bool:
        return made.opens(COOKIE, 80, ticket)

    now["wall"] -= 10 * 365 * 86400
    assert opens()
    now["up"] += 12 * 3600 + 1
    assert not opens()
    now["wall"] += 1
    ticket = made.issue(COOKIE, 80).encode()
    assert opens()
    now["wall"] += 11 * 365 * 86400  # a snapshot that slept for a year
    assert not opens()
    now["wall"] -= 11 * 365 * 86400
    assert not opens()


def test_what_is_signed_for_one_thing_is_good_for_no_other(tmp_path: Path) -> None:
    signer = Signer(tmp_path / "key", ["a"], lambda: 1000.0)
    ticket = signer.sign("file", "/a b", "read", seconds=10).encode()

    assert signer.opens("file", "/a b", "read", ticket=ticket)
    for facts in (("/a", "b", "read"), ("/a b", "write"), ("/a b",), ("/a%20b", "read")):
        assert not signer.opens("file", *facts, ticket=ticket)
    assert not signer.opens("link", "/a b", "read", ticket=ticket)
    late = Signer(tmp_path / "key", ["a"], lambda: 1010.0)
    assert not late.opens("file", "/a b", "read", ticket=ticket)
    assert late.made("file", "/a b", "read", ticket=ticket)


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"grants": 3}', b"\xff" * 100])
def test_a_damaged_list_of_links_opens_nothing(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "links.json"
    path.write_bytes(broken)
    path.chmod(0o600)

    assert Grants(path).alive() == []


# Upgrades


async def pieces(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def test_a_websocket_of_16_mib_passes_both_ways(unguarded: Server) -> None:
    message = bytes(16 << 20)

    async def run() -> int:
        options: dict[str, Any] = {"max_size": None, "compression": "deflate"}
        async with serve(pieces, "127.0.0.1", 0, **options) as upstream:
            port = upstream.sockets[0].getsockname()[1]
            address = f"ws://{port}.localhost:{unguarded.port}/"
            options["origin"] = f"http://{port}.localhost:{unguarded.port}"
            host = ("127.0.0.1", unguarded.port)
            async with connect(address, host=host[0], port=host[1], proxy=None, **options) as own:
                await own.send(message)
                return len(await own.recv())

    assert asyncio.run(run()) == len(message)


def test_messages_pass_in_pieces_and_are_not_held(unguarded: Server) -> None:
    """A frame of a gigabyte is announced; what there is of it arrives at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with listener, socket.create_connection(("127.0.0.1", unguarded.port), timeout=30) as client:
        client.sendall(handshake(port, b"websocket"))
        server, _ = listener.accept()
        server.settimeout(30)
        with server, client.makefile("rb") as answer, server.makefile("rb") as request:
            assert b"upgrade: websocket\r\n" in list(iter(request.readline, b"\r\n"))
            frame = b"\x82\x7f" + (1 << 30).to_bytes(8, "big") + b"first"
            switched = b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            server.sendall(switched + frame[:3])
            assert answer.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            assert b"upgrade: websocket\r\n" in list(iter(answer.readline, b"\r\n"))
            server.sendall(frame[3:])
            assert answer.read(len(frame)) == frame
            client.sendall(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"maskx")
            assert request.read(15) == b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"maskx"


def handshake(port: int, protocol: bytes) -> bytes:
    return (
        b"GET /x HTTP/1.1\r\nHost: %d.localhost\r\nUpgrade: %s\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ) % (port, protocol)


def test_another_protocol_passes_as_well_and_each_direction_ends_alone(
    unguarded: Server,
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with listener, socket.create_connection(("127.0.0.1", unguarded.port), timeout=30) as client:
        client.sendall(handshake(port, b"raw/1") + b"ahead")
        server, _ = listener.accept()
        server.settimeout(30)
        with server, client.makefile("rb") as answer, server.makefile("rb") as request:
            list(iter(request.readline, b"\r\n"))
            server.sendall(b"HTTP/1.1 101 Yes\r\nUpgrade: raw/1\r\nConnection: upgrade\r\n\r\n")
            assert request.read(5) == b"ahead"
            client.shutdown(socket.SHUT_WR)
            assert request.read() == b""
            server.sendall(b"x" * 1_000_000)
            server.close()
            head = b"".join(iter(answer.readline, b"\r\n"))
            assert b"upgrade: raw/1" in head
            request.close()
            assert len(answer.read()) == 1_000_000


def test_a_server_that_declines_an_upgrade_answers_as_ever(unguarded: Server, echo: Echo) -> None:
    answer = ask(
        *(unguarded, own(unguarded, echo.port), "/"),
        *("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"),
    )

    assert (answer.status, answer.field("connection")) == (200, "close")
    assert "http2-settings: aamaaabk" not in answer.body.decode().lower()


def test_a_websocket_needs_the_token_or_the_cookie_too(guarded: Server) -> None:
    async def run(headers: dict[str, str]) -> str | bytes:
        async with serve(pieces, "127.0.0.1", 0) as upstream:
            port = upstream.sockets[0].getsockname()[1]
            host, target = parts(link(guarded, port)["url"])
            if "Cookie" in headers:
                headers["Cookie"] = cookie_of(await asyncio.to_thread(ask, guarded, host, target))
            address = f"ws://{host}/"
            at: dict[str, Any] = {"host": "127.0.0.1", "port": guarded.port, "proxy": None}
            async with connect(address, additional_headers=headers, **at) as own:
                await own.send("hello")
                return await own.recv()

    assert asyncio.run(run({"Cookie": ""})) == "hello"
    assert asyncio.run(run({"Authorization": f"Bearer {TOKEN}"})) == "hello"
    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(run({}))
    assert refused.value.response.status_code == 401


def test_a_server_that_stops_parts_from_its_websockets(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()

    async def run() -> int | None:
        async with serve(pieces, "127.0.0.1", 0) as upstream:
            port = upstream.sockets[0].getsockname()[1]
            address = f"ws://127.0.0.1:{server.port}/port/{port}/"
            async with connect(address, proxy=None) as own:
                await own.send("a")
                await own.recv()
                await asyncio.to_thread(server.stop)
                await own.wait_closed()
                return own.close_code

    assert asyncio.run(run()) == 1012


def test_the_api_itself_is_called_by_its_names_as_ever(unguarded: Server) -> None:
    for host in ("localhost", "127.0.0.1", "app.localhost", "x.mine.example"):
        assert ask(unguarded, host, "/process").status == 200
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", unguarded.port)) as plain:
        plain.request("GET", "/health", headers={"Host": "3000.evil.example"})
        assert plain.getresponse().status == 403
