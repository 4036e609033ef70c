"""Output that waits for its reader (`holdOutput`)."""

import hashlib
import json

import httpx
from tests.harness import Server, over, start, until

MEGABYTES = 24
COMMAND = f"head -c {MEGABYTES}M /dev/zero; echo x >&2"


def test_a_program_waits_until_somebody_reads_and_every_byte_arrives(server: Server) -> None:
    made = start(server, COMMAND, holdOutput=True, name="held")
    until(lambda: server.client.get("/process/held").json()["stdoutBytes"] >= 8 << 20)

    waited = over(server, "held", 1)
    assert waited["status"] == "running"
    assert waited["stdoutBytes"] < 12 << 20

    count, streams = 0, set()
    path = f"/process/{made['id']}/events?hold=true"
    with server.client.stream("GET", path) as answer:
        for line in answer.iter_lines():
            event = json.loads(line)
            assert event["type"] != "gap"
            if event["type"] == "output":
                streams.add(event["stream"])
                count += len(event["data"])
    assert (count, streams) == ((MEGABYTES << 20) + 2, {"stdout", "stderr"})
    assert over(server, "held")["exitCode"] == 0


def test_it_goes_on_when_nobody_is_to_be_waited_for(server: Server) -> None:
    start(server, COMMAND, holdOutput=True, name="given up")
    until(lambda: server.client.get("/process/given%20up").json()["stdoutBytes"] >= 8 << 20)

    assert server.client.delete("/process/given%20up/hold").status_code == 200
    assert over(server, "given up")["stdoutBytes"] == MEGABYTES << 20


def test_a_reader_that_does_not_come_or_has_gone_is_waited_for_a_minute(make_server) -> None:
    server = make_server(constants={"sandkeeper.journal.source.AWAY_SECONDS": 1.0})
    start(server, COMMAND, holdOutput=True, name="alone")
    assert over(server, "alone")["stdoutBytes"] == MEGABYTES << 20

    start(server, COMMAND, holdOutput=True, name="left")
    with server.client.stream("GET", "/process/left/events?hold=true") as answer:
        next(answer.iter_raw())
    assert over(server, "left")["stdoutBytes"] == MEGABYTES << 20


def test_a_reader_who_holds_up_nothing_that_was_not_started_so(server: Server) -> None:
    start(server, COMMAND, name="free")
    with server.client.stream("GET", "/process/free/events?hold=true") as answer:
        next(answer.iter_raw())
        assert over(server, "free")["stdoutBytes"] == MEGABYTES << 20


def test_it_can_be_stopped_while_it_waits(server: Server) -> None:
    start(server, COMMAND, holdOutput=True, name="stopped")
    until(lambda: server.client.get("/process/stopped").json()["stdoutBytes"] >= 8 << 20)

    server.client.delete("/process/stopped")

    assert over(server, "stopped")["status"] == "stopped"


def test_what_waits_still_waits_for_its_reader_at_the_next_server(make_server) -> None:
    server = make_server()
    start(server, COMMAND, holdOutput=True, name="kept")
    until(lambda: server.client.get("/process/kept").json()["stdoutBytes"] >= 8 << 20)
    server.kill9()
    server.restart()

    raw = "application/vnd.sandkeeper.events"
    path = "/process/kept/events?hold=true"
    with server.client.stream("GET", path, headers={"Accept": raw}) as answer:
        assert answer.headers["content-type"] == raw
        whole = b"".join(answer.iter_bytes())
    assert output_of(whole) == hashlib.sha256(bytes(MEGABYTES << 20)).hexdigest()


def output_of(raw: bytes) -> str:
    """Return the digest of standard output in events whose bytes follow as they are."""
    digest, at = hashlib.sha256(), 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        event = json.loads(raw[at:end])
        at = end + 1 + event.get("length", 0)
        assert event["type"] != "gap"
        if event.get("stream") == "stdout":
            digest.update(raw[end + 1 : at])
    return digest.hexdigest()


def test_a_process_that_is_not_there_holds_nothing(server: Server) -> None:
    answer: httpx.Response = server.client.delete("/process/nobody/hold")

    assert answer.status_code == 404
