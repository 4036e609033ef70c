"""From names and fields of requests to the server in a sandbox: who gets there, and as what."""

import hmac
import http.client
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.apiserver import ApiServer
from tests.fleet.conftest import ALICE, BOB, DOMAIN, POD_TOKEN, Replica
from tests.harness import Server, free_port, start, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sandkeeper.api.e2b.signatures import READ, signature

ECHO = """
import asyncio, json, sys
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
import uvicorn

async def echo(request):
    return JSONResponse({
        "headers": dict(request.headers), "path": request.url.path,
        "query": str(request.query_params), "body": (await request.body()).decode(),
    }, headers={"Set-Cookie": "sandkeeper_mine=1; Domain=fleet.test"})

async def away(request):
    return RedirectResponse("/elsewhere")

async def slowly(request):
    async def lines():
        yield b"first\\n"
        await asyncio.Event().wait()
    return StreamingResponse(lines())

async def talk(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text.upper())

routes = [Route("/away", away), Route("/slowly", slowly), WebSocketRoute("/talk", talk),
          Route("/{rest:path}", echo, methods=["GET", "POST"])]
uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


@pytest.fixture(scope="module")
def port(pod: Server) -> Iterator[int]:
    """Return the port of a server in the sandbox, on loopback alone."""
    chosen = free_port()
    script = pod.workdir / "echo.py"
    script.write_text(ECHO)
    pid = int(start(pod, f"exec {sys.executable} {script} {chosen}")["pid"])

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{chosen}/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    until(answers, every=0.05)
    yield chosen
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def made(fleet: Replica) -> Iterator[dict[str, Any]]:
    return fleet.create()


@pytest.fixture
def anybody(fleet: Replica) -> Iterator[httpx.Client]:
    """Return a client without a key."""
    with httpx.Client(base_url=fleet.url, timeout=60, trust_env=False, verify=False) as client:
        yield client


def by_name(made: dict[str, Any], port: int) -> dict[str, str]:
    return {
        "Host": f"{port}-{made['sandboxID']}.{DOMAIN}",
        "E2B-Traffic-Access-Token": made["trafficAccessToken"],
    }


def by_field(made: dict[str, Any], port: int) -> dict[str, str]:
    return {
        "E2b-Sandbox-Id": made["sandboxID"],
        "E2b-Sandbox-Port": str(port),
        "X-Access-Token": made["envdAccessToken"],
    }


@pytest.mark.parametrize("told", [by_name, by_field])
def test_a_request_reaches_a_port_of_the_sandbox_and_no_token_does(
    anybody: httpx.Client, made: dict[str, Any], port: int, told: Any
) -> None:
    reply = anybody.post("/a%2Fb?c=d&token=theirs", headers=told(made, port), content=b"body")
    assert reply.status_code == 200
    seen = reply.json()
    assert (seen["path"], seen["query"], seen["body"]) == ("/a/b", "c=d&token=theirs", "body")
    long = anybody.post("/", headers=told(made, port), content=b"x" * (1 << 20)).json()
    assert len(long["body"]) == 1 << 20
    if told is by_name:
        assert seen["headers"]["host"] == f"{port}-{made['sandboxID']}.{DOMAIN}"
        away = anybody.get("/away", headers=told(made, port))
        assert away.headers["location"] == "/elsewhere"
    text = json.dumps(seen)
    assert made["envdAccessToken"] not in text
    assert POD_TOKEN not in text


def test_streams_come_as_they_are_written(
    anybody: httpx.Client, made: dict[str, Any], port: int
) -> None:
    with anybody.stream("GET", "/slowly", headers=by_name(made, port)) as reply:
        assert next(reply.iter_lines()) == "first"


@pytest.mark.parametrize("told", [by_name, by_field])
def test_websockets_pass(fleet: Replica, made: dict[str, Any], port: int, told: Any) -> None:
    fields = told(made, port)
    host = fields.pop("Host", "")
    uri = f"ws://{host or f'127.0.0.1:{fleet.port}'}/talk"
    import socket

    with (
        socket.create_connection(("127.0.0.1", fleet.port)) as sock,
        connect(uri, sock=sock, additional_headers=fields, proxy=None) as talking,
    ):
        talking.send("hello" * 50_000)
        assert talking.recv(timeout=60) == "HELLO" * 50_000


def test_a_websocket_that_leads_nowhere_is_refused(fleet: Replica) -> None:
    nowhere = f"ws://127.0.0.1:{fleet.port}/nothing"
    with pytest.raises(InvalidStatus) as refused, connect(nowhere, proxy=None):
        pass
    assert refused.value.response.status_code == 404


def test_only_the_sandboxs_own_token_opens_it(
    fleet: Replica, anybody: httpx.Client, made: dict[str, Any], port: int
) -> None:
    other = fleet.asking(BOB).post("/v2/sandboxes", json={"templateID": "base", "timeout": 60})
    for token in (other.json()["envdAccessToken"], "wrong", "", BOB):
        for fields in (by_field(made, 49983), by_field(made, port), by_name(made, port)):
            tokens = {name: token for name in fields if "Token" in name}
            reply = anybody.get("/process", headers={**fields, **tokens})
            assert reply.status_code == 401, (token, fields)
    # The server in a sandbox says itself what it answers to everybody.
    healthy = anybody.get("/health", headers={"E2b-Sandbox-Id": made["sandboxID"]})
    assert healthy.status_code == 204
    assert anybody.get("/process", headers=by_field(made, 49983)).status_code == 200
    name = {**by_name(made, 49983), "X-Access-Token": made["envdAccessToken"]}
    assert anybody.get("/process", headers=name).status_code == 200


def test_a_signed_address_opens_its_file(
    anybody: httpx.Client, made: dict[str, Any], pod: Server, port: int
) -> None:
    (pod.workdir / "signed.txt").write_text("signed")
    path = str(pod.workdir / "signed.txt")
    fields = {"E2b-Sandbox-Id": made["sandboxID"]}
    signed = signature(path, READ, "", made["envdAccessToken"], "")
    query = {"path": path, "signature": signed}
    assert anybody.get("/files", params=query, headers=fields).text == "signed"
    query["path"] = "/etc/passwd"
    assert anybody.get("/files", params=query, headers=fields).status_code == 401
    # It opens no port, by whatever field or name the request is led there.
    query["path"] = path
    for more in ({"E2b-Sandbox-Port": str(port)}, {"Host": f"{port}-a.b"}):
        reply = anybody.get("/files", params=query, headers={**fields, **more})
        assert reply.status_code == 401 or reply.text == "signed"


def test_what_the_servers_ask_for_opens_nothing_here(
    anybody: httpx.Client, made: dict[str, Any], pod: Server
) -> None:
    """Who runs programs in one sandbox can read the token of all servers."""
    fields = {"E2b-Sandbox-Id": made["sandboxID"]}
    for more in (
        {"X-Access-Token": POD_TOKEN},
        {"Authorization": f"Bearer {POD_TOKEN}"},
        {"Cookie": f"sandkeeper_token={POD_TOKEN}"},
    ):
        assert anybody.get("/process", headers={**fields, **more}).status_code == 401
    assert anybody.get("/process", params={"token": POD_TOKEN}, headers=fields).status_code == 401
    (pod.workdir / "signed.txt").write_text("signed")
    path = str(pod.workdir / "signed.txt")
    signed = signature(path, READ, "", POD_TOKEN, "")
    for name in ("signature", "%73ignature"):
        query = f"path={path}&{name}={quote(signed)}"
        assert anybody.get(f"/files?{query}", headers=fields).status_code == 401
    of_theirs = "sk_" + hmac.digest(POD_TOKEN.encode(), made["sandboxID"].encode(), "sha256").hex()
    assert made["envdAccessToken"] != of_theirs


def test_a_program_in_a_sandbox_sees_neither_keys_nor_where_a_token_stood(
    anybody: httpx.Client, made: dict[str, Any], port: int
) -> None:
    name = by_name(made, port)
    token = made["envdAccessToken"]
    page = f"http://{name['Host']}/a?token={token}"
    told = {**name, "X-API-KEY": ALICE, "Referer": page}
    seen = anybody.get("/", headers=told).json()
    assert ALICE not in json.dumps(seen)
    assert token not in json.dumps(seen)
    other = anybody.get("/", headers={**name, "X-API-KEY": "its own"}).json()
    assert other["headers"]["x-api-key"] == "its own"


def test_what_is_not_there_is_told_as_e2b_tells_it(
    fleet: Replica, anybody: httpx.Client, api: ApiServer
) -> None:
    def told(name: str) -> tuple[int, str]:
        reply = anybody.get("/health", headers={"E2b-Sandbox-Id": name})
        assert reply.json()["sandboxId"] == name
        assert reply.json()["code"] == reply.status_code
        return reply.status_code, reply.json()["message"]

    assert told("nobody") == told("sf" + "0" * 18) == (502, "The sandbox was not found")
    made = fleet.create()["sandboxID"]
    fleet.client.delete(f"/sandboxes/{made}")
    assert told(made) == (502, "The sandbox was not found")
    # One that another replica makes is not there before it is ready.
    api.ready = False
    labels = {"fleet.sandkeeper.dev/team": "alice", "fleet.sandkeeper.dev/state": "starting"}
    spec = {"warmPoolRef": {"name": "base"}}
    other = "sf" + "1" * 18
    api.put("sandboxclaims", other, metadata={"name": other, "labels": labels}, spec=spec)
    assert told(other) == (502, "The sandbox was not found")
    api.settle()


def test_what_another_replica_did_is_known_before_the_watch_tells(
    fleet: Replica, anybody: httpx.Client, api: ApiServer, made: dict[str, Any]
) -> None:
    name = made["sandboxID"]
    fleet.client.post(f"/sandboxes/{name}/pause")
    api.is_late = True
    running = {"metadata": {"labels": {"fleet.sandkeeper.dev/state": "running"}}}
    status = {"status": {"sandbox": {"podIPs": ["127.0.0.1"]}}}
    api.call(lambda: api._patch("sandboxclaims", name, {**running, **status}))
    try:
        assert fleet.client.get(f"/sandboxes/{name}").json()["state"] == "running"
        assert anybody.get("/health", headers={"E2b-Sandbox-Id": name}).status_code == 204
    finally:
        api.is_late = False


def test_nothing_for_a_sandbox_is_done_by_the_server_of_another(
    tmp_path: Path, make_replica: Callable[..., Replica], api: ApiServer, port: int
) -> None:
    """An address may have been given again while a replica was cut off; the token is the same."""
    env = {
        "SANDKEEPER_TOKEN": POD_TOKEN,
        "SANDKEEPER_PORT_HOSTS": "{port}-{id}.*",
        "SANDKEEPER_SANDBOX_NAME": "mine",
    }
    with Server(tmp_path / "named", env=env) as named:
        replica = make_replica(SANDKEEPER_FLEET_POD_PORT=str(named.port))
        made = replica.create()  # whose Sandbox is called otherwise
        told, led = by_field(made, 49983), by_field(made, port)
        command = {"command": f"touch {tmp_path}/done", "waitForCompletion": True}
        api.is_late = True
        try:
            for more in ({}, {"X-Sandkeeper-Sandbox": "mine"}):
                reply = replica.client.post("/process", json=command, headers={**told, **more})
                assert reply.status_code == 421
                assert set(reply.json()) == {"error"}
            assert replica.client.get("/", headers=led).status_code == 421
            uri = f"ws://127.0.0.1:{replica.port}/talk"
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(uri, additional_headers=led, proxy=None),
            ):
                pass
            assert refused.value.response.status_code == 421
            assert not (tmp_path / "done").exists()
            body = {"templateID": "base", "envVars": {"A": "b"}}
            assert replica.client.post("/v2/sandboxes", json=body).status_code == 503
            # No watch tells it, and it was told nothing but that answer.
            status = {"status": {"sandbox": {"name": "mine", "podIPs": ["127.0.0.1"]}}}
            api.call(lambda: api._patch("sandboxclaims", made["sandboxID"], status))
            replica.client.get("/process", headers=told)
            until(lambda: replica.client.get("/process", headers=told).status_code == 200)
        finally:
            api.is_late = False
        more = {"X-Sandkeeper-Sandbox": "another"}
        seen = replica.client.get("/", headers={**led, **more})
        assert seen.status_code == 200
        assert "x-sandkeeper-sandbox" not in seen.json()["headers"]


def test_a_request_names_one_sandbox_and_one_port(
    fleet: Replica, anybody: httpx.Client, made: dict[str, Any]
) -> None:
    """Who stands before a fleet, and lets pass by one of two, would have it led to the other."""
    name, token = made["sandboxID"], ("X-Access-Token", made["envdAccessToken"])
    host = f"49983-{name}.{DOMAIN}"
    asked = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)
    asked.putrequest("GET", "/process", skip_host=True)
    for field in (("Host", host), ("Host", f"49983-{'sf' + '1' * 18}.{DOMAIN}"), token):
        asked.putheader(*field)
    asked.endheaders()
    assert asked.getresponse().status == 400
    asked.close()
    for fields in (
        [("E2b-Sandbox-Id", name), ("E2b-Sandbox-Id", "sf" + "1" * 18)],
        *(
            [("E2b-Sandbox-Id", name), ("E2b-Sandbox-Port", port)]
            for port in ("0", "-1", "65536", "49983,22", "1e3", "")
        ),
    ):
        reply = anybody.get("/process", headers=[*fields, token])
        assert (reply.status_code, set(reply.json())) == (400, {"error"}), fields
    assert anybody.get("/process", headers=[("Host", host), token]).status_code == 200


def test_a_chain_of_fleets_that_lead_to_each_other_ends(
    anybody: httpx.Client, made: dict[str, Any]
) -> None:
    via = ", ".join(f"1.1 sandkeeper-{number:08x}" for number in range(4))
    reply = anybody.get("/health", headers={**by_field(made, 49983), "Via": via})
    assert reply.status_code == 508
