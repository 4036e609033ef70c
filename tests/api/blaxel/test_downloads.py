"""Downloads: negotiation, types, ranges, conditions."""

import os
from pathlib import Path

import pytest
from tests.harness import Server

OCTETS = {"Accept": "application/octet-stream"}
TEXT = bytes(range(256)) * 4


@pytest.fixture
def url(server: Server, tmp_path: Path) -> str:
    """A file of 1,024 known bytes."""
    (tmp_path / "data.bin").write_bytes(TEXT)
    os.utime(tmp_path / "data.bin", (1_700_000_000, 1_700_000_000))
    return f"/filesystem/{tmp_path}/data.bin"


@pytest.mark.parametrize(
    ("accept", "query", "download"),
    [
        (None, "", False),
        ("*/*", "", False),
        ("application/json", "", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "", False),
        ("application/octet-stream", "", True),
        ("application/json, application/octet-stream", "", True),
        ("image/png", "", True),
        ("text/plain", "", True),
        (None, "?download=true", True),
        ("application/json", "?download=true", True),
        (None, "?download=1", False),
        (None, "?download=True", False),
    ],
)
def test_accept_and_query_decide_between_json_and_download(
    server: Server, url: str, accept: str | None, query: str, download: bool
) -> None:
    request = server.client.build_request("GET", url + query)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept

    reply = server.client.send(request)

    assert ("content-disposition" in reply.headers) == download
    assert reply.content == TEXT if download else reply.json()["size"] == 1024


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("a.txt", "text/plain"), ("a.log", "text/plain"), ("a.html", "text/html")],
        *[("a.htm", "text/html"), ("a.css", "text/css"), ("a.js", "application/javascript")],
        *[("a.json", "application/json"), ("a.xml", "application/xml")],
        *[("a.pdf", "application/pdf"), ("a.zip", "application/zip")],
        *[("a.tar", "application/x-tar"), ("a.tar.gz", "application/gzip")],
        *[("a.jpg", "image/jpeg"), ("a.jpeg", "image/jpeg"), ("a.png", "image/png")],
        *[("a.gif", "image/gif"), ("a.svg", "image/svg+xml")],
        *[("a.TXT", "application/octet-stream"), ("none", "application/octet-stream")],
        *[("txt", "application/octet-stream")],
    ],
)
def test_the_content_type_follows_the_extension(
    server: Server, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_text("x")

    headers = server.client.get(f"/filesystem/{tmp_path}/{name}?download=true").headers

    assert headers["content-type"] == kind
    assert headers["content-disposition"] == f'attachment; filename="{name}"'
    assert (headers["accept-ranges"], headers["content-length"]) == ("bytes", "1")


def test_a_name_that_would_break_the_header_is_escaped(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'a"b\\ü.txt').write_text("x")

    reply = server.client.get(f"/filesystem/{tmp_path}/a%22b%5C%C3%BC.txt?download=true")

    assert reply.headers["content-disposition"] == (
        'attachment; filename="a\\"b\\\\_.txt"; filename*=UTF-8\'\'a%22b%5C%C3%BC.txt'
    )


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-5000", 0, 1024),
        ("bytes=1000-5000", 1000, 1024),
        ("bytes=2000-3000,10-19", 10, 20),
        ("bytes=0-9999999999999999999999", 0, 1024),
        ("bytes=1000-" + "9" * 6000, 1000, 1024),
        ("bytes=-" + "9" * 6000, 0, 1024),
        ("bytes=000000000000000000000000-0000000000000000000000009", 0, 10),
        ("Bytes=0-0", 0, 1),
        ("bytes= 0-0 ,", 0, 1),
    ],
)
def test_one_range_is_answered_alone(
    server: Server, url: str, header: str, start: int, end: int
) -> None:
    reply = server.client.get(url, headers={**OCTETS, "Range": header})

    assert (reply.status_code, reply.content) == (206, TEXT[start:end])
    assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/1024"


@pytest.mark.parametrize(
    "header", ["bytes=2000-", "bytes=-0", "bytes=1024-", "bytes=" + "9" * 40 + "-", "bytes=,-0,"]
)
def test_a_range_outside_the_file_is_a_416(server: Server, url: str, header: str) -> None:
    reply = server.client.get(url, headers={**OCTETS, "Range": header})

    assert (reply.status_code, reply.headers["content-range"]) == (416, "bytes */1024")
    assert "invalid range" in reply.json()["error"]


@pytest.mark.parametrize(
    "header",
    [
        *("bytes=5-1", "bytes=0-0,5-1", "bytes=x", "bytes=abc", "bytes=-", "bytes", "bytes 0-1"),
        *("bytes=--1", "bytes=1--2", "bytes=0x1-2", "bytes=1-2-3", "bytes=+1-2", "bytes=0 - 1"),
        *("bytes=0-1;2", "items=0-1", "lines=1-2", "=0-1", "bytes=" + "9" * 40 + "-1"),
        "bytes=\N{ARABIC-INDIC DIGIT ONE}-2".encode(),
    ],
)
def test_what_is_no_range_of_bytes_is_as_if_it_were_not_there(
    server: Server, url: str, header: str | bytes
) -> None:
    reply = server.client.get(url, headers={**OCTETS, "Range": header})

    assert (reply.status_code, reply.content) == (200, TEXT)
    assert "content-range" not in reply.headers


def test_several_ranges_come_as_byteranges(server: Server, url: str) -> None:
    reply = server.client.get(url, headers={**OCTETS, "Range": "bytes=0-3,100-103"})

    assert reply.status_code == 206
    kind, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = reply.content.split(f"--{boundary}".encode())[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert bodies == [TEXT[0:4], TEXT[100:104]]
    assert b"Content-Range: bytes 100-103/1024" in parts[1]


@pytest.mark.parametrize("header", ["bytes=0-,0-", "bytes=" + ",".join(["0-0"] * 65)])
def test_more_ranges_than_make_sense_get_the_whole_file(
    server: Server, url: str, header: str
) -> None:
    reply = server.client.get(url, headers={**OCTETS, "Range": header})

    assert (reply.status_code, reply.content) == (200, TEXT)


def test_if_range_decides_whether_the_range_counts(server: Server, url: str) -> None:
    head = server.client.head(url).headers

    for value, status in [
        (head["etag"], 206),
        (head["last-modified"], 206),
        ('"other"', 200),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 200),
        ("nonsense", 200),
    ]:
        headers = {**OCTETS, "Range": "bytes=0-9", "If-Range": value}
        assert server.client.get(url, headers=headers).status_code == status, value


def test_what_the_client_has_already_is_a_304(server: Server, url: str) -> None:
    head = server.client.head(url).headers

    for name, value, status in [
        ("If-Modified-Since", head["last-modified"], 304),
        ("If-Modified-Since", "Wed, 01 Jan 2020 00:00:00 GMT", 200),
        ("If-Modified-Since", "nonsense", 200),
        ("If-None-Match", head["etag"], 304),
        ("If-None-Match", f'"x", W/{head["etag"]}', 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"x"', 200),
        ("If-Match", head["etag"], 200),
        ("If-Match", '"x"', 412),
    ]:
        reply = server.client.get(url, headers={**OCTETS, name: value})
        assert reply.status_code == status, (name, value)
        if status == 304:
            assert (reply.content, reply.headers["etag"]) == (b"", head["etag"])
    json_read = server.client.get(url, headers={"If-None-Match": head["etag"]})
    assert json_read.status_code == 304


def test_an_empty_file_downloads_even_when_a_range_is_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    reply = server.client.get(
        f"/filesystem/{tmp_path}/empty", headers={**OCTETS, "Range": "bytes=0-9"}
    )

    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")


def test_a_large_file_is_streamed_whole_and_in_ranges(server: Server, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(data)
    url = f"/filesystem/{tmp_path}/large"

    assert server.client.get(url, headers=OCTETS).content == data
    ranged = server.client.get(url, headers={**OCTETS, "Range": "bytes=500000-2999999"})
    assert ranged.content == data[500000:3000000]
