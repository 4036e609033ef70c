"""Who may do what: every route with every token, with a workload's user and without."""

import asyncio
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.routing import Route
from tests.client.verbs import run
from tests.harness import Server, until
from tests.later import Later
from tests.nursery import nursery
from tests.rights_table import ANY, PAGE, SOCKET, Row, page_with_table, rows

from sandkeeper.api.edge.rights import ARCHIVE, OPEN, Need, Right, Standing, protect
from sandkeeper.api.edge.routing import empty_head, path_route, route, socket_route
from sandkeeper.log.access import Caller
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Environment, RightsSettings, Settings

server_of_tools = Later("sandkeeper.api.mcp.server")
tool = Later("sandkeeper.api.mcp.tool")

USER_TOKEN, ADMIN_TOKEN = "the-user's", "the-operator's"
TOKENS = {"nobody": "", "wrong": "neither", "user": USER_TOKEN, "admin": ADMIN_TOKEN}
WORKLOAD = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

NONE, AS_USER, OPERATOR = Right.NONE, Right.USER, Right.OPERATOR
EXPECTED = {
    # (tokens that are set, a workload's user): the right of nobody, wrong, user, admin
    ("", False): (OPERATOR, OPERATOR, OPERATOR, OPERATOR),
    ("", True): (AS_USER, AS_USER, AS_USER, AS_USER),
    ("user", False): (NONE, NONE, OPERATOR, NONE),
    ("user", True): (NONE, NONE, OPERATOR, NONE),
    ("admin", False): (AS_USER, AS_USER, AS_USER, OPERATOR),
    ("admin", True): (AS_USER, AS_USER, AS_USER, OPERATOR),
    ("user admin", False): (NONE, NONE, AS_USER, OPERATOR),
    ("user admin", True): (NONE, NONE, AS_USER, OPERATOR),
}
"""Written down here once more, apart from the code that decides it."""


def options(tokens: str, *, apart: bool) -> dict[str, Any]:
    env = {"BL_ENV": "dev"}
    if "user" in tokens:
        env["SANDKEEPER_TOKEN"] = USER_TOKEN
    if "admin" in tokens:
        env["SANDKEEPER_ADMIN_TOKEN"] = ADMIN_TOKEN
    return {"env": env, "args": ["--user", WORKLOAD] if apart else []}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def path_of(row: Row) -> str:
    """Name something that does not exist, so that nothing happens where the call is let in."""
    path = row.path.replace("{port}", "1").replace("{pid}", "999999999")
    path = re.sub(r"\{[a-z_]+\}", "missing", path).replace("/…", "/missing/x")
    return path + ("?shell=/missing" if row.method == SOCKET else "")


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def ask(server: Server, row: Row, token: str) -> tuple[int, bytes]:
    """Return the status and, of a refusal, what came: some of the other answers do not end."""
    method = "GET" if row.method in {ANY, SOCKET} else row.method
    body = "" if method in {"GET", "HEAD"} else "{"
    head = f"{method} {path_of(row)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in bearer(token).items())
    head += UPGRADE if row.method == SOCKET else "Connection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n" if body else ""
    # Some thousand calls: a client that makes more of each would cost more than the server.
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(f"{head}\r\n{body}".encode())
        told = sock.recv(4096)
        status = int(told.split()[1])
        while status == 403 and (more := sock.recv(4096)):
            told += more
    return status, told


def verdict(server: Server, row: Row, token: str) -> str:
    """Ask and return `let in`, `no token` or `not the operator`."""
    status, told = ask(server, row, token)
    if row.method == SOCKET:
        return "let in" if status == 101 else "no token"
    if status == 401:
        return "no token"
    return "not the operator" if b"needs the operator's right" in told else "let in"


def wanted(need: Need, right: Right) -> str:
    if need == OPEN or right >= need.right:
        return "let in"
    return "no token" if right is NONE else "not the operator"


@pytest.fixture(scope="module")
def table() -> list[Row]:
    return rows()


WHOLE = [("", True), ("user admin", True)]
"""With these each route meets every right, by a token and without; the other settings only decide
who has which, which one route of each need shows."""


def one_of_each_need(table: list[Row]) -> list[Row]:
    found: dict[tuple[Need, bool], Row] = {}
    for row in table:
        found.setdefault((row.need, row.method == SOCKET), row)
    return list(found.values())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("tokens", "apart"), EXPECTED)
def test_every_route_lets_in_whom_the_table_names(
    make_server, table: list[Row], tokens: str, apart: bool
) -> None:
    server: Server = make_server(**options(tokens, apart=apart))
    whole = (tokens, apart) in WHOLE
    told, listed = {}, {}
    for row in table if whole else one_of_each_need(table):
        if row.need.area and row.need.right is AS_USER:
            continue  # whose drive it is decides: see tests/e2e/test_rights_user.py
        for (who, token), right in zip(TOKENS.items(), EXPECTED[tokens, apart], strict=True):
            key = (row.method, row.path, who)
            told[key] = verdict(server, row, token)
            listed[key] = wanted(row.need, right)

    assert len(told) > (350 if whole else 20)
    assert told == listed


def test_the_table_in_the_docs_is_that_of_the_routes() -> None:
    text = PAGE.read_text()

    assert page_with_table(text) == text, "run scripts/rights"


def test_there_is_no_route_and_no_tool_without_a_declared_right() -> None:
    async def connect(_socket: Any) -> None: ...

    for make in (
        lambda: route("/x", empty_head),
        lambda: path_route("/x", empty_head),
        lambda: socket_route("/x", connect),
        lambda: tool.Tool("x", "", tool.Arguments, tool.Arguments, connect),
    ):
        with pytest.raises(TypeError, match="need"):
            make()
    with pytest.raises(TypeError, match="does not say what right it needs"):
        protect([Route("/x", empty_head)])


class Done(msgspec.Struct):
    done: bool = True


def test_a_tool_needs_its_right_as_a_route_does(tmp_path: Path) -> None:
    calls = []

    async def call(_arguments: Any, _who: Caller) -> Done:
        calls.append(1)
        return Done()

    settings = Settings.read({"SANDKEEPER_STATE_DIR": str(tmp_path), "SANDKEEPER_LOG": "none"})
    sandbox = Sandbox(settings, Environment())
    made = tool.Tool("export", "", tool.Arguments, Done, call, need=ARCHIVE)
    tools = server_of_tools.ToolServer([made], log=sandbox.log, freeze=sandbox.archive.freeze)
    message = {"id": 1, "method": "tools/call", "params": {"name": "export", "arguments": {}}}

    def ask(right: Right) -> Any:
        who = tool.Asker(Caller(), Standing(right, RightsSettings()))
        return asyncio.run(tools.answer(message, "2025-06-18", who))["result"]

    refused = ask(AS_USER)
    assert (refused["isError"], calls) == (True, [])
    assert "needs the operator's right (archive)" in refused["content"][0]["text"]
    assert msgspec.json.decode(ask(OPERATOR)["structuredContent"]) == {"done": True}
    assert calls == [1]


def test_a_refusal_says_what_would_permit_it(make_server) -> None:
    said = {}
    for tokens, apart in (("", True), ("user admin", True), ("user admin", False)):
        server: Server = make_server(**options(tokens, apart=apart))
        headers = bearer(USER_TOKEN)
        reply = server.client.post("/archive/export", json={"dryRun": True}, headers=headers)
        assert (reply.status_code, list(reply.json())) == (403, ["error"])
        said[tokens, apart] = reply.json()["error"]

    permit = "or permit it to everybody with SANDKEEPER_WORKLOAD_MAY=archive"
    assert said["", True] == (
        "this needs the operator's right (archive): start the server with SANDKEEPER_ADMIN_TOKEN "
        f"and send that, {permit}"
    )
    assert said["user admin", True] == (
        "this needs the operator's right (archive): send the token of SANDKEEPER_ADMIN_TOKEN, "
        + permit
    )
    assert said["user admin", False] == said["user admin", True]


def test_areas_can_be_permitted_to_everybody(make_server) -> None:
    made = options("user admin", apart=True)
    made["env"]["SANDKEEPER_WORKLOAD_MAY"] = "archive, tunnel"
    server: Server = make_server(**made)
    user = bearer(USER_TOKEN)

    assert server.client.get("/archive/status", headers=user).status_code == 200
    assert server.client.put("/network/tunnel/config", json={}, headers=user).status_code == 400
    assert server.client.post("/environment/reload", headers=user).status_code == 403
    assert server.client.post("/upgrade", headers=user).status_code == 403
    assert server.client.get("/archive/status").status_code == 401
    (said,) = until(lambda: [one for one in server.log_lines() if "WORKLOAD_MAY" in one["msg"]])
    assert (said["level"], said["msg"].rpartition(": ")[2]) == ("warning", "archive, tunnel")


def test_permitting_all_areas_leaves_the_token_needed(make_server) -> None:
    made = options("user", apart=True)
    made["env"]["SANDKEEPER_WORKLOAD_MAY"] = "all"
    server: Server = make_server(**made)

    for method, path in (("GET", "/archive/status"), ("POST", "/environment/reload")):
        assert server.client.request(method, path).status_code == 401


def test_a_refused_call_has_not_been_read(make_server) -> None:
    server: Server = make_server(**options("", apart=True))

    head = (
        f"POST /archive/export HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head.encode())  # and nothing of the body
        assert sock.recv(4096).startswith(b"HTTP/1.1 403")


# Tokens


def start(env: dict[bytes, bytes], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Start a server that should not start."""
    state = {b"SANDKEEPER_STATE_DIR": bytes(tmp_path / "state"), b"SANDKEEPER_LOG": b"none"}
    variables = {os.fsdecode(k): os.fsdecode(v) for k, v in (os.environb | state | env).items()}
    words = ("--host", "127.0.0.1", "--port", "0")
    done = run(*words, env=variables, folder=tmp_path, loaded=nursery())
    return subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.mark.parametrize("name", [b"SANDKEEPER_TOKEN", b"SANDKEEPER_ADMIN_TOKEN"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "is set but empty"),
        (b" \t\n", "is set but empty"),
        (b"abc\xff", "is not UTF-8"),
        (b"ab\ncd", "holds a character that no header can carry"),
        (b"ab\x01cd", "holds a character that no header can carry"),
        (b"ab\x7fcd", "holds a character that no header can carry"),
    ],
)
def test_a_token_that_cannot_be_meant_ends_the_start(
    name: bytes, value: bytes, why: str, tmp_path: Path
) -> None:
    done = start({name: value}, tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"sandkeeper: a setting makes no sense: {name.decode()} {why}")
    assert done.stderr.count("\n") == 1
    assert "cd" not in done.stderr


def test_one_token_for_both_rights_and_an_unknown_area_end_the_start(tmp_path: Path) -> None:
    same = start({b"SANDKEEPER_TOKEN": b"one", b"SANDKEEPER_ADMIN_TOKEN": b"one\n"}, tmp_path)
    unknown = start({b"SANDKEEPER_WORKLOAD_MAY": b"archive,drive"}, tmp_path)

    assert (same.returncode, unknown.returncode) == (2, 2)
    assert "SANDKEEPER_ADMIN_TOKEN is the same as SANDKEEPER_TOKEN" in same.stderr
    assert "there is no 'drive'; there are archive, drives, environment" in unknown.stderr


def test_tokens_come_from_files_that_are_the_servers_alone(make_server, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("user", "admin")}
    for name, path in files.items():
        path.write_text(TOKENS[name] + "\n")
        path.chmod(0o600)
    linked = tmp_path / "linked"  # as Kubernetes mounts secrets
    linked.symlink_to(files["admin"])
    env = {"SANDKEEPER_TOKEN_FILE": str(files["user"]), "SANDKEEPER_ADMIN_TOKEN_FILE": str(linked)}
    server: Server = make_server(env=env)

    assert server.client.get("/process").status_code == 401
    assert server.client.get("/archive/status", headers=bearer(USER_TOKEN)).status_code == 403
    assert server.client.get("/archive/status", headers=bearer(ADMIN_TOKEN)).status_code == 200


def test_a_token_file_that_cannot_be_meant_ends_the_start(tmp_path: Path) -> None:
    good, blank, shared = (tmp_path / name for name in ("good", "blank", "shared"))
    good.write_text("token")
    blank.write_text("\n")
    shared.write_text("token")
    shared.chmod(0o666)
    os.mkfifo(tmp_path / "fifo")
    name = b"SANDKEEPER_TOKEN_FILE"
    for env, why in (
        ({name: b""}, "SANDKEEPER_TOKEN_FILE is set but empty"),
        ({name: bytes(tmp_path / "missing")}, "No such file"),
        ({name: bytes(blank)}, "SANDKEEPER_TOKEN is set but empty"),
        ({name: bytes(shared)}, "can be written by others"),
        ({name: bytes(tmp_path / "fifo")}, "is not a regular file"),
        ({name: bytes(good), b"SANDKEEPER_TOKEN": b"x"}, "are both set"),
    ):
        done = start(env, tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert why in done.stderr


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server whose tokens end as files of secrets do, and are not all ASCII."""
    env = {"SANDKEEPER_TOKEN": " sécret&= \n", "SANDKEEPER_ADMIN_TOKEN": "admin\r\n"}
    with Server(tmp_path_factory.mktemp("spaced"), env=env) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sécret&="},
        {"Authorization": "bearer   sécret&="},
        {"X-Blaxel-Authorization": "Bearer sécret&="},
        {"X-Blaxel-Preview-Token": "sécret&="},
        {"Cookie": 'a=b; sandkeeper_token="sécret&="'},
        {"Authorization": "Bearer admin"},
    ],
)
def test_white_space_around_a_token_does_not_count(spaced: Server, headers: Any) -> None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]

    assert spaced.client.get("/process", headers=sent).status_code == 200


def test_a_token_in_a_query_is_read_byte_for_byte(spaced: Server) -> None:
    for query in ("token=s%C3%A9cret%26%3D", "%74oken=s%c3%a9cret%26=", "bl_preview_token=admin"):
        assert spaced.client.get(f"/process?{query}").status_code == 200, query
    for query in ("token=s%E9cret%26%3D", "token=", "token=admin%0A", "token=%20admin"):
        assert spaced.client.get(f"/process?{query}").status_code == 401, query


def test_tokens_are_in_no_log_no_answer_and_no_file(make_server, tmp_path: Path) -> None:
    server: Server = make_server(**options("user admin", apart=False))
    client, admin = server.client, bearer(ADMIN_TOKEN)
    for token in (USER_TOKEN, ADMIN_TOKEN, "wrong"):
        for path in ("/process", "/archive/status", "/nothing", "/port/1/x", "/debug/panic"):
            client.get(path, params={"token": token})
            client.get(path, headers=bearer(token))
    seen = [client.get(path, headers=admin).text for path in ("/diagnostics", "/metrics")]
    body = {"command": "env; tr '\\0' '\\n' < /proc/self/environ", "waitForCompletion": True}
    seen.append(client.post("/process", json=body, headers=admin).text)
    server.stop()

    files = [path for path in server.folder.rglob("*") if path.is_file()]
    seen += [path.read_bytes().decode("latin-1") for path in files]
    assert len(files) > 3
    assert server.log_path in files
    for text in seen:
        assert USER_TOKEN not in text
        assert ADMIN_TOKEN not in text


def test_the_api_that_a_token_opens_serves_health_to_all(spaced: Server) -> None:
    assert spaced.client.get("/health").status_code == 200
    assert spaced.client.get("/ready").status_code == 200
    assert httpx.head(spaced.url + "/health", trust_env=False).status_code == 200
    assert spaced.client.get("/ready/").status_code == 401
