"""`GET /process/{id}/logs/stream` as text and as NDJSON, and our own `/events`."""

import base64
import json
import re
import threading
from collections.abc import Iterator

import httpx
import pytest
from tests.harness import Server, free_port, start, until

from sandkeeper.journal.lines import KEEPALIVE_SECONDS

ND = {"Accept": "application/x-ndjson"}


def beatless(told: str) -> str:
    """Leave out what shows that a stream lives."""
    return re.sub(r"(?m)^\[keepalive\]\n", "", told)


def text(server: Server, name: str) -> str:
    return beatless(server.client.get(f"/process/{name}/logs/stream").text)


def said_step_by_step(server: Server, name: str, *awaited: str) -> str:
    """Return the text form of a log that goes on whenever the next of `awaited` is here."""
    left, live = list(awaited), ""
    with server.client.stream("GET", f"/process/{name}/logs/stream") as reply:
        for part in reply.iter_text():
            live += part
            if left and left[0] in live:
                del left[0]
                assert server.client.post(f"/process/{name}/stdin", content=b"\n").is_success
    assert not left
    return live


def records(server: Server, name: str, **headers: str) -> list[dict]:
    reply = server.client.get(f"/process/{name}/logs/stream", headers={**ND, **headers})
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.text.splitlines()]


def events(server: Server, name: str, **query) -> list[dict]:
    reply = server.client.get(f"/process/{name}/events", params=query)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


# Text


def test_the_text_form_has_the_contracts_headers_and_prefixes(server: Server) -> None:
    name = start(server, "echo out; sleep 0.02; echo err >&2")["name"]
    reply = server.client.get(f"/process/{name}/logs/stream")

    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert (reply.headers["x-accel-buffering"], reply.headers["cache-control"]) == (
        "no",
        "no-cache",
    )
    assert reply.headers["connection"] == "keep-alive"
    assert beatless(reply.text) == "stdout:out\nstderr:err\n"
    closing = server.client.get(f"/process/{name}/logs/stream", headers={"Connection": "close"})
    assert closing.headers.get_list("connection") == ["close"]


def test_a_live_stream_gives_each_line_at_once_and_ends_by_itself(server: Server) -> None:
    command = "for i in 1 2 3 4 5; do echo tick $i; read x; done"
    name = start(server, command, stdin=True)["name"]
    seen = []
    with server.client.stream("GET", f"/process/{name}/logs/stream") as reply:
        for line in reply.iter_lines():
            if line == "[keepalive]":
                continue
            seen.append(line)
            # The next one is written only then.
            assert server.client.post(f"/process/{name}/stdin", content=b"\n").is_success

    assert seen == [f"stdout:tick {i}" for i in range(1, 6)]


def test_an_unfinished_last_line_stays_unfinished(server: Server) -> None:
    server.run(
        "echo first >&2; sleep 0.01; echo second >&2; printf 'no newline' >&2", name="open-end"
    )

    assert text(server, "open-end") == "stderr:first\nstderr:second\nstderr:no newline"


def test_a_replay_is_identical_every_time_and_to_what_was_live(server: Server) -> None:
    name = start(
        server,
        "for i in $(seq 200); do printf a$i; echo e$i >&2; printf 'b\\n'; done; printf end",
    )["name"]
    live = text(server, name)

    assert text(server, name) == live
    assert text(server, name) == live
    outs = [line[7:] for line in live.splitlines() if line.startswith("stdout:")]
    assert "".join(outs).count("a") == 200
    assert live.count("stderr:e") == 200


def test_a_line_that_was_closed_for_want_of_patience_is_closed_there_in_every_replay(
    server: Server,
) -> None:
    script = "printf open; read x; echo held >&2; read x; echo late >&2; echo ' rest'"
    name = start(server, script, stdin=True)["name"]
    live = beatless(said_step_by_step(server, name, "open", "held"))

    assert live.startswith("stdout:open\nstderr:held\n")
    assert text(server, name) == live


def test_a_line_of_10000_bytes_has_one_prefix(server: Server) -> None:
    server.run("head -c 10000 /dev/zero | tr '\\0' x; echo", name="long")

    assert text(server, "long") == "stdout:" + "x" * 10_000 + "\n"


def test_lines_that_look_like_ours_get_a_prefix_like_any_other(server: Server) -> None:
    server.run("echo '[keepalive]'; echo 'stderr:fake'; echo", name="fake")

    assert text(server, "fake") == "stdout:[keepalive]\nstdout:stderr:fake\nstdout:\n"


def test_partial_lines_are_forwarded_at_once(server: Server) -> None:
    name = start(server, "printf prompt; sleep 30")["name"]
    with server.client.stream("GET", f"/process/{name}/logs/stream") as reply:
        parts = (one for one in reply.iter_text() if one != "[keepalive]\n")
        assert next(parts) == "stdout:prompt"
    server.client.delete(f"/process/{name}/kill")


def test_broken_bytes_and_nuls_pass_unchanged(server: Server) -> None:
    server.run("printf 'a\\xff\\0b\\xe2\\n'", name="raw")

    reply = server.client.get("/process/raw/logs/stream")
    assert reply.content == b"stdout:a\xff\0b\xe2\n"


def test_a_silent_finished_process_is_an_empty_200(server: Server) -> None:
    server.run("true", name="silent")

    assert text(server, "silent") == ""
    assert records(server, "silent") == []


def test_every_stream_gets_heartbeats_whatever_was_written_last(server: Server) -> None:
    quiet = start(server, "sleep 30")["name"]
    midline = start(server, "printf open; sleep 30")["name"]
    # Half a character, and a flood of what the events below do not ask for.
    half = start(server, r"printf '\346\274'; while sleep 0.2; do echo x >&2; done")["name"]
    record, event = '{"type":"keepalive"}\n', '"type":"heartbeat"'
    wanted = {
        f"/process/{quiet}/logs/stream": ("text/plain", "[keepalive]\n"),
        f"/process/{midline}/logs/stream": ("text/plain", "stdout:open\n[keepalive]\n"),
        f"/process/{midline}/logs/stream#": ("application/x-ndjson", record),
        f"/process/{quiet}/events": ("application/x-ndjson", event),
        f"/process/{midline}/events": ("text/event-stream", event),
        f"/process/{half}/events?stream=stdout": ("application/x-ndjson", '"data":"5rw="'),
        f"/process/{half}/events?stream=notice": ("application/x-ndjson", event),
    }
    seen: dict[str, str] = {}

    def read(path: str, accept: str) -> None:
        headers = {"Accept": accept}
        with httpx.stream("GET", server.url + path, timeout=60, headers=headers) as reply:
            for part in reply.iter_text():
                seen[path] = seen.get(path, "") + part

    readers = [
        threading.Thread(target=read, args=(path, accept)) for path, (accept, _) in wanted.items()
    ]
    for reader in readers:
        reader.start()
    try:
        for path, (_, beat) in wanted.items():
            until(lambda path=path, beat=beat: beat in seen.get(path, ""))
    finally:
        for name in (quiet, midline, half):
            server.client.delete(f"/process/{name}/kill")
        for reader in readers:
            reader.join()

    assert KEEPALIVE_SECONDS < 4  # the synchronous client gives up after 5 s of silence


def test_a_start_that_streams_shows_that_it_lives_while_it_waits_for_ports(server: Server) -> None:
    body = {"command": "sleep 30", "name": "portless", "waitForPorts": [free_port()]}
    headers = {"Accept": "application/x-ndjson"}
    url = f"{server.url}/process"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as reply:
        told = reply.iter_lines()
        assert json.loads(next(told)) == {"type": "keepalive"}
        server.client.delete("/process/portless/kill")
        assert [json.loads(line)["type"] for line in told][-1] == "error"


def test_a_line_in_which_nothing_is_written_is_closed_there_in_every_replay(server: Server) -> None:
    name = start(server, "printf open; read x; echo ' rest'; printf end", stdin=True)["name"]
    live = said_step_by_step(server, name, "[keepalive]")
    replayed = text(server, name)

    assert replayed == "stdout:open\nstdout: rest\nstdout:end"
    assert live.startswith("stdout:open\n[keepalive]\n")
    assert live.replace("[keepalive]\n", "") == replayed


def test_the_stream_goes_on_over_restarts(server: Server) -> None:
    name = start(server, "echo run; exit 3", restartOnFailure=True, maxRestarts=1)["name"]

    assert text(server, name) == (
        "stdout:run\nstdout:\nstdout:[Process failed with exit code 3. Attempting restart 1/1...]\n"
        "stdout:run\n"
    )


def test_stop_and_kill_are_remarked_in_the_text_but_not_in_the_logs(server: Server) -> None:
    for path, remark in (
        ("", "\n[Process is being gracefully terminated]\n"),
        ("/kill", "\n[Process is being forcefully killed]\n"),
    ):
        name = start(server, "echo hi; exec sleep 30")["name"]
        until(lambda n=name: server.client.get(f"/process/{n}").json()["stdout"])
        with server.client.stream("GET", f"/process/{name}/logs/stream") as reply:
            server.client.delete(f"/process/{name}{path}")
            live = beatless(reply.read().decode())

        assert live == "stdout:hi\n" + remark
        assert server.client.get(f"/process/{name}/logs").json()["logs"] == "hi\n"


def test_what_survivors_write_after_the_end_is_not_streamed(server: Server) -> None:
    name = start(
        server, f"(while echo late {server.port}; do sleep 0.01; done) & echo done; exit 0"
    )["name"]
    reply = server.client.get(f"/process/{name}/logs/stream")

    assert "stdout:done" in reply.text
    assert server.client.get(f"/process/{name}").json()["status"] == "completed"
    server.run(f"pkill -f 'while echo [l]ate {server.port};' || true")


def test_retention_is_told_in_the_text_and_as_a_record(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": "100000"})
    own.run("seq 100000", name="flood")

    lines = text(own, "flood").splitlines()
    assert lines[0] == "stdout:[output truncated: the stream fell behind]"
    assert lines[-1] == "stdout:100000"
    first, *rest = records(own, "flood")
    assert first["type"] == "truncated"
    assert "".join(item["data"] for item in rest).endswith("99999\n100000\n")


# NDJSON


def test_records_have_data_as_it_came_and_survive_restarts(server: Server) -> None:
    name = start(
        server, "echo out; sleep 0.02; echo err >&2; exit 2", restartOnFailure=True, maxRestarts=1
    )["name"]
    seen = records(server, name)

    assert [item for item in seen if item["type"] != "keepalive"] == [
        {"type": "stdout", "data": "out\n"},
        {"type": "stderr", "data": "err\n"},
        {
            "type": "restart",
            "data": "\n[Process failed with exit code 2. Attempting restart 1/1...]\n",
        },
        {"type": "stdout", "data": "out\n"},
        {"type": "stderr", "data": "err\n"},
    ]


def test_attaching_to_a_quiet_process_begins_with_a_keepalive(server: Server) -> None:
    name = start(server, "sleep 30")["name"]
    with server.client.stream("GET", f"/process/{name}/logs/stream", headers=ND) as reply:
        assert next(reply.iter_lines()) == '{"type":"keepalive"}'
    server.client.delete(f"/process/{name}/kill")


def test_what_is_not_utf8_comes_as_base64_and_concatenates_to_the_same_bytes(
    server: Server,
) -> None:
    server.run(
        "printf 'ok\\n'; sleep 0.02; printf '\\xe2'; sleep 0.02; printf '\\x98\\x83\\n\\xff\\xfe'",
        name="mixed",
    )
    data = b"".join(
        base64.b64decode(item["data"])
        if item.get("encoding") == "base64"
        else item["data"].encode()
        for item in records(server, "mixed")
    )

    assert data == "ok\n☃\n".encode() + b"\xff\xfe"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/plain"),
        ("application/*", "text/plain"),
        ("application/x-ndjson;q=0", "text/plain"),
        ("text/plain, application/x-ndjson;q=0.5", "text/plain"),
        ("application/json", "text/plain"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/plain;q=0.5, application/x-ndjson;q=0.5", "application/x-ndjson"),
        ("Application/X-NDJSON", "application/x-ndjson"),
        ("application/x-ndjson;q=nan", "text/plain"),
        (";;,,;q=", "text/plain"),
    ],
)
def test_ndjson_must_be_named_and_weigh_at_least_as_much(
    server: Server, accept: str, kind: str
) -> None:
    server.run("true", name="accept")
    reply = server.client.get("/process/accept/logs/stream", headers={"Accept": accept})

    assert reply.headers["content-type"].startswith(kind)


def test_an_unknown_process_is_a_404_before_the_headers(server: Server) -> None:
    for headers in ({}, ND):
        reply = server.client.get("/process/nobody/logs/stream", headers=headers)
        assert (reply.status_code, reply.json()["error"]) == (
            404,
            "process with Identifier nobody not found",
        )


# Events


def test_events_carry_sequence_stream_offset_time_and_a_typed_end(server: Server) -> None:
    server.run("echo out; sleep 0.02; echo err >&2; exit 5", name="ev")
    out, err, end = events(server, "ev")

    assert [item["seq"] for item in (out, err, end)] == [1, 2, 3]
    assert (out["type"], out["stream"], out["offset"], out["data"]) == (
        "output",
        "stdout",
        0,
        "out\n",
    )
    assert (err["stream"], err["offset"], err["data"]) == ("stderr", 4, "err\n")
    assert out["time"] < err["time"]
    assert (end["type"], end["offset"], end["status"]) == ("end", 8, "failed")
    assert (end["exitCode"], end["exitSignal"], end["reason"]) == (5, None, "exited")


@pytest.mark.parametrize("cursor", [0, 1, 4, 6, 8])
def test_events_resume_at_any_offset(server: Server, cursor: int) -> None:
    server.run("echo out; sleep 0.02; echo err >&2", name="resume")
    *outputs, end = events(server, "resume", cursor=cursor)

    assert "".join(item["data"] for item in outputs) == "out\nerr\n"[cursor:]
    assert end["type"] == "end"


def test_events_may_end_at_what_is_there(server: Server) -> None:
    start(server, "echo here; exec sleep 1000", name="standing")
    until(lambda: server.client.get("/process/standing").json()["stdoutBytes"])

    output, end = events(server, "standing", follow="false")
    assert output["data"] == "here\n"
    assert (end["type"], end["status"], end["offset"]) == ("end", "running", 5)
    server.client.delete("/process/standing/kill")
    assert events(server, "standing", cursor=5)[-1]["status"] == "killed"


def test_events_can_be_of_one_stream(server: Server) -> None:
    server.run("echo out; sleep 0.02; echo err >&2", name="one-stream")

    assert [item["type"] for item in events(server, "one-stream", stream="stderr")] == [
        "output",
        "end",
    ]


def frames(lines: Iterator[str]) -> list[dict[str, str]]:
    made: list[dict[str, str]] = [{}]
    for line in lines:
        if not line:
            made.append({})
        else:
            key, _, value = line.partition(": ")
            made[-1][key] = value
    return [frame for frame in made if frame]


def test_sse_frames_have_ids_that_resume(server: Server) -> None:
    server.run("echo out; sleep 0.02; echo err >&2", name="sse")
    url, sse = "/process/sse/events", {"Accept": "text/event-stream"}
    reply = server.client.get(url, headers=sse)
    first, second, end = frames(iter(reply.text.splitlines()))

    assert reply.headers["content-type"].startswith("text/event-stream")
    assert (first["id"], first["event"]) == ("4", "output")
    assert json.loads(second["data"])["data"] == "err\n"
    assert (end["event"], end["id"]) == ("end", "8")
    again = server.client.get(url, headers={**sse, "Last-Event-ID": first["id"]})
    assert frames(iter(again.text.splitlines()))[0]["data"] == second["data"].replace(
        '"seq":2', '"seq":1'
    )


@pytest.mark.parametrize(
    "query", [{"cursor": "-1"}, {"cursor": "x"}, {"cursor": "99999"}, {"stream": "nope"}]
)
def test_events_from_nowhere_are_400(server: Server, query: dict) -> None:
    server.run("echo hi", name="nowhere")

    assert server.client.get("/process/nowhere/events", params=query).status_code == 400


def test_a_gap_is_an_event_with_its_bounds(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": "100000"})
    own.run("seq 100000", name="flood")
    gap, *rest = events(own, "flood")

    assert (gap["type"], gap["offset"], gap["reason"]) == ("gap", 0, "retention")
    assert rest[0]["offset"] == gap["to"]


def test_events_resume_across_a_restart_of_the_server(make_server) -> None:
    own: Server = make_server()
    start(own, "echo before; sleep 0.6; echo after", name="over")
    until(lambda: own.client.get("/process/over").json()["stdout"])
    own.restart()

    *outputs, end = events(own, "over", cursor=len("before\n"))
    assert [item["data"] for item in outputs] == ["after\n"]
    assert (end["status"], end["exitCode"]) == ("completed", 0)
