"""`GET /process/{id}/logs` and `/lines`: whole output, its bounds, questions to it."""

import json
import time

import pytest
from tests.harness import Server, over, until

MARKER = "[... truncated, see the process log file for the full output ...]\n"


def logs(server: Server, identifier: str) -> dict[str, str]:
    return server.client.get(f"/process/{identifier}/logs").json()


def ask(server: Server, identifier: str, **query) -> list[dict]:
    reply = server.client.get(f"/process/{identifier}/lines", params=query)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def texts(records: list[dict]) -> list[str]:
    return [item["text"] for item in records if item["type"] == "line"]


def test_logs_have_both_streams_and_their_true_order(server: Server) -> None:
    command = "for i in 1 2 3; do echo o$i; read x; echo e$i >&2; read x; done"
    body = {"command": command, "stdin": True, "name": "both"}
    assert server.client.post("/process", json=body).status_code == 200
    for text in ("o1", "e1", "o2", "e2", "o3", "e3"):
        until(lambda text=text: logs(server, "both")["logs"].endswith(f"{text}\n"))
        assert server.client.post("/process/both/stdin", content=b"\n").is_success
    until(lambda: server.client.get("/process/both").json()["status"] == "completed")

    assert logs(server, "both") == {
        "stdout": "o1\no2\no3\n",
        "stderr": "e1\ne2\ne3\n",
        "logs": "o1\ne1\no2\ne2\no3\ne3\n",
    }


def test_logs_of_a_running_process_are_what_it_wrote_so_far(server: Server) -> None:
    server.client.post("/process", json={"name": "so-far", "command": "echo one; sleep 30"})

    until(lambda: logs(server, "so-far")["stdout"] == "one\n")
    server.client.delete("/process/so-far/kill")


def test_a_silent_process_has_empty_logs(server: Server) -> None:
    made = server.run("true")

    assert logs(server, made["pid"]) == {"stdout": "", "stderr": "", "logs": ""}


def test_200_kib_come_back_whole_from_logs_and_clipped_in_the_record(server: Server) -> None:
    made = server.run("for i in $(seq 20000); do printf '%09d\\n' $i; done", name="big")
    seen = server.client.get("/process/big").json()
    whole = "".join(f"{number:09d}\n" for number in range(1, 20001))

    assert made["stdout"] == logs(server, "big")["stdout"] == whole
    assert seen["stdout"].startswith(MARKER)
    assert seen["stdout"].removeprefix(MARKER) == whole[-65536:]
    assert seen["logs"].startswith(MARKER)


def test_logs_are_bounded_per_stream_and_say_so(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOGS_RESPONSE_BYTES": "1000"})
    own.run("for i in $(seq 500); do echo out$i; done; echo short >&2", name="bounded")
    seen = logs(own, "bounded")

    assert seen["stdout"].startswith(MARKER)
    assert len(seen["stdout"]) == len(MARKER) + 1000
    assert seen["stdout"].endswith("out500\n")
    assert seen["stderr"] == "short\n"


def test_zero_means_no_bound_on_logs_and_records_carry_their_tail(make_server) -> None:
    own: Server = make_server(
        env={"SANDBOX_MAX_LOGS_RESPONSE_BYTES": "0", "SANDBOX_MAX_IN_MEMORY_LOG_BYTES": "0"}
    )
    own.run("head -c 6000000 /dev/zero | tr '\\0' x", name="free")

    assert len(logs(own, "free")["stdout"]) == 6_000_000
    assert own.client.get("/process/free").json()["stdout"] == MARKER + "x" * 65536


@pytest.mark.parametrize("value", ["-5", "nonsense", ""])
def test_an_invalid_limit_is_the_default(make_server, value: str) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_IN_MEMORY_LOG_BYTES": value})
    own.run("head -c 100000 /dev/zero | tr '\\0' x", name="default")

    stdout = own.client.get("/process/default").json()["stdout"]
    assert len(stdout) == len(MARKER) + 65536


def test_a_clip_never_cuts_a_character(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_IN_MEMORY_LOG_BYTES": "1000"})
    own.run("for i in $(seq 999); do printf ☃; done", name="snow")

    stdout = own.client.get("/process/snow").json()["stdout"]
    assert set(stdout.removeprefix(MARKER)) == {"☃"}


def test_bytes_that_are_not_utf8_become_replacement_characters(server: Server) -> None:
    made = server.run("printf 'a\\xffb\\xe2\\x98c\\0d'")

    assert made["stdout"] == "a\ufffdb\ufffdc\0d"


def test_a_reused_name_shows_the_new_run_only(server: Server) -> None:
    first = server.run("echo the first is longer", name="again")
    server.run("echo 2", name="again")

    assert logs(server, "again")["logs"] == "2\n"
    assert logs(server, first["pid"])["logs"] == "the first is longer\n"


def test_a_child_may_reopen_its_own_streams(server: Server) -> None:
    command = "echo 1; echo 2 > /dev/stdout; echo 3 >> /dev/stdout; echo 4 > /dev/stderr; echo 5"
    made = server.run(command)

    assert (made["stdout"], made["stderr"]) == ("1\n2\n3\n5\n", "4\n")


def test_past_the_retention_the_newest_bytes_are_kept_and_nuls_never_shown(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": "200000"})
    made = own.run("seq 100000", name="flood")
    kept = logs(own, "flood")["stdout"]

    assert kept.startswith(MARKER)
    lines = kept.removeprefix(MARKER).splitlines()
    assert lines[-1] == "100000"
    assert lines[1:] == [str(n) for n in range(int(lines[1]), 100_001)]
    assert "\0" not in kept
    assert made["lostBytes"] > 0
    assert made["stdoutBytes"] == sum(len(f"{n}\n") for n in range(1, 100_001))


def test_one_flood_does_not_cost_others_their_output(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": "300000"})
    own.run("echo precious", name="small")
    own.run("seq 200000", name="flood")

    assert logs(own, "small")["logs"] == "precious\n"


# Questions


@pytest.fixture(scope="module")
def asked(server: Server) -> Server:
    command = (
        "for i in $(seq 10); do echo line $i; "
        "if test $((i % 5)) = 0; then read x; echo ERROR $i >&2; read x; fi; done; printf tail"
    )
    body = {"command": command, "stdin": True, "name": "asked"}
    assert server.client.post("/process", json=body).status_code == 200
    # Two pipes have no order of their own: the other is written to when this has arrived.
    for text in ("line 5", "ERROR 5", "line 10", "ERROR 10"):
        until(lambda text=text: logs(server, "asked")["logs"].endswith(f"{text}\n"))
        assert server.client.post("/process/asked/stdin", content=b"\n").is_success
    over(server, "asked")
    return server


def test_all_lines_come_numbered_with_offsets_and_an_end(asked: Server) -> None:
    *lines, end = ask(asked, "asked")

    assert len(lines) == 13
    assert [item["line"] for item in lines] == list(range(1, 14))
    assert lines[0] == {
        "type": "line",
        "line": 1,
        "stream": "stdout",
        "offset": 0,
        "time": lines[0]["time"],
        "text": "line 1",
    }
    assert lines[1]["offset"] == len("line 1\n")
    assert lines[-1]["text"] == "tail"
    assert (end["type"], end["lines"], end["truncated"]) == ("end", 13, False)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"stream": "stderr"}, ["ERROR 5", "ERROR 10"]),
        ({"head": 2}, ["line 1", "line 2"]),
        ({"tail": 2}, ["ERROR 10", "tail"]),
        ({"lines": "2-3"}, ["line 2", "line 3"]),
        ({"lines": "-1"}, ["line 1"]),
        ({"lines": "12-"}, ["ERROR 10", "tail"]),
        ({"grep": "ERROR"}, ["ERROR 5", "ERROR 10"]),
        ({"grep": "error", "ignoreCase": "true"}, ["ERROR 5", "ERROR 10"]),
        ({"grep": "line ."}, []),
        ({"regex": "^line 1.?$"}, ["line 1", "line 10"]),
        ({"regex": "line", "tail": 1}, ["line 10"]),
        ({"regex": "line", "head": 1}, ["line 1"]),
        ({"until": "1000"}, []),
        ({"since": "2001-01-01T00:00:00Z", "head": 1}, ["line 1"]),
        ({"since": "offset:7", "head": 1}, ["line 2"]),
        ({"until": "offset:8"}, ["line 1", "line 2"]),
    ],
)
def test_questions_choose_lines(asked: Server, query: dict, expected: list[str]) -> None:
    assert texts(ask(asked, "asked", **query)) == expected


def test_a_limit_that_cuts_is_told(asked: Server) -> None:
    records = ask(asked, "asked", limit=3)

    assert texts(records) == ["line 1", "line 2", "line 3"]
    assert records[-1]["truncated"] is True


@pytest.mark.parametrize(
    "query",
    [
        {"stream": "nope"},
        {"head": "-1"},
        {"tail": "x"},
        {"lines": "a-b"},
        {"regex": "("},
        {"since": "yesterday"},
        {"since": "2020-01-01T00:00:00"},
        {"until": "offset:x"},
        {"limit": "9" * 40},
        {"since": "9" * 400},
        {"since": "²"},
    ],
)
def test_questions_that_make_no_sense_are_400(asked: Server, query: dict) -> None:
    reply = asked.client.get("/process/asked/lines", params=query)

    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]


def test_a_hostile_pattern_takes_no_exponential_time(server: Server) -> None:
    server.run("head -c 50000 /dev/zero | tr '\\0' a; echo", name="redos")
    began = time.monotonic()
    ask(server, "redos", regex="(a+)+$b")

    assert time.monotonic() - began < 50


def test_a_question_to_a_flood_is_streamed_and_finds_the_needle(server: Server) -> None:
    server.run("seq 300000; echo needle; seq 300000", name="hay")
    records = ask(server, "hay", grep="needle")

    found = [one for one in records if one["type"] == "line"]  # heartbeats come while it looks
    assert [(one["text"], one["line"]) for one in found] == [("needle", 300_001)]


def test_a_line_that_arrived_in_pieces_is_one_line(server: Server) -> None:
    server.run("printf a; sleep 0.02; printf b; sleep 0.02; echo c; echo d", name="pieces")
    one, two, _ = ask(server, "pieces")

    assert (one["text"], one["offset"], two["text"], two["offset"]) == ("abc", 0, "d", 4)


def test_lines_before_an_offset_are_the_last_that_begin_before_it(server: Server) -> None:
    one = "printf 'out '; [ $((i % 7)) = 0 ] && echo err $i >&2; echo $i"
    server.run(f"for i in $(seq 300); do {one}; done; printf open", name="back")
    every = [one for one in ask(server, "back") if one["type"] == "line"]
    assert len(every) == 343

    for place in (1, 2, every[100]["offset"], every[100]["offset"] + 1, every[-1]["offset"], 99999):
        before = [one for one in every if one["offset"] < place]
        for count in (1, 3, 60, 1000):
            *found, end = ask(server, "back", until=f"offset:{place}", tail=count)
            assert found == before[-count:], (place, count)
            assert end["lines"] == len(found)


def test_output_comes_as_it_was_written(server: Server) -> None:
    made = server.run("printf 'a\\377\\0'; printf bad >&2; printf z", name="bytes/x")
    reply = server.client.get(f"/process/{made['id']}/output")

    assert sorted(reply.content) == sorted(b"a\xff\0badz")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert 'filename="bytes' in reply.headers["content-disposition"]
    for stream, wanted in (("stdout", b"a\xff\0z"), ("stderr", b"bad")):
        found = server.client.get(f"/process/{made['id']}/output?stream={stream}")
        assert found.content == wanted
    assert server.client.get("/process/bytes%2Fx/output?stream=x").status_code == 400
    assert server.client.get("/process/nothing/output").status_code == 404


def test_records_without_output_have_everything_else(server: Server) -> None:
    made = server.run("echo shown; echo told >&2", name="quiet")
    whole = server.client.get(f"/process/{made['id']}").json()
    bare = server.client.get(f"/process/{made['id']}?output=false").json()
    listed = server.client.get("/process?output=false").json()

    assert whole["stdout"] == "shown\n"
    assert bare == {**whole, "stdout": "", "stderr": "", "logs": ""}
    assert bare in listed
    assert all(not one["logs"] for one in listed)
    assert whole in server.client.get("/process").json()
