"""E2B's Process service, frame by frame: codes, ends, deadlines, floods, and what was missed."""

import base64
import gzip
import json
import os
import socket
import struct
import time
from typing import Any

import pytest
from tests.e2b_wire import (
    STREAM,
    OpenStream,
    call,
    end_of,
    events,
    framed,
    frames_of,
    output,
    shell,
    start,
    stream,
)
from tests.harness import Server, alive, until

START, CONNECT = "process.Process/Start", "process.Process/Connect"
SERVICES = {
    "process.Process": ["CloseStdin", "List", "SendInput", "SendSignal", "Update"],
    "filesystem.Filesystem": [
        *("CreateWatcher", "GetWatcherEvents", "ListDir", "MakeDir", "Move", "Remove"),
        *("RemoveWatcher", "Stat"),
    ],
}
UNARY = [f"{service}/{name}" for service, names in SERVICES.items() for name in names]
STREAMS = [START, CONNECT, "process.Process/StreamInput", "filesystem.Filesystem/WatchDir"]


def begun(server: Server, command: str, **fields: Any) -> int:
    """Start something in the background; returns its pid."""
    with OpenStream(server, START, shell(command, **fields)) as frames:
        _, first = next(iter(frames))
    return int(first["event"]["start"]["pid"])


def test_a_run_tells_its_start_its_output_and_its_end(server: Server) -> None:
    frames = start(server, "echo out; echo err >&2; exit 3")

    assert frames[0][1]["event"]["start"]["pid"] > 0
    assert (output(frames), output(frames, "stderr")) == (b"out\n", b"err\n")
    (end,) = events(frames, "end")
    text = "exit status 3"
    assert end == {"exitCode": 3, "exited": True, "status": text, "error": text}
    assert end_of(frames) == {}


def test_an_exit_of_zero_is_left_out(server: Server) -> None:
    (end,) = events(start(server, "true"), "end")

    assert end == {"exited": True, "status": "exit status 0"}


@pytest.mark.parametrize(
    ("number", "word"), [(9, "killed"), (15, "terminated"), (11, "segmentation fault")]
)
def test_a_signal_is_told_in_gos_words(server: Server, number: int, word: str) -> None:
    (end,) = events(start(server, f"kill -{number} $$"), "end")

    text = f"signal: {word}"
    assert end == {"exitCode": -1, "status": text, "error": text}


def test_a_program_is_run_without_a_shell_and_with_few_variables(server: Server) -> None:
    wanted = {"process": {"cmd": "env", "envs": {"A": "1"}, "cwd": "/"}, "stdin": False}
    lines = output(stream(server, START, wanted)).decode().splitlines()

    assert {line.partition("=")[0] for line in lines} == {"PATH", "HOME", "USER", "LOGNAME", "A"}
    odd = {"process": {"cmd": "printf", "args": ["%s|", "a b", "$HOME", ""]}, "stdin": False}
    assert output(stream(server, START, odd)) == b"a b|$HOME||"


def test_the_home_is_where_programs_begin(server: Server) -> None:
    assert output(start(server, 'test "$PWD" = "$HOME" && echo yes')) == b"yes\n"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid_argument"),
        ({"process": {"cmd": "true", "cwd": "/no/such"}}, "invalid_argument"),
        ({"process": {"cmd": "/no/such/program"}}, "invalid_argument"),
        ({"process": {"cmd": 7}}, "invalid_argument"),
        ({"process": {"cmd": "a\0b"}}, "invalid_argument"),
    ],
)
def test_what_cannot_be_started_ends_the_stream_with_why(
    server: Server, fields: dict[str, Any], code: str
) -> None:
    ((flags, message),) = stream(server, START, fields)

    assert (flags, message["error"]["code"]) == (2, code)
    assert message["error"]["message"]


def test_a_deadline_kills_and_is_the_only_end(server: Server) -> None:
    frames = start(server, "echo before; sleep 60", Connect_Timeout_Ms="8000")

    assert output(frames) == b"before\n"
    assert events(frames, "end") == []
    assert end_of(frames)["error"]["code"] == "deadline_exceeded"
    pid = frames[0][1]["event"]["start"]["pid"]
    until(lambda: not alive(pid))


def test_a_deadline_at_the_moment_of_the_exit_never_gives_two_ends(server: Server) -> None:
    kinds = set()
    for milliseconds in range(30, 130, 4):
        frames = start(server, "read -t 0.08 <> <(:); exit 5", Connect_Timeout_Ms=str(milliseconds))
        ended, error = events(frames, "end"), end_of(frames).get("error")
        assert bool(ended) != bool(error), frames
        kinds.add("end" if ended else error["code"])

    assert kinds <= {"end", "deadline_exceeded"}


@pytest.mark.parametrize(
    "terms",
    [{"Connect_Timeout_Ms": text} for text in ("x", "-1", "1.5", "", "12345678901")]
    + [{"Connect_Protocol_Version": "2"}],
    ids=str,
)
def test_a_deadline_and_a_version_that_are_none_are_refused(
    server: Server, terms: dict[str, str]
) -> None:
    frames = start(server, "true", **terms)

    assert end_of(frames)["error"]["code"] == "invalid_argument"
    reply = call(server, "process.Process/List", {}, **terms)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument")


def test_silence_is_filled_as_often_as_the_client_wants(server: Server) -> None:
    began = time.monotonic()
    frames = start(server, "sleep 2.5", Keepalive_Ping_Interval="1")

    assert 1 <= len(events(frames, "keepalive")) <= time.monotonic() - began


def test_connect_gives_what_comes_from_now_on_or_from_a_cursor(server: Server) -> None:
    go = server.workdir / "go"
    os.mkfifo(go)
    pid = begun(server, f"echo first; cat {go}; echo last")
    selected = {"process": {"pid": pid}}
    until(lambda: server.client.get(f"/process/{pid}").json()["stdout"] == "first\n")
    with (
        OpenStream(server, CONNECT, selected) as later,
        OpenStream(server, CONNECT, {**selected, "cursor": "0"}) as all_of_it,
        OpenStream(server, CONNECT, {**selected, "cursor": "2"}) as a_part,
    ):
        streams = [iter(one) for one in (later, all_of_it, a_part)]
        for one in streams:
            next(one)
        go.write_text("middle\n")
        found = [output(list(one)) for one in streams]

    assert found == [b"middle\nlast\n", b"first\nmiddle\nlast\n", b"rst\nmiddle\nlast\n"]
    go.unlink()


def test_events_tell_their_cursor_to_who_gave_one(server: Server) -> None:
    pid = begun(server, "echo abc; echo def >&2")
    until(lambda: server.client.get(f"/process/{pid}").json()["status"] == "completed")
    frames = stream(server, CONNECT, {"process": {"pid": pid}, "cursor": "0"})
    cursors = [one["event"]["cursor"] for _, one in frames if "cursor" in one.get("event", {})]

    assert cursors[0] == "0"
    assert cursors[-1] == "8"
    again = stream(server, CONNECT, {"process": {"pid": pid}, "cursor": cursors[1]})
    assert output(again) + output(again, "stderr") == b"def\n"
    for wrong in ("9", "-1"):
        (refused,) = stream(server, CONNECT, {"process": {"pid": pid}, "cursor": wrong})
        assert refused[1]["error"]["code"] == "invalid_argument"


def test_an_ended_process_is_known_as_long_as_its_record(server: Server) -> None:
    pid = start(server, "exit 4")[0][1]["event"]["start"]["pid"]

    (end,) = events(stream(server, CONNECT, {"process": {"pid": pid}}), "end")
    assert end["exitCode"] == 4
    listed = call(server, "process.Process/List", {}).json()
    assert pid not in [one["pid"] for one in listed.get("processes", [])]


def test_a_stream_that_was_cut_is_taken_up_without_a_gap(server: Server) -> None:
    pid = begun(server, "seq 1 600000")
    seen, cursor = b"", "0"
    for _ in range(3):
        with OpenStream(server, CONNECT, {"process": {"pid": pid}, "cursor": cursor}) as frames:
            for count, one in enumerate(frames):
                seen += output([one])
                cursor = one[1]["event"]["cursor"]
                if count == 5:
                    break
    rest = stream(server, CONNECT, {"process": {"pid": pid}, "cursor": cursor})

    expected = "".join(f"{number}\n" for number in range(1, 600001)).encode()
    assert seen + output(rest) == expected


def test_a_list_shows_what_was_asked_for(server: Server) -> None:
    process = {"cmd": "sleep", "args": ["60"], "envs": {"K": "v"}, "cwd": "/tmp"}
    with OpenStream(server, START, {"process": process, "tag": "mine", "stdin": False}) as frames:
        _, first = next(iter(frames))
    pid = first["event"]["start"]["pid"]
    found = call(server, "process.Process/List", {}).json()["processes"]

    assert {"config": process, "pid": pid, "tag": "mine"} in found
    killed = call(
        server,
        "process.Process/SendSignal",
        {"process": {"tag": "mine"}, "signal": "SIGNAL_SIGKILL"},
    )
    assert (killed.status_code, killed.json()) == (200, {})
    until(lambda: not alive(pid))
    until(lambda: server.client.get(f"/process/{pid}").json()["status"] != "running")
    gone = call(server, "process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


def test_signals_are_two(server: Server) -> None:
    pid = begun(server, "trap 'exit 7' TERM; echo up; while :; do read -t 0.05 <> <(:); done")
    until(lambda: server.client.get(f"/process/{pid}").json()["stdout"] == "up\n")
    other = call(server, "process.Process/SendSignal", {"process": {"pid": pid}, "signal": 1})
    assert (other.status_code, other.json()["code"]) == (501, "unimplemented")
    term = {"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"}
    assert call(server, "process.Process/SendSignal", term).status_code == 200
    (end,) = events(stream(server, CONNECT, {"process": {"pid": pid}}), "end")
    assert end["exitCode"] == 7


def test_input_is_typed_streamed_and_closed(server: Server) -> None:
    process = {"cmd": "cat"}
    with OpenStream(server, START, {"process": process}) as frames:  # stdin is open by default
        pid = next(iter(frames))[1]["event"]["start"]["pid"]
        selected = {"process": {"pid": pid}}

        def typed(text: bytes) -> dict[str, Any]:
            return {"input": {"stdin": base64.b64encode(text).decode()}}

        assert call(server, "process.Process/SendInput", {**selected, **typed(b"a")}).json() == {}
        parts = [{"start": selected}, {"data": typed(b"b\xff")}, {"keepalive": {}}]
        parts.append({"data": typed(b"c")})
        body = b"".join(map(framed, parts))
        reply = server.client.post(
            "/process.Process/StreamInput",
            content=iter([body[at : at + 7] for at in range(0, len(body), 7)]),
            headers=STREAM,
        )
        assert frames_of(reply.content) == [(0, {}), (2, {})]
        assert call(server, "process.Process/CloseStdin", selected).json() == {}
        assert output(list(frames)) == b"ab\xffc"


def test_input_for_the_wrong_kind_of_process_is_refused(server: Server) -> None:
    pid = begun(server, "sleep 60")
    for given in ({"stdin": "YQ=="}, {"pty": "YQ=="}):
        message = {"process": {"pid": pid}, "input": given}
        refused = call(server, "process.Process/SendInput", message)
        assert (refused.status_code, refused.json()["code"]) == (400, "failed_precondition")
    bad = call(
        server, "process.Process/SendInput", {"process": {"pid": pid}, "input": {"pty": "?"}}
    )
    assert bad.json()["code"] == "invalid_argument"
    size = {"process": {"pid": pid}, "pty": {"size": {"cols": 90, "rows": 20}}}
    assert call(server, "process.Process/Update", size).json()["code"] == "failed_precondition"
    call(server, "process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
    missing = call(server, "process.Process/SendInput", {"process": {"pid": 4194301}})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_a_terminal_is_started_typed_at_and_resized(server: Server) -> None:
    process = {"cmd": "/bin/bash", "args": ["--norc", "-i"], "envs": {"PS1": "> "}}
    pty = {"size": {"cols": 70, "rows": 20}}
    with OpenStream(server, START, {"process": process, "pty": pty}) as frames:
        pid = next(iter(frames))[1]["event"]["start"]["pid"]
        selected = {"process": {"pid": pid}}
        larger = {**selected, "pty": {"size": {"cols": 111, "rows": 44}}}
        assert call(server, "process.Process/Update", larger).json() == {}
        data = base64.b64encode(b"stty size; printf '\\xff\\n'; exit 6\n").decode()
        typed = call(server, "process.Process/SendInput", {**selected, "input": {"pty": data}})
        assert typed.json() == {}
        seen = list(frames)

    assert b"44 111\r\n\xff\r\n" in output(seen, "pty")
    (end,) = events(seen, "end")
    assert end["exitCode"] == 6


def test_a_terminal_has_a_deadline_too(server: Server) -> None:
    wanted = {"process": {"cmd": "sleep", "args": ["60"]}, "pty": {"size": {}}}
    frames = stream(server, START, wanted, Connect_Timeout_Ms="300")

    assert events(frames, "end") == []
    assert end_of(frames)["error"]["code"] == "deadline_exceeded"


# Codecs, methods, frames


@pytest.mark.parametrize("method", UNARY)
def test_unary_calls_take_json_alone(server: Server, method: str) -> None:
    for kind in ("application/proto", "application/connect+json", "application/grpc", ""):
        reply = server.client.post(f"/{method}", content=b"{}", headers={"Content-Type": kind})
        assert reply.status_code == 415
        assert reply.headers["Accept-Post"] == "application/json"
        assert reply.json()["code"] == "unimplemented"


@pytest.mark.parametrize("method", STREAMS)
def test_streams_take_json_alone(server: Server, method: str) -> None:
    for kind in ("application/connect+proto", "application/json", "application/grpc-web"):
        reply = server.client.post(f"/{method}", content=b"", headers={"Content-Type": kind})
        assert reply.status_code == 415
        assert reply.headers["Accept-Post"] == "application/connect+json"


def test_unknown_methods_are_404_which_clients_take_for_unimplemented(server: Server) -> None:
    for method in ("process.Process/Nope", "process.Process/start", "filesystem.Filesystem/"):
        assert call(server, method, {}).status_code == 404
    assert server.client.get("/process.Process/List").status_code == 405


@pytest.mark.parametrize("method", UNARY)
def test_what_is_no_message_is_refused(server: Server, method: str) -> None:
    for body in (b"{", b"[]", b'"x"', b"\xff", b"[" * 5000):
        headers = {"Content-Type": "application/json"}
        reply = server.client.post(f"/{method}", content=body, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid_argument"), body


@pytest.mark.parametrize("method", STREAMS)
def test_what_is_no_frame_is_refused(server: Server, method: str) -> None:
    gigabyte = struct.pack(">BI", 0, 1 << 30)
    bodies = {
        b"\0\0\0\0\xff{": "invalid_argument",
        b"\0\0\0": "invalid_argument",
        framed({}, 1): "invalid_argument",
        framed({}, 2): "invalid_argument",
        b"\0\0\0\0\x01{": "invalid_argument",
        gigabyte: "resource_exhausted",
    }
    for body, code in bodies.items():
        reply = server.client.post(f"/{method}", content=body, headers=STREAM)
        assert reply.status_code == 200
        assert end_of(frames_of(reply.content))["error"]["code"] == code, body


def test_a_gigabyte_that_is_announced_is_refused_before_it_comes(server: Server) -> None:
    head = "POST /process.Process/StreamInput HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(head.encode() + b"5\r\n" + struct.pack(">BI", 0, 1 << 30) + b"\r\n")
        seen = b""
        while b"resource_exhausted" not in seen:
            block = client.recv(65536)
            assert block
            seen += block
    assert seen.startswith(b"HTTP/1.1 200")


def packed(data: bytes) -> bytes:
    """Return a frame that is compressed."""
    data = gzip.compress(data, mtime=0)  # names of tests hold no clock
    return struct.pack(">BI", 1, len(data)) + data


def send(server: Server, method: str, body: bytes, **headers: str) -> list[tuple[int, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = server.client.post(f"/{method}", content=body, headers={**STREAM, **named})
    return frames_of(reply.content)


def test_frames_of_a_stream_may_be_compressed(server: Server) -> None:
    pid = begun(server, "cat", stdin=True)
    parts = [
        packed(json.dumps({"start": {"process": {"pid": pid}}}).encode()),
        framed({"data": {"input": {"stdin": base64.b64encode(b"one").decode()}}}),
        packed(json.dumps({"data": {"input": {"stdin": "dHdv"}}}).encode()),
    ]

    sent = send(
        server, "process.Process/StreamInput", b"".join(parts), Connect_Content_Encoding="gzip"
    )
    call(server, "process.Process/CloseStdin", {"process": {"pid": pid}})
    frames = send(
        server,
        CONNECT,
        packed(json.dumps({"process": {"pid": pid}, "cursor": "0"}).encode()),
        Connect_Content_Encoding="gzip",
    )

    assert sent == [(0, {}), (2, {})]
    assert output(frames) == b"onetwo"


@pytest.mark.parametrize(
    ("payload", "coding", "code"),
    [
        (packed(b"{}"), "identity", "invalid_argument"),
        (struct.pack(">BI", 1, 3) + b"abc", "gzip", "invalid_argument"),
        (packed(b"{}")[:-4], "gzip", "invalid_argument"),
        (packed(b" " * (5 << 20)), "gzip", "resource_exhausted"),
        (packed(b"{}"), "br", "unimplemented"),
    ],
)
def test_compression_that_was_not_agreed_on_or_is_none_is_refused(
    server: Server, payload: bytes, coding: str, code: str
) -> None:
    frames = send(server, START, payload, Connect_Content_Encoding=coding)

    assert end_of(frames)["error"]["code"] == code


def test_a_compressed_call_is_read_and_other_compressions_are_not(server: Server) -> None:
    body = gzip.compress(json.dumps({"path": "/"}).encode())
    for coding, status in (("gzip", 200), ("br", 501)):
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        reply = server.client.post("/filesystem.Filesystem/Stat", content=body, headers=headers)
        assert reply.status_code == status


# Floods, and the end of the server


def test_a_flood_that_nobody_reads_holds_nobody_up(server: Server) -> None:
    done = server.workdir / "flooded"
    with OpenStream(server, START, shell(f"head -c 300000000 /dev/zero; echo > {done}")) as frames:
        next(iter(frames))
        until(done.exists)
        assert server.client.get("/health").status_code == 200
        assert start(server, "echo quick")[1][1]["event"]["data"]


def test_streams_survive_kill_9_of_the_server(make_server: Any) -> None:
    server = make_server()
    go = server.workdir / "go"
    os.mkfifo(go)
    pid = begun(server, f"echo first; cat {go}; exit 9")
    until(lambda: server.client.get(f"/process/{pid}").json()["stdout"] == "first\n")
    with OpenStream(server, CONNECT, {"process": {"pid": pid}}) as frames:
        it = iter(frames)
        next(it)
        server.kill9()
        assert [flags for flags, _ in it if flags == 2] == []
    server.restart()
    with OpenStream(server, CONNECT, {"process": {"pid": pid}, "cursor": "0"}) as frames:
        it = iter(frames)
        next(it)
        go.write_text("second\n")
        rest = list(it)
    assert output(rest) == b"first\nsecond\n"
    (end,) = events(rest, "end")
    assert end["exitCode"] == 9


def test_a_server_that_stops_ends_streams_with_a_word(make_server: Any) -> None:
    server = make_server()
    with OpenStream(server, START, shell("sleep 60")) as frames:
        it = iter(frames)
        pid = next(it)[1]["event"]["start"]["pid"]
        server.stop()
        rest = list(it)

    assert end_of(rest)["error"]["code"] == "unavailable"
    assert alive(pid)
    os.kill(pid, 9)
