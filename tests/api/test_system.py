"""The frame of the API: health, unknown routes, common headers, limits on request heads."""

import socket

import httpx
import pytest
from tests.harness import Server


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
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.headers["access-control-allow-origin"] == "*"


def test_options_is_answered_on_every_path_with_cors_headers_only(server: Server) -> None:
    reply = server.client.options("/anything/at/all")

    assert (reply.status_code, reply.content) == (204, b"")
    assert "PUT" in reply.headers["access-control-allow-methods"]
    assert "pragma" not in reply.headers


def test_every_reply_forbids_caching(server: Server) -> None:
    headers = server.client.get("/health").headers

    assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert (headers["pragma"], headers["expires"]) == ("no-cache", "0")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_trailing_slash_is_redirected_and_the_query_is_kept(server: Server) -> None:
    reply = server.client.get("/health/?a=1")

    assert (reply.status_code, reply.headers["location"]) == (301, "/health?a=1")


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


def test_a_failure_is_an_empty_500_and_the_server_lives(make_server) -> None:
    own: Server = make_server(env={"BL_ENV": "dev"})

    reply = own.client.get("/debug/panic")

    assert (reply.status_code, reply.content) == (500, b"")
    assert own.client.get("/health").status_code == 200
    assert "asked to panic" in own.log_path.read_text()


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


def test_access_lines_have_the_contracts_form_and_hide_secrets(make_server) -> None:
    own: Server = make_server()
    own.client.get("/health?b=2&token=abc&a=1")
    own.client.get("/missing")
    own.stop()

    lines = [line for line in own.log_lines() if line.get("source") == "access"]
    hidden = next(line for line in lines if "token" in line["msg"])
    assert hidden["msg"].startswith("GET /health?a=1&b=2&token=%5BREDACTED%5D 200 ")
    assert hidden["level"] == "info"
    missing = next(line for line in lines if line["msg"].startswith("GET /missing 404 18 "))
    assert missing["level"] == "error"


def test_a_query_of_very_many_fields_is_refused_not_failed(make_server) -> None:
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    query = "&".join(["a=1"] * 1100)

    assert guarded.client.get(f"/process?{query}").status_code == 401
    headers = {"Authorization": "Bearer s3cret"}
    assert guarded.client.get(f"/process?{query}", headers=headers).status_code == 200
