"""The frame of the API: health, unknown routes, common headers, limits on request heads."""

import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.harness import Server, free_port, resident, until


def test_health_has_every_field_the_clients_require(server: Server) -> None:
    body = server.client.get("/health").json()

    assert body["status"] == "ok"
    assert set(body) == {
        *("status", "version", "gitCommit", "buildTime", "goVersion", "os", "arch", "uptime"),
        *("uptimeSeconds", "upgradeCount", "startedAt", "lastUpgrade"),
    }
    assert {"status", "step", "version"} <= set(body["lastUpgrade"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PUT", "/health")])
def test_an_unknown_route_or_method_is_a_plain_text_404(
    server: Server, method: str, path: str
) -> None:
    reply = server.client.request(method, path)

    assert (reply.status_code, reply.text) == (404, "404 page not found")
    assert reply.headers["content-type"] == "text/plain"
    assert "access-control-allow-origin" not in reply.headers


def test_options_is_answered_on_every_path_with_cors_headers_only(server: Server) -> None:
    reply = server.client.options("/anything/at/all")

    assert (reply.status_code, reply.content) == (204, b"")
    assert "PUT" in reply.headers["access-control-allow-methods"]
    assert "pragma" not in reply.headers


def test_a_preflight_allows_what_clients_send_and_plain_replies_keep_the_contracts_lists(
    server: Server,
) -> None:
    asked = {"Access-Control-Request-Headers": "x-blaxel-new, mcp-method, x-other"}
    preflight = server.client.options("/mcp", headers=asked).headers
    allowed = preflight["access-control-allow-headers"].lower()
    plain = server.client.get("/health").headers

    for name in ("x-blaxel-authorization", "x-blaxel-new", "mcp-protocol-version", "mcp-method"):
        assert name in allowed
    assert "x-other" not in allowed
    assert "PATCH" in preflight["access-control-allow-methods"]
    assert int(preflight["access-control-max-age"]) > 0
    assert plain["access-control-allow-methods"] == "GET, POST, PUT, DELETE, HEAD, OPTIONS"
    assert plain["access-control-allow-headers"] == "Content-Type, Authorization"
    assert "ETag" in plain["access-control-expose-headers"]


def test_with_a_list_of_origins_other_pages_are_refused(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_CORS_ORIGINS": "https://a.example"})
    get = own.client.get

    named = get("/health", headers={"Origin": "https://a.example"})
    other = get("/health", headers={"Origin": "https://b.example"})
    ours = get("/health", headers={"Origin": own.url})
    nobody = get("/health")

    assert named.headers["access-control-allow-origin"] == "https://a.example"
    assert (named.headers["vary"], other.status_code) == ("Origin", 403)
    assert (ours.status_code, nobody.status_code) == (200, 200)
    assert "access-control-allow-origin" not in {*other.headers, *ours.headers, *nobody.headers}
    # A form or script of another page needs no preflight for this, and would have run it.
    harm = own.client.post("/process", content=b"{}", headers={"Origin": "https://b.example"})
    assert harm.status_code == 403


def test_the_request_id_comes_back_or_is_made_up(server: Server) -> None:
    given = server.client.get("/health", headers={"X-Request-Id": "abc"})
    made = [server.client.get("/nothing").headers["x-request-id"] for _ in range(2)]

    assert given.headers["x-request-id"] == "abc"
    assert made[0] != made[1]
    assert re.fullmatch(r"[0-9a-f-]{36}", made[0])


@pytest.mark.parametrize(("trusted", "believed"), [("10.0.0.0/8", False), ("127.0.0.1", True)])
def test_identity_headers_are_believed_of_gateways_only(
    make_server, trusted: str, believed: bool
) -> None:
    own: Server = make_server(env={"SANDKEEPER_TRUSTED_GATEWAYS": trusted})
    who = {"X-Blaxel-Subject-Id": "boss", "X-Request-Id": "r1"}

    own.client.post("/process", json={"command": "true"}, headers=who)
    own.stop()

    line = next(one for one in own.log_lines() if one.get("action") == "process_exec")
    assert (line["sub-id"], line["rid"]) == ("boss" if believed else "", "r1")


def test_a_gateway_that_makes_no_sense_is_no_start() -> None:
    command = [sys.executable, "-m", "sandkeeper", "--port", str(free_port())]
    done = subprocess.run(
        command, env={"SANDKEEPER_TRUSTED_GATEWAYS": "all"}, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "'all' does not appear to be" in done.stderr


def test_processing_time_is_told_where_asked(make_server, server: Server) -> None:
    own: Server = make_server(env={"ENABLE_PROCESSING_TIME": "true"})

    told = own.client.get("/health").headers["server-timing"]

    assert re.fullmatch(
        r'total;dur=\d+\.\d\d;desc="Processing time of the Sandbox API request"', told
    )
    assert "server-timing" not in server.client.get("/health").headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((path, 200) for path in ("/network/process/1/ports", "/codegen/reranking/x")),
        *((path, 200) for path in ("/terminal", "/terminal/ws", "/drives/mount", "/health")),
        *((path, 200) for path in ("/process", "/process/a", "/process/a/logs")),
        *((path, 404) for path in ("/", "/mcp", "/swagger", "/swagger/index.html")),
        *((path, 404) for path in ("/swagger/doc.json", "/ready", "/process/a/kill")),
    ],
)
def test_head_is_bare_where_the_contract_has_it(server: Server, path: str, status: int) -> None:
    reply = server.client.head(path)

    assert (reply.status_code, reply.content) == (status, b"")


def test_a_socket_to_an_unknown_route_is_the_same_404(server: Server) -> None:
    answer = upgrade(server, "/nothing")

    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b"404 page not found")


def test_every_reply_forbids_caching(server: Server) -> None:
    headers = server.client.get("/health").headers

    assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert (headers["pragma"], headers["expires"]) == ("no-cache", "0")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_trailing_slash_is_redirected_and_the_query_is_kept(server: Server) -> None:
    reply = server.client.get("/health/?a=1")

    assert (reply.status_code, reply.headers["location"]) == (301, "/health?a=1")
    assert server.client.post("/process/").status_code == 307


@pytest.mark.parametrize(
    ("prefix", "location"),
    [
        ("/a/b/", "/a/b/health"),
        ("//elsewhere.example", "/elsewhere.example/health"),
        ("/a/../b", "/health"),
        ("/<x>", "/health"),
        ("https://elsewhere.example", "/health"),
    ],
)
def test_a_redirect_keeps_the_gateways_prefix_and_leads_nowhere_else(
    server: Server, prefix: str, location: str
) -> None:
    for path in ("/health/", "/swagger"):
        reply = server.client.get(path, headers={"X-Forwarded-Prefix": prefix})
        wanted = location if path == "/health/" else location[:-7] + "/swagger/index.html"
        assert (reply.status_code, reply.headers["location"]) == (301, wanted)


def test_a_request_that_is_not_http_gets_a_json_400(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"this is not http\r\n\r\n")
        answer = sock.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error":' in answer


def test_a_head_that_never_ends_is_refused_at_one_mebibyte(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        answer = b""
        try:
            for _ in range(40):
                sock.sendall(b"a" * 65536)
            answer = sock.recv(65536)
        except ConnectionError:
            answer = answer or b"HTTP/1.1 431 (reset)"

    assert answer.startswith(b"HTTP/1.1 431")
    assert server.client.get("/health").status_code == 200


HASTY = {
    "sandkeeper.api.edge.connections.protocol.HEADER_SECONDS": 0.5,
    "sandkeeper.api.edge.connections.server.IDLE_SECONDS": 1,
}


def test_heads_that_dribble_and_connections_that_rest_are_closed(make_server) -> None:
    own: Server = make_server(constants=HASTY)
    half = b"GET /health HTTP/1.1\r\nX-A: "
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for first, dribble in (
        *((half, b"a"), (whole + half, b"a")),
        *((b"", b"\r\n"), (whole, b"\r\n"), (whole, b"")),
    ):
        with socket.create_connection(("127.0.0.1", own.port), timeout=60) as sock:
            sock.sendall(first)
            assert closed_within(sock, dribble, 60.0)
    until(own._answers)  # a client that a busy machine holds up for 0.5 s is closed as well


def closed_within(sock: socket.socket, dribble: bytes, seconds: float) -> bool:
    """Send a byte now and then until the other side has closed."""
    sock.settimeout(0.05)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            sock.sendall(dribble)
            if not sock.recv(65536):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    "trailer", [b"X-Blaxel-Subject-Id: y\r\n" * 20_000, b"X: " + b"y" * (1 << 20)]
)
def test_what_follows_a_body_is_dropped_and_has_a_limit(server: Server, trailer: bytes) -> None:
    head = (
        b"POST /process HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n"
    )
    before = resident(server.pid)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        with suppress(ConnectionError):
            sock.sendall(head)
            for _ in range(30):
                sock.sendall(trailer)
        with suppress(ConnectionError):
            assert not sock.recv(1 << 16).startswith(b"HTTP/1.1 200")

    assert resident(server.pid) - before < 16 << 20
    assert server.client.get("/health").status_code == 200


def test_trailers_within_the_limit_are_ignored(server: Server) -> None:
    body = b'{"command": "true", "name": "trailed"}'
    request = (
        b"POST /process HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\nX-Request-Id: later\r\n\r\n" % (len(body), body)
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(request)
        answer = sock.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"later" not in answer


def test_a_failure_is_an_empty_500_and_the_server_lives(make_server) -> None:
    own: Server = make_server(env={"BL_ENV": "dev"})

    reply = own.client.get("/debug/panic")

    assert (reply.status_code, reply.content) == (500, b"")
    assert own.client.get("/health").status_code == 200
    until(lambda: "asked to panic" in own.log_path.read_text())


def test_a_token_guards_everything_but_health(make_server) -> None:
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})

    assert guarded.client.get("/health").status_code == 200
    refused = guarded.client.get("/process")
    assert (refused.status_code, "error" in refused.json()) == (401, True)
    for headers in (
        {"Authorization": "Bearer s3cret"},
        {"X-Blaxel-Authorization": "Bearer s3cret"},
        {"X-Blaxel-Preview-Token": "s3cret"},
    ):
        assert guarded.client.get("/", headers=headers).status_code == 200
    assert guarded.client.get("/?bl_preview_token=s3cret").status_code == 200
    assert httpx.get(guarded.url + "/?token=wrong").status_code == 401


def test_the_token_reaches_nobody_below(make_server, tmp_path: Path) -> None:
    # A shell there reads no profile of who runs the tests, which may take any time.
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret", "HOME": str(tmp_path)})
    guarded.client.headers["Authorization"] = "Bearer s3cret"

    done = guarded.run("env")
    guarded.client.post("/terminals", json={"sessionId": "t"})
    guarded.client.post(
        "/terminals/t/input", content=b"env | grep -c ^SANDKEEPER_TOKEN; echo d'one'\r"
    )
    shown = {"format": "text", "waitFor": "done\n"}
    screen = guarded.client.get("/terminals/t/screen", params=shown).text
    guarded.client.get("/health?token=s3cret&bl_preview_token=s3cret")
    guarded.stop()

    assert "PATH=" in done["logs"]
    assert "s3cret" not in done["logs"]
    assert "\n0\n" in screen
    assert "s3cret" not in guarded.log_path.read_text()


def test_a_token_guards_sockets_tools_streams_and_ports(make_server) -> None:
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})

    for method, path in (
        *(("GET", one) for one in ("/", "/terminal", "/swagger", "/openapi.json", "/metrics")),
        *(("GET", one) for one in ("/process/a/logs/stream", "/watch/filesystem/x", "/nothing")),
        *(("GET", one) for one in (f"/port/{guarded.port}/health", "/health/", "//health")),
        *(("POST", "/mcp"), ("PUT", "/filesystem/x"), ("DELETE", "/process/a")),
        *((("GET", "/?token="), ("GET", "/?token=wrong"), ("GET", "/?TOKEN=s3cret"))),
    ):
        assert guarded.client.request(method, path).status_code == 401, path
    assert upgrade(guarded, "/terminal/ws").startswith(b"HTTP/1.1 403")
    assert upgrade(guarded, f"/port/{guarded.port}/terminal/ws").startswith(b"HTTP/1.1 401")
    assert upgrade(guarded, "/terminal/ws?token=s3cret").startswith(b"HTTP/1.1 101")


def upgrade(server: Server, path: str) -> bytes:
    """Ask for a WebSocket and return the first bytes of the answer."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head.encode())
        return sock.recv(4096)


def test_access_lines_have_the_contracts_form_and_hide_secrets(make_server) -> None:
    own: Server = make_server()
    own.client.get("/health?b=2&token=abc&a=1")
    own.client.get("/missing", headers={"X-Request-Id": "mine"})
    own.stop()

    lines = [line for line in own.log_lines() if line.get("source") == "access"]
    hidden = next(line for line in lines if "token" in line["msg"])
    assert hidden["msg"].startswith("GET /health?a=1&b=2&token=%5BREDACTED%5D 200 ")
    assert hidden["level"] == "info"
    missing = next(line for line in lines if line["msg"].startswith("GET /missing 404 18 "))
    assert missing["level"] == "info"
    said = [missing[key] for key in ("method", "path", "status", "bytes", "client", "rid")]
    assert said == ["GET", "/missing", 404, 18, "127.0.0.1", "mine"]
    assert 0 < missing["duration"] < 60
    assert hidden["query"] == "a=1&b=2&token=%5BREDACTED%5D"
    assert re.fullmatch(r"[\d-]+T[\d:]+\.\d{3}(Z|[+-][\d:]+)", missing["time"])


PERSON = {"User-Agent": "curl/8.5.0"}


@pytest.mark.parametrize("path", ["/health", "/process", "/missing", "/process/nobody"])
def test_a_person_gets_a_newline_and_a_program_the_contracts_bytes(
    server: Server, path: str
) -> None:
    program = server.client.get(path)
    person = server.client.get(path, headers=PERSON)

    assert not program.content.endswith(b"\n")
    assert person.content.endswith(b"\n")
    assert not person.content.endswith(b"\n\n")
    if path != "/health":
        assert person.content == program.content + b"\n"


def test_files_stay_as_they_are_whoever_asks(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(b"[1]")
    path = f"/filesystem/{tmp_path}/data.json"
    raw = server.client.get(path, headers=PERSON | {"Accept": "application/octet-stream"})

    assert raw.content == b"[1]"
    told = server.client.get(path, headers=PERSON)
    assert told.content.endswith(b"}\n")
    assert int(told.headers["content-length"]) == len(told.content)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/metrics", "GET"),
        ("GET", "/filesystem-copy", "POST"),
        ("PUT", "/process/x/signal", "POST"),
        ("PATCH", "/filesystem-archive/x", "GET, HEAD, PUT"),
    ],
)
def test_a_wrong_method_is_405_where_the_contract_knows_no_such_path(
    server: Server, method: str, path: str, allowed: str
) -> None:
    reply = server.client.request(method, path)

    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert method in reply.json()["error"]


@pytest.mark.parametrize("path", ["/process", "/health", "/filesystem/x", "/process/x/logs"])
def test_a_wrong_method_on_the_contracts_paths_is_an_unknown_route(
    server: Server, path: str
) -> None:
    reply = server.client.patch(path)

    assert (reply.status_code, reply.text) == (404, "404 page not found")


def test_a_query_of_very_many_fields_is_refused_not_failed(make_server) -> None:
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    query = "&".join(["a=1"] * 1100)

    assert guarded.client.get(f"/process?{query}").status_code == 401
    headers = {"Authorization": "Bearer s3cret"}
    assert guarded.client.get(f"/process?{query}", headers=headers).status_code == 200
