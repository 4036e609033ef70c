"""Who may call /port, with which token or ticket, and what of these a server there gets to see."""

import asyncio
import contextlib
import http.client
import io
import socket
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.port.listener import Echo
from tests.harness import Server, cases, until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sandkeeper.api.edge.tokens import TICKET, TOKEN, offers, sift
from sandkeeper.api.port.tickets import COOKIE, PAGE, Tickets
from sandkeeper.errors import BadInput

SECRET = "tok 1+2%/&=é"
PLAIN = "s3cret-of-ports"


CROSS = b"Sec-Fetch-Site: cross-site"
SAME = b"Sec-Fetch-Site: same-site"
TAB = (b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document", b"Sec-Fetch-User: ?1")


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_TOKEN": PLAIN, "SANDKEEPER_CORS_ORIGINS": "https://a.example"}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_CORS_ORIGINS": "https://a.example"}
    with Server(tmp_path_factory.mktemp("open"), env=env) as running:
        yield running


def ask(server: Server, target: str | bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    """Send one request as it stands and return the whole answer."""
    raw = target.encode() if isinstance(target, str) else target
    lines = [method + b" " + raw + b" HTTP/1.1", b"Host: localhost", *fields, b"Connection: close"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        return sock.makefile("rb").read()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# Tokens and tickets


def spelled(text: str) -> st.SearchStrategy[bytes]:
    """Every way to write a text in a query: each byte plain (where it can be) or as an escape."""

    def ways(byte: int) -> list[bytes]:
        escapes = [b"%%%02x" % byte, b"%%%02X" % byte]
        if byte == 0x20:
            return [*escapes, b"+"]
        return escapes if byte in b"%+&# \xc3\xa9=" else [*escapes, bytes([byte])]

    return st.tuples(*(st.sampled_from(ways(byte)) for byte in text.encode())).map(b"".join)


TOLD = spelled(SECRET)
QUERIES = st.lists(
    st.one_of(
        st.tuples(
            st.one_of(spelled("token"), spelled("bl_preview_token"), st.just(b"a")),
            st.one_of(TOLD, st.just(b"other"), st.just(b"")),
        ).map(b"=".join),
        st.sampled_from([b"", b"token", b"=", b"%74oken%3Dx", b"a=1", b"&", b"token=%"]),
    ),
    max_size=6,
).map(b"&".join)
RAW = SECRET.encode()
QUOTED = b"".join(b"\\%03o" % byte for byte in RAW)
FIELDS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                (b"authorization", b"Bearer " + RAW),
                (b"authorization", b"bEARER   " + RAW + b" "),
                (b"authorization", RAW),
                (b"authorization", b"Basic abc"),
                (b"x-blaxel-authorization", b"Bearer " + RAW),
                (b"x-blaxel-preview-token", RAW),
                (b"cookie", b"a=1; sandkeeper_token=" + RAW + b"; b=2"),
                (b"cookie", b'sandkeeper_token="' + RAW + b'"'),
                (b"cookie", b'sandkeeper_token="' + QUOTED + b'"; a=1'),
                (b"cookie", b"a=1 sandkeeper_token=" + RAW),
                (b"cookie", b'a="; sandkeeper_token=' + RAW + b'"'),
                (b"cookie", b"sandkeeper_token = " + RAW + b";sandkeeper_token=" + RAW),
                (b"cookie", b"sandkeeper_port=x; a=1"),
            ]
        ),
        st.tuples(st.just(b"cookie"), st.binary(max_size=20)),
    ),
    max_size=5,
)


@given(QUERIES, FIELDS)
def test_what_is_left_of_a_request_offers_no_token_and_nothing_else_is_missing(
    query: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    scope = {"query_string": query, "headers": fields}

    left, rest = sift(scope, lambda kind, value: kind == TOKEN and value == RAW)
    after = {"query_string": rest, "headers": left}

    assert RAW not in offers(after)
    assert offers(after) == [one for one in offers(scope) if one != RAW]
    assert offers(after, TICKET) == offers(scope, TICKET)
    if RAW not in offers(scope):
        assert (left, rest) == (fields, query)


MIB = 1 << 20


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        (b"token=x&" * (MIB // 8), b""),
        (b"&" * MIB, b""),
        (b"%74" * (MIB // 3), b""),
        (b"", b"sandkeeper_token=x;" * (MIB // 19)),
        (b"", b"sandkeeper_token" + b";" * MIB),
        (b"", b'sandkeeper_token="' + b"\\1" * (MIB // 2) + b'"'),
        (b"", b"a" + b" sandkeeper_token=" * (MIB // 18)),
    ],
)
def test_looking_for_tokens_is_cheap_whatever_is_sent(query: bytes, cookie: bytes) -> None:
    scope = {"query_string": query, "headers": [(b"cookie", cookie)]}
    began = time.process_time()

    with contextlib.suppress(BadInput):
        sift(scope, lambda *_: False)

    assert time.process_time() - began < 2


def test_more_tokens_than_anybody_has_are_refused(guarded: Server, unguarded: Server) -> None:
    for server in (guarded, unguarded):
        assert status(ask(server, "/port/1/?" + "token=x&" * 40)) == 400
        assert status(ask(server, "/port/1/", b"Cookie: " + b"sandkeeper_token=x;" * 40)) == 400


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("odd"), env={"SANDKEEPER_TOKEN": SECRET}) as running:
        yield running


@settings(
    max_examples=cases(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(QUERIES, FIELDS, st.booleans())
def test_no_token_that_opens_a_port_reaches_it(
    odd: Server,
    echo: Echo,
    query: bytes,
    fields: list[tuple[bytes, bytes]],
    html: bool,
) -> None:
    lines = [
        name + b": " + value
        for name, value in fields
        if not any(byte < 32 or byte == 127 for byte in value)
    ]
    lines += [b"Accept: text/html"] if html else []
    echo.heads.clear()

    answer = ask(odd, b"/port/%d/x?%b" % (echo.port, query), *lines)

    assert status(answer) in (200, 303, 400, 401)
    accepted = {"query_string": query, "headers": [tuple(one.split(b": ", 1)) for one in lines]}
    if status(answer) == 200:
        (head,) = echo.heads
        line, *rest = head.split(b"\r\n")
        sent = [tuple(one.split(b": ", 1)) for one in rest if b": " in one]
        seen = {"query_string": line.split(b" ")[1].partition(b"?")[2], "headers": sent}
        assert RAW in offers(accepted)
        assert RAW not in offers(seen)
    else:
        assert echo.heads == []
        assert status(answer) != 401 or RAW not in offers(accepted)


@pytest.mark.parametrize("spelling", ["token", "%74oken", "tok%65%6E", "bl_preview_token"])
@pytest.mark.parametrize("shown", [b"Accept: text/html,*/*", b"Sec-Fetch-Mode: navigate"])
def test_a_token_in_an_address_becomes_a_cookie_of_that_port(
    guarded: Server, echo: Echo, spelling: str, shown: bytes
) -> None:
    port = echo.port
    target = f"/port/{port}/a%2Fb/?x=1&{spelling}={PLAIN}&y=%20&token={PLAIN}"

    answer = ask(guarded, target, shown, b"Sec-Fetch-Site: none")
    head = http.client.parse_headers(io.BytesIO(answer.partition(b"\r\n")[2]))

    assert status(answer) == 303
    assert head["location"] == f"/port/{port}/a%2Fb/?x=1&y=%20"
    assert head["referrer-policy"] == "no-referrer"
    (name, morsel) = next(iter(SimpleCookie(head["set-cookie"]).items()))
    assert (morsel["path"], morsel["samesite"], morsel["httponly"]) == (
        f"/port/{port}/",
        "Lax",
        True,
    )
    assert PLAIN not in answer.decode()
    assert echo.heads == []
    cookie = f"Cookie: a=1; {name}={morsel.value}; b=2".encode()
    seen = ask(guarded, head["location"], cookie)
    assert status(seen) == 200
    assert b"cookie: a=1; b=2\r\n" in seen
    for path in ("/process", f"/port/{port + 1}/", "/filesystem//etc/passwd", "/terminal", "/mcp"):
        assert status(ask(guarded, path, cookie)) == 401
    for place in (
        b"Authorization: Bearer ",
        b"Cookie: sandkeeper_token=",
        b"X-Blaxel-Preview-Token: ",
    ):
        assert status(ask(guarded, "/process", place + morsel.value.encode())) == 401
    assert status(ask(guarded, f"/port/{port}/?token={morsel.value}")) == 401


def test_in_a_frame_of_a_page_that_may_the_token_becomes_a_ticket(
    guarded: Server, echo: Echo
) -> None:
    frame = (CROSS, b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe")
    target = f"/port/{echo.port}/a?token={PLAIN}&b"

    answer = ask(guarded, target, *frame, b"Referer: https://a.example/")
    location = answer.partition(b"ocation: ")[2].partition(b"\r\n")[0]

    assert location.startswith(b"/port/%d/~" % echo.port)
    assert location.endswith(b"/a?b")
    assert status(ask(guarded, location, *frame, b"Referer: https://a.example/")) == 200
    assert status(ask(guarded, target, *frame, b"Referer: https://evil.example/")) == 403


def test_a_client_that_is_no_browser_is_served_at_once(guarded: Server, echo: Echo) -> None:
    answer = ask(guarded, f"/port/{echo.port}/?a=1&%74oken={PLAIN}", b"Accept: */*")

    assert status(answer) == 200
    assert echo.heads[0].startswith(b"GET /?a=1 HTTP/1.1\r\n")
    assert PLAIN.encode() not in echo.heads[0]


def test_a_websocket_with_the_token_in_its_address_does_not_tell_it(guarded: Server) -> None:
    from websockets.asyncio.server import serve

    async def run() -> str:
        async def tell(connection: Any) -> None:
            await connection.send(connection.request.path + str(connection.request.headers))

        async with serve(tell, "127.0.0.1", 0) as upstream, asyncio.timeout(100):
            port = upstream.sockets[0].getsockname()[1]
            url = f"ws://127.0.0.1:{guarded.port}/port/{port}/?t%6Fken={PLAIN}&a=1"
            async with connect(url, proxy=None) as connection:
                return str(await connection.recv())

    told = asyncio.run(run())
    assert told.startswith("/?a=1")
    assert PLAIN not in told


def test_tickets_open_one_port_for_their_time_and_kind(tmp_path: Path) -> None:
    made = Tickets(tmp_path / "key", ["a"])
    ticket = made.issue(COOKIE, 80).encode()
    port, expiry, mac = ticket.split(b"-", 2)

    assert made.opens(COOKIE, 80, ticket)
    assert Tickets(tmp_path / "key", ["a"]).opens(COOKIE, 80, ticket)
    assert made.issue(PAGE, 80) == made.issue(PAGE, 80)
    for kind, number, one in [
        (PAGE, 80, ticket),
        (COOKIE, 81, ticket),
        (COOKIE, 81, b"-".join([b"81", expiry, mac])),
        (COOKIE, 80, b"-".join([port, b"%x" % (int(expiry, 16) + 1), mac])),
        (COOKIE, 80, b"-".join([port, b"1", mac])),
        (COOKIE, 80, ticket[:-1]),
        (COOKIE, 80, ticket + b"A"),
        (COOKIE, 80, b""),
    ]:
        assert not made.opens(kind, number, one)
    assert not Tickets(tmp_path / "key", ["b"]).opens(COOKIE, 80, ticket)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_somebody_else_could_have_written_is_not_used(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_bytes(bytes(32))
    (tmp_path / "key").symlink_to(planted)

    forged = Tickets(planted, []).issue(COOKIE, 80).encode()

    assert not Tickets(tmp_path / "key", []).opens(COOKIE, 80, forged)
    assert planted.read_bytes() == bytes(32)


def test_a_cookie_outlives_a_restart_and_not_another_token(
    make_server: Callable[..., Server], echo: Echo
) -> None:
    own = make_server(env={"SANDKEEPER_TOKEN": PLAIN})
    answer = ask(own, f"/port/{echo.port}/?token={PLAIN}", b"Accept: text/html")
    cookie = answer.lower().partition(b"set-cookie: ")[2].partition(b";")[0]
    value = answer[answer.lower().index(cookie) :][: len(cookie)]

    own.restart()
    assert status(ask(own, f"/port/{echo.port}/", b"Cookie: " + value)) == 200
    own.env["SANDKEEPER_TOKEN"] = "another"
    own.restart()
    assert status(ask(own, f"/port/{echo.port}/", b"Cookie: " + value)) == 401


# Browsers


def page_address(server: Server, port: int, *fields: bytes) -> str:
    """Return where a browser is sent that opens a port."""
    answer = ask(server, f"/port/{port}/a?b", b"Sec-Fetch-Mode: navigate", *fields)
    assert status(answer) == 303
    location = answer.partition(b"ocation: ")[2].partition(b"\r\n")[0].decode()
    assert location.startswith(f"/port/{port}/~")
    assert location.endswith("/a?b")
    return location


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ((CROSS, b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: image"), b"GET"),
        ((SAME, b"Sec-Fetch-Mode: no-cors", b"Sec-Fetch-Dest: script"), b"GET"),
        ((CROSS, b"Referer: http://localhost/", b"Sec-Fetch-Dest: image"), b"GET"),
        ((CROSS, b"Referer: https://evil.example/"), b"GET"),
        ((CROSS, b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe"), b"GET"),
        ((CROSS, *TAB), b"POST"),
        ((CROSS, *TAB[:2]), b"GET"),
        ((CROSS, *TAB, b"Origin: null"), b"GET"),
        ((CROSS, b"Origin: null"), b"GET"),
        ((b"Origin: null",), b"GET"),
        ((b"Origin: https://evil.example",), b"POST"),
        ((b"Origin: http://localhost:1",), b"POST"),
        (
            (CROSS, b"Origin: https://evil.example", b"Access-Control-Request-Method: GET"),
            b"OPTIONS",
        ),
        ((b"Sec-Fetch-Site: same-origin", b"Service-Worker: script"), b"GET"),
    ],
)
def test_other_pages_do_not_reach_a_port(
    unguarded: Server, guarded: Server, echo: Echo, fields: tuple[bytes, ...], method: bytes
) -> None:
    cookie = b"Cookie: sandkeeper_token=" + PLAIN.encode()

    assert status(ask(unguarded, f"/port/{echo.port}/", *fields, method=method)) == 403
    assert status(ask(guarded, f"/port/{echo.port}/", cookie, *fields, method=method)) == 403
    assert echo.heads == []


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Sec-Fetch-Site: none",),
        (b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Mode: no-cors"),
        (b"Sec-Fetch-Site: same-origin", b"Origin: http://localhost"),
        (CROSS, b"Origin: https://a.example"),
        (CROSS, b"Referer: https://a.example/x", b"Sec-Fetch-Dest: image"),
    ],
)
def test_clients_own_pages_and_those_that_are_named_reach_it(
    unguarded: Server, echo: Echo, fields: tuple[bytes, ...]
) -> None:
    assert status(ask(unguarded, f"/port/{echo.port}/x", *fields)) == 200
    assert echo.heads[0].startswith(b"GET /x HTTP/1.1\r\n")


def test_a_persons_way_from_another_site_opens_a_page_and_the_page_its_own_port(
    unguarded: Server, echo: Echo
) -> None:
    address = page_address(unguarded, echo.port, CROSS, *TAB[1:])
    page = address.removesuffix("a?b")

    for fields in (TAB, (CROSS, b"Sec-Fetch-Dest: image"), (b"Origin: null", CROSS)):
        assert status(ask(unguarded, page + "x", *fields)) == 200
    told = echo.heads[-1]
    assert b"origin: http://localhost:%d\r\n" % echo.port in told
    assert b"sec-fetch-site: same-origin\r\n" in told
    assert b"via: 1.1 sandkeeper-page-" in told
    other = address.replace(f"/port/{echo.port}/", f"/port/{echo.port + 1}/")
    assert status(ask(unguarded, other, b"Origin: null")) == 403
    assert status(ask(unguarded, page + "x", b"Origin: https://evil.example")) == 403
    log = unguarded.log_path.read_text()
    assert address.split("~")[1].split("/")[0] not in log


def test_a_page_may_read_what_its_own_server_answers(unguarded: Server, echo: Echo) -> None:
    page = page_address(unguarded, echo.port).removesuffix("a?b")
    echo.fields = [b"Access-Control-Allow-Origin: https://evil.example", b"X-Told: 1"]
    echo.fields += [b"Cross-Origin-Opener-Policy: same-origin", b"X-Frame-Options: DENY"]
    wanted = (b"Origin: null", b"Access-Control-Request-Method: PUT")

    answer = ask(unguarded, page, b"Origin: null").lower()
    preflight = ask(
        unguarded, page, *wanted, b"Access-Control-Request-Headers: x-own", method=b"OPTIONS"
    ).lower()

    assert b"access-control-allow-origin: null\r\n" in answer
    assert b"evil.example" not in answer
    assert b"x-told" in answer.partition(b"access-control-expose-headers: ")[2].split(b"\r\n")[0]
    assert b"cross-origin-opener-policy" not in answer
    assert b"cross-origin-resource-policy: cross-origin" in answer
    assert b"x-frame-options: deny" in answer
    assert status(preflight) == 204
    assert b"access-control-allow-methods: put\r\n" in preflight
    assert b"access-control-allow-headers: x-own\r\n" in preflight
    assert len(echo.heads) == 1


@pytest.mark.parametrize("code", [b"200 OK", b"404 No", b"500 No", b"304 No", b"302 No", b"418 No"])
@pytest.mark.parametrize("kind", [b"text/html", b"image/svg+xml", b"application/xml", b""])
def test_every_answer_is_sandboxed_beside_the_servers_own_policy(
    unguarded: Server, echo: Echo, code: bytes, kind: bytes
) -> None:
    echo.status = code
    echo.fields = [b"Content-Security-Policy: default-src 'self'"]
    echo.fields += [b"Content-Type: " + kind] if kind else []

    head = ask(unguarded, f"/port/{echo.port}/").partition(b"\r\n\r\n")[0].lower()

    policies = [one for one in head.split(b"\r\n") if one.startswith(b"content-security-policy: ")]
    assert policies == [
        b"content-security-policy: default-src 'self'",
        b"content-security-policy: sandbox allow-scripts allow-forms allow-popups allow-modals "
        b"allow-downloads",
    ]


def test_a_port_speaks_for_itself_only(unguarded: Server, echo: Echo) -> None:
    port = echo.port
    whole = [b"Clear-Site-Data: *", b"Strict-Transport-Security: max-age=1", b"Alt-Svc: h2"]
    whole += [b"Service-Worker-Allowed: /", b"NEL: {}", b"Report-To: {}", b"Accept-CH: x"]
    cookies = [
        b"Set-Cookie: a=1; Path=/; Domain=localhost; HttpOnly",
        b"Set-Cookie: b=2; pAtH = /x",
    ]
    cookies += [b"Set-Cookie: sandkeeper_token=evil; Path=/", b"Set-Cookie: c=3"]
    cookies += [b"Set-Cookie:  SANDKEEPER_TOKEN =evil", b"Set-Cookie: d=4; Path=/port/1/"]
    echo.fields = [*whole, *cookies, b"X-Kept: 1"]

    def answer(target: str, *fields: bytes) -> list[str]:
        head = ask(unguarded, target, *fields).partition(b"\r\n\r\n")[0]
        return head.decode().lower().split("\r\n")

    plain = answer(f"/port/{port}/")
    shown = answer(f"/port/{port}/", b"User-Agent: Mozilla/5.0 (own)")
    page = answer(page_address(unguarded, port))

    for lines in (plain, shown, page):
        names = {line.partition(":")[0] for line in lines}
        assert names.isdisjoint(one.partition(b":")[0].decode().lower() for one in whole)
        assert "x-kept: 1" in lines
        assert not [line for line in lines if "sandkeeper_token" in line]
    scope = f" path=/port/{port}/"
    kept = [line.removeprefix("set-cookie: ") for line in shown if line.startswith("set-cookie")]
    other = f"{scope}port/1/"  # below its own: it is not the port that it names
    assert kept == [f"a=1; httponly;{scope}", f"b=2;{scope}x", f"c=3;{scope}", f"d=4;{other}"]
    assert f"set-cookie: c=3;{scope}; samesite=none; secure" in page


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("/login?x=/", "{page}/login?x=/"),
        ("http://localhost:{port}/login", "{page}/login"),
        ("http://127.0.0.1:{port}", "{page}/"),
        ("http://localhost/login#a", "{page}/login#a"),
        ("//localhost:{port}/x", "{page}/x"),
        ("{page}/x", "{page}/x"),
        ("/port/{port}/x", "{page}/x"),
        ("/process", "{page}/process"),
        ("login", "login"),
        ("?x", "?x"),
        ("https://else.example/x", "https://else.example/x"),
        ("http://localhost:{port}@evil.example/", "http://localhost:{port}@evil.example/"),
    ],
)
def test_where_a_pages_server_sends_it_is_below_the_page(
    unguarded: Server, echo: Echo, told: str, meant: str
) -> None:
    page = page_address(unguarded, echo.port).removesuffix("/a?b")
    names = {"page": page, "port": str(echo.port)}
    echo.status, echo.fields = b"302 Found", [b"Location: " + told.format(**names).encode()]

    def location(target: str) -> str:
        return ask(unguarded, target).partition(b"ocation: ")[2].partition(b"\r\n")[0].decode()

    assert location(page + "/") == meant.format(**names)
    plain = told if told.startswith("{page}") else meant.replace("{page}", "/port/{port}")
    assert location(f"/port/{echo.port}/") == plain.format(**names)


@pytest.mark.parametrize(
    "field",
    [
        b"Referer: http://localhost/port/80/",
        b"Referer: http://localhost/port/80/~x/y?z",
        b"Referer: http://localhost/edge/port/80",
        b"Via: 1.1 sandkeeper-page-0123abcd",
    ],
)
def test_the_api_refuses_what_shows_that_it_comes_from_a_port(
    unguarded: Server, field: bytes
) -> None:
    assert status(ask(unguarded, "/process", field)) == 403
    assert status(ask(unguarded, "/process")) == 200
    assert status(ask(unguarded, "/process", b"Referer: http://else.example/port/80/")) == 200


@pytest.mark.parametrize(
    "fields",
    [
        (b"Origin: null", b"Referer: http://localhost/"),
        (CROSS, b"Referer: http://localhost/", b"Sec-Fetch-Mode: no-cors"),
    ],
)
def test_a_page_without_an_origin_is_refused_even_where_all_pages_are_permitted(
    make_server: Callable[..., Server], fields: tuple[bytes, ...]
) -> None:
    everybody = make_server(env={"SANDKEEPER_CORS_ORIGINS": "*"})

    assert status(ask(everybody, "/process", *fields)) == 403
    assert status(ask(everybody, "/process", b"Origin: https://any.example", CROSS)) == 200


def test_a_page_does_not_become_the_api_by_way_of_this_or_another_server(
    unguarded: Server, guarded: Server
) -> None:
    for behind in (unguarded, guarded):
        page = page_address(unguarded, behind.port).removesuffix("a?b")
        answer = ask(unguarded, page + "process", b"Origin: null", b"Accept: */*")
        assert status(answer) in (401, 403)


# Wires


@pytest.mark.parametrize(
    "field",
    [
        *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked"),
        *(b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: chunked, chunked"),
        *(b"Transfer-Encoding: identity", b"Transfer-Encoding: ", b"Transfer-Encoding: gzip"),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        *(b"TE: xchunked", b"TE: chunked;q=1", b"TE: trailers, chunked", b"TE: gzip;q=2"),
        *(b"Content-Length: 3\r\nContent-Length: 4", b"Content-Length: +3"),
        *(b"A: b\n\nGET /x HTTP/1.1\nB: c", b"A: b\rC: d", b"A: b\0"),
    ],
)
def test_what_frames_a_body_in_two_ways_is_refused_before_the_port_is_asked(
    unguarded: Server, echo: Echo, field: bytes
) -> None:
    answer = ask(unguarded, f"/port/{echo.port}/", field, method=b"POST")

    assert status(answer) == 400
    assert b'"error"' in answer
    assert echo.heads == []


@pytest.mark.parametrize("value", [b"trailers", b"gzip;q=0.5, deflate", b"", b", trailers"])
def test_a_te_field_of_any_client_is_taken_and_stays_here(
    unguarded: Server, echo: Echo, value: bytes
) -> None:
    assert status(ask(unguarded, f"/port/{echo.port}/", b"TE: " + value)) == 200
    assert b"\r\nte:" not in echo.heads[0].lower()


def test_servers_in_a_circle_end_it_after_a_few_hops(
    unguarded: Server, make_server: Callable[..., Server]
) -> None:
    other = make_server()
    circle = f"/port/{other.port}/port/{unguarded.port}"
    folder = Path(f"/proc/{unguarded.pid}/fd")
    before = len(list(folder.iterdir()))

    assert status(ask(unguarded, circle + "/health")) == 200
    assert status(ask(unguarded, circle * 700 + "/health")) == 508
    assert status(ask(unguarded, circle * 700 + "/health", b"Connection: via")) == 508
    until(lambda: len(list(folder.iterdir())) <= before + 2)


def test_a_websocket_in_a_circle_ends_as_well(unguarded: Server) -> None:
    async def run() -> int:
        fields = {"Via": ", ".join(f"1.1 sandkeeper-0000000{n}" for n in range(4))}
        url = f"ws://127.0.0.1:{unguarded.port}/port/1/"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None, additional_headers=fields):
                pass
        return refused.value.response.status_code

    assert asyncio.run(run()) == 508


LINES = st.one_of(
    st.sampled_from(
        [
            *(b"Connection: host, content-length, via, x", b"Content-Length: 0", b"Host: evil"),
            *(b"X_Forwarded_For: 1", b"X-Forwarded-For: 1", b"Via: 1.0 other", b"Upgrade: h2c"),
            *(b"Proxy-Authorization: x", b"TE: trailers", b"Trailer: x", b"Keep-Alive: 5"),
            *(b" folded", b"X: 1"),
        ]
    ),
    st.tuples(st.sampled_from([b"A", b"a b", b"", b"A\t"]), st.binary(max_size=9)).map(b": ".join),
)


@settings(
    max_examples=cases(80),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(LINES, max_size=5))
def test_whatever_comes_reaches_a_port_as_one_request_of_one_meaning(
    unguarded: Server, echo: Echo, fields: list[bytes]
) -> None:
    echo.heads.clear()

    answer = ask(unguarded, f"/port/{echo.port}/x", *fields)

    if status(answer) != 200:
        assert echo.heads == []
        return
    (head,) = echo.heads
    assert head.startswith(b"GET /x HTTP/1.1\r\n")
    assert not any(byte in head.replace(b"\r\n", b"") for byte in b"\r\n\0")
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:-1]]
    for once in (b"host", b"via", b"connection", b"x-forwarded-for", b"x-forwarded-host"):
        assert names.count(once) == 1
    assert b"host: localhost:%d\r\n" % echo.port in head
    assert b"connection: close\r\n" in head
    gone = {
        b"te",
        b"trailer",
        b"keep-alive",
        b"upgrade",
        b"proxy-authorization",
        b"x_forwarded_for",
    }
    assert gone.isdisjoint(names)
    assert sum(names.count(one) for one in (b"content-length", b"transfer-encoding")) <= 1
