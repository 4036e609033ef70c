"""The query of a request, as Go's net/url reads it."""

import socket
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.harness import Server

from sandkeeper.api.edge.query import Query


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"a=1&a=2", {"a": "1"}),
        (b"a=1;b=2&c=3", {"c": "3"}),
        (b"a;b&c", {"c": ""}),
        (b"a=%zz&a=2", {"a": "2"}),
        (b"%=1&a%4=1&b=%4x&c=%", {}),
        (b"a=x%20y+z%2B&&=v&&b=", {"a": "x y z+", "": "v", "b": ""}),
        (b"a=1=2&%61=3", {"a": "1=2"}),
        (b"a=%ff", {"a": "\ufffd"}),
        (b"", {}),
    ],
)
def test_the_first_value_counts_and_broken_pairs_are_not_there(
    line: bytes, found: dict[str, str]
) -> None:
    assert dict(Query(line)) == found


def test_all_values_of_a_name_are_had_in_their_order() -> None:
    assert Query(b"arg=1&b=2&arg=3&arg=;").getlist("arg") == ["1", "3"]


def test_a_repeated_parameter_counts_as_its_first_on_every_route(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    find = f"/filesystem-find/{tmp_path}"

    one = server.client.get(find + "?maxResults=1&maxResults=20").json()
    refused = server.client.get(find + "?maxResults=x&maxResults=1")
    dropped = server.client.get(find + "?maxResults=1;2&maxResults=%zz").json()
    assert (len(one["matches"]), len(dropped["matches"])) == (1, 2)
    assert refused.status_code == 400


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nhelloXX\r\n", b"-1\r\n\r\n"])
@pytest.mark.parametrize("target", ["POST /process", "PUT /filesystem-archive/tmp/x", "POST /mcp"])
def test_a_broken_chunk_is_400_while_nothing_is_answered(
    server: Server, target: str, chunk: bytes
) -> None:
    head = (
        f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head.encode() + chunk)
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"Invalid HTTP request received."}')


def test_if_unmodified_since_is_kept_where_there_is_no_if_match(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    at = int(path.stat().st_mtime)
    late, early = (formatdate(at + more, usegmt=True) for more in (0, -1))
    url = f"/filesystem/{path}"

    def ask(method: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"content": "old"} if method == "PUT" else None
        return server.client.request(method, url, json=body, headers=named).status_code

    assert ask("GET", If_Unmodified_Since=early) == 412
    assert ask("GET", If_Unmodified_Since=late) == 200
    assert ask("GET", If_Unmodified_Since="yesterday") == 200
    assert ask("GET", If_Unmodified_Since=early, If_Match="*") == 200
    assert ask("PUT", If_Unmodified_Since=early) == 412
    assert ask("DELETE", If_Unmodified_Since=early) == 412
    assert path.read_text() == "old"
    assert ask("PUT", If_Unmodified_Since=formatdate(at + 3600, usegmt=True)) == 200
    path.unlink()
    assert ask("PUT", If_Unmodified_Since=early) == 200


def test_what_a_library_warns_of_is_a_line_in_the_log(server: Server, tmp_path: Path) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\ntrailing data'
    server.client.put(
        f"/filesystem/{tmp_path}/x",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert (server.folder / "stderr.log").read_bytes() == b""


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/process/{}/events", "follow"),
        ("/process/{}/events", "hold"),
        ("/process/{}/lines", "ignoreCase"),
        ("/process/{}", "output"),
        ("/process", "output"),
        ("/process-stats", "ports"),
        ("/git/status", "untracked"),
    ],
)
def test_a_flag_that_is_neither_true_nor_false_is_refused_by_name(
    server: Server, url: str, name: str
) -> None:
    process = server.run("true")["pid"]

    answer = server.client.get(url.format(process), params={name: "maybe"})

    assert answer.status_code == 400
    assert answer.json() == {"error": f"invalid {name}: 'maybe' is neither true nor false"}


def test_a_flag_is_on_or_off_in_two_words_and_its_default_without() -> None:
    query = Query(b"a=true&b=1&c=false&d=0&e=")

    assert [query.flag(name) for name in "abcdef"] == [True, True, False, False, False, False]
    assert [query.flag(name, True) for name in "cdef"] == [False, False, True, True]
