"""Reading JSON bodies as leniently as the contract says, and never worse than a BadInput."""

import json
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import Server, cases, until

from sandkeeper.api.edge.bodies.lenient import ANYTHING, built, fold
from sandkeeper.api.edge.bodies.long import WINDOW, LongText
from sandkeeper.api.edge.bodies.room import Held, Room
from sandkeeper.api.edge.request_body import LONG_BYTES, parse_json
from sandkeeper.api.schemas.files import FileRequest, TreeRequest
from sandkeeper.api.schemas.processes import ProcessRequest
from sandkeeper.errors import BadInput, Unavailable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["command", "ENV", "Timeout", "x", ""]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_bad_input(body: bytes) -> None:
    with suppress(BadInput):
        assert isinstance(parse_json(body, ProcessRequest), ProcessRequest)


@given(values)
def test_any_json_is_a_request_or_bad_input(value: object) -> None:
    with suppress(BadInput):
        assert isinstance(parse_json(json.dumps(value).encode(), ProcessRequest), ProcessRequest)


@given(st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=3), st.text())
def test_what_was_sent_is_what_is_read(command: str, env: dict[str, str], tail: str) -> None:
    def clean(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    body = json.dumps({"cOMMAND": command, "Env": env, "other": [1]}) + " " + tail
    made = parse_json(body.encode("utf-8", "surrogatepass"), ProcessRequest)

    assert made.command == clean(command)
    assert made.env == {clean(key): clean(value) for key, value in env.items()}


fields = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text() | st.none() | st.integers(),
        "isDirectory": st.booleans() | st.none() | st.just("true"),
        "permissions": st.text(max_size=4) | st.none(),
    },
)


@given(fields)
def test_the_short_way_reads_what_the_lenient_way_reads(sent: dict[str, object]) -> None:
    """A key that nobody knows makes a body take the lenient way."""

    def read(body: dict[str, object]) -> object:
        try:
            made = parse_json(json.dumps(body).encode(), FileRequest)
        except BadInput as error:
            return str(error)
        return (made.content, made.isDirectory, made.permissions)

    assert read(sent) == read({**sent, "unknown": 1})


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"env":', '{"x":['])
def test_any_depth_is_refused_or_read_but_never_fatal(depth: int, opening: str) -> None:
    with pytest.raises(BadInput):
        parse_json((opening * depth).encode(), ProcessRequest)


@settings(max_examples=cases(100))
@given(st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=3))
def test_a_body_of_very_many_values_is_read_as_well(command: str, env: dict[str, str]) -> None:
    many = b"[" + b"[]," * 30_000 + b"0]"
    clean = json.dumps({"command": command, "env": env, "stdin": None})
    body = clean.encode()[:-1] + b', "other": ' + many + b"}"

    made = parse_json(body, ProcessRequest)

    assert (made.command, made.env) == (command, env)


@settings(max_examples=cases(100))
@given(st.text(), st.text(max_size=3), st.sampled_from([b"", b" x", b"\xff", b" [1,"]))
def test_a_long_body_is_mended_as_a_short_one_is(text: str, odd: str, tail: bytes) -> None:
    """Half pairs, bytes that are no UTF-8, keys of another case, and what stands behind."""
    pad = "x" * LONG_BYTES
    part = json.dumps(text + "\ud800" + odd)[1:-1].encode() + b"\xff\\udfff\\\\ud800"

    def read(key: bytes, padding: str) -> str:
        body = b'{"%s":"%s%s","unknown":[1,{}]}' % (key, part, padding.encode())
        return parse_json(body + tail, FileRequest).content

    short = read(b"Content", "")
    assert read(b"content", pad) == read(b"cONTENT", pad) == short + pad
    assert short.endswith("\ufffd\ufffd\\ud800")


def test_a_text_with_very_many_commas_is_one_value() -> None:
    rows = "a,b,[c],{d}\n" * 100_000

    assert parse_json(json.dumps({"content": rows}).encode(), FileRequest).content == rows


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[' + b'"a",' * 100_000 + b"0]}",
        b"{" + b'"k":"\\\\",' * 100_000 + b'"k":0}',
        b'{"command":[' + b"[]," * 60_000 + b"0]}",
        b"[" * 200_000,
        b'{"x":[' + b"[]," * 600_000 + b"0]}",
    ],
)
def test_very_many_values_that_fit_nothing_are_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        parse_json(body, ProcessRequest)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=90),
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(st.sampled_from(["Content", "files", 'a"\\', "é"]), inner, max_size=4)
    ),
    max_leaves=30,
)


def long_text(text: bytes, decode: Any = ANYTHING.decode, values: int = 10_000) -> LongText:
    return LongText(text, decode, most=values, known=values, window=64)


@settings(max_examples=cases(100))
@given(nested, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([Any, TreeRequest]))
def test_pieces_make_what_the_whole_makes(
    value: object, indent: int | None, escapes: bool, kind: Any
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escapes).encode()

    def outcome(read: Callable[[], object]) -> object:
        try:
            return msgspec.convert(read(), kind)
        except msgspec.ValidationError:
            return "refused"

    assert long_text(text).first(kind)[1] == len(text)
    assert outcome(lambda: long_text(text).first(kind)[0]) == outcome(
        lambda: fold(built(text), kind)
    )


@settings(max_examples=cases(100))
@given(nested, st.data())
def test_what_is_cut_or_broken_is_no_json_whatever_its_length(value: object, data: Any) -> None:
    text = bytearray(json.dumps([value, "x" * 70, [value]]).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place : place + data.draw(st.integers(0, 1))] = data.draw(
        st.sampled_from([b"", b",", b"]", b"}", b"[", b'"', b"\\", b"1", b":", b"\0"])
    )
    broken = bytes(text)
    reads = []
    for read in (lambda: ANYTHING.decode(broken), lambda: whole(long_text(broken))):
        try:
            reads.append(read())
        except (msgspec.DecodeError, UnicodeDecodeError):
            reads.append("broken")

    assert reads[0] == reads[1]


def whole(text: LongText) -> object:
    value, end = text.first(Any)
    text.end(end)
    return value


@pytest.mark.parametrize(
    "text",
    [
        b'{"content":"%s"}' % (b"\\u4e00" * 50_000),
        b'{"content":"%s"}' % (b"\\ud83d\\ude00" * 25_000),
        b'{"content":"%s"}' % ("\U0001f600é\\\\" * 25_000).encode(),
        b'{"x":[%s0],"content":"a"}' % (b'{"a":[1]},' * 25_000),
        b'{"files":{%s"x":"%s"}}' % (b'"a":"b",' * 20_000, b"y" * 1_100_000),
        b'{"content":"","x":%s}' % (b" " * 400_000 + b"1"),
    ],
)
def test_no_call_gets_more_than_a_window_of_a_long_body(text: bytes) -> None:
    sizes = []

    def decode(piece: bytes) -> Any:
        sizes.append(len(piece))
        return built(piece)

    LongText(text, decode, most=1_000_000, known=1_000_000).first(TreeRequest)

    assert parse_json(text, TreeRequest) == msgspec.convert(
        fold(built(text), TreeRequest), TreeRequest
    )
    assert max(sizes) <= WINDOW + 20


@pytest.mark.parametrize("values", [3, 3000])
def test_values_of_a_long_body_are_counted(values: int) -> None:
    text = json.dumps({"x": [[["a,b,c", {}]]] * values}).encode()

    assert long_text(text, values=10 * values).first(TreeRequest)[0] == {}
    with pytest.raises(msgspec.DecodeError, match="too many values"):
        long_text(text, values=values).first(TreeRequest)


def test_bodies_together_have_a_limit_and_give_their_room_back() -> None:
    room = Room(100)
    first, second = Held(room), Held(room)
    first.take(80)

    with pytest.raises(Unavailable):
        second.take(30)
    first.release()
    second.take(30)

    assert room.free == 70


def test_large_bodies_that_hang_keep_no_small_ones_out(make_server) -> None:
    room = {
        "SANDKEEPER_MAX_BODY_BYTES_TOTAL": str(8 << 20),
        "SANDKEEPER_MAX_JSON_WRITE_BYTES": str(4 << 20),
        "SANDKEEPER_MAX_JSON_BODY_BYTES": str(1 << 20),
        "SANDKEEPER_BODY_SECONDS": "0",
    }
    server: Server = make_server(env=room)
    head = b"PUT /filesystem/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
    body = {"content": "a" * (3 << 20)}

    def hang() -> socket.socket:
        sock = hanging.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        sock.sendall(head + b"a" * 3_900_000)
        return sock

    def full() -> bool:
        # The body that asks may have taken the room before those that hang were read.
        refused, _, _ = select.select(held, [], [], 0)
        held[:] = [hang() if sock in refused else sock for sock in held]
        return bool(server.client.put("/filesystem/b", json=body).status_code == 503)

    with ExitStack() as hanging:
        held = [hang(), hang()]
        until(full)
        assert server.client.put("/filesystem/c", json={"content": "c"}).status_code == 200
    until(lambda: server.client.put("/filesystem/b", json=body).status_code == 200)


def test_a_body_of_many_values_costs_little_more_than_its_size(make_server) -> None:
    server: Server = make_server()
    before = peak(server)
    body = b'{"x":[' + b"[]," * (5 << 20) + b"0]}"

    reply = server.client.put("/filesystem/many", content=body)

    assert (reply.status_code, "too many values" in reply.text) == (400, True)
    assert peak(server) - before < 100 << 20  # as objects they were 400 MB


def peak(server: Server) -> int:
    with open(f"/proc/{server.pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def test_null_is_the_default_of_a_field_and_the_zero_of_an_element() -> None:
    body = b'{"command":"true","timeout":null,"env":{"A":null,"B":"b"},"waitForPorts":[null,1]}'
    made = parse_json(body, ProcessRequest)

    assert (made.timeout, made.env, made.wait_for_ports) == (None, {"A": "", "B": "b"}, [0, 1])
