"""Links to one file, entries to any depth, attributes, and gzip both ways."""

import gzip
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes, urlencode, urlsplit

import httpx
import pytest
from tests.harness import Server


def link(server: Server, path: Path, operation: str = "read", **fields: Any) -> str:
    body = {"path": str(path), "operation": operation, **fields}
    reply = server.client.post("/filesystem-links", json=body)
    assert reply.status_code == 201, reply.text
    url: str = reply.json()["url"]
    return url


def changed(url: str, **values: str) -> str:
    query = {name: one[0] for name, one in parse_qs(urlsplit(url).query).items()} | values
    return urlsplit(url).path + "?" + urlencode(query)


@pytest.mark.parametrize("token", ["", "a-token"])
def test_a_link_opens_one_path_for_one_thing(make_server: Any, token: str) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": token} if token else {})
    if token:
        server.client.headers["Authorization"] = f"Bearer {token}"
    refused = 401 if token else 403
    path = server.workdir / "a b~é"
    path.write_bytes(b"content")
    with httpx.Client(base_url=server.url, timeout=60) as stranger:
        read, write = link(server, path), link(server, path, "write")
        assert stranger.get(read).content == b"content"
        part = stranger.get(read, headers={"Range": "bytes=0-2"})
        assert (part.status_code, part.content) == (206, b"con")
        assert stranger.put(write, content=b"raw").status_code == 200
        assert path.read_bytes() == b"raw"
        assert stranger.post(write, files={"file": ("x", b"form")}).status_code == 200
        packed = {"Content-Encoding": "gzip"}
        assert stranger.put(write, content=gzip.compress(b"z"), headers=packed).status_code == 200
        assert path.read_bytes() == b"z"
        for wrong in (
            write,
            changed(read, path="/etc/passwd"),
            changed(read, path=f"{path}/../other"),
            changed(read, ticket=""),
            changed(read, ticket="0-" + "A" * 32),
            "/filesystem-link",
        ):
            assert stranger.get(wrong).status_code == refused, wrong
        assert stranger.put(read, content=b"no").status_code == refused
        assert server.client.delete("/filesystem-links").status_code == 200
        assert stranger.get(read).status_code == refused
        again = link(server, path)
        assert stranger.get(again).content == b"z"
        server.restart()
        assert stranger.get(again).content == b"z"
        assert stranger.get(read).status_code == refused
        if token:
            assert stranger.post("/filesystem-links", json={"path": "/x"}).status_code == 401


def test_a_link_for_nothing_is_refused(server: Server) -> None:
    for body in ({}, {"path": "/x", "operation": "own"}, {"path": "/x", "seconds": 0}):
        assert server.client.post("/filesystem-links", json=body).status_code == 400
    for seconds in (-1, 10**9, "x"):
        body = {"path": "/x", "seconds": seconds}
        assert server.client.post("/filesystem-links", json=body).status_code == 400


def test_entries_tell_links_and_attributes_to_any_depth(server: Server) -> None:
    root = server.workdir / "entries"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "f").write_text("1")
    (root / "l").symlink_to("d/f")
    (root / "nowhere").symlink_to("none")
    os.setxattr(root / "d" / "f", "user.kind", b"x")
    os.setxattr(root / "d" / "f", "user.raw", b"\xff")

    def entries(query: str = "") -> dict[str, Any]:
        url = f"/filesystem-entries/%2F{str(root)[1:]}{query}"
        found = server.client.get(url).json()["entries"]
        return {os.path.relpath(one["path"], root): one for one in found}

    assert list(entries()) == ["d", "l", "nowhere"]
    assert list(entries("?depth=2")) == ["d", "d/e", "d/f", "l", "nowhere"]
    found = entries("?depth=0")
    assert found["d/f"]["attributes"] == {"kind": "x", "raw": {"base64": "/w=="}}
    assert (found["l"]["type"], found["l"]["targetType"]) == ("symlink", "file")
    assert found["l"]["target"] == str(root / "d" / "f")
    assert "targetType" not in found["nowhere"]
    assert server.client.get("/filesystem-entries/%2Fno/such").status_code == 404
    assert server.client.get("/filesystem-entries/%2Fetc/passwd").status_code == 400
    assert server.client.get("/filesystem-entries/?depth=x").status_code == 400


def test_entries_come_in_pages_whatever_their_names_are(server: Server) -> None:
    root = server.workdir / "pages"
    names = [
        b"a b",
        b"caf\xe9",
        "\N{SNOWMAN}%41".encode(),
        b"x&after=",
        *(b"n%03d" % n for n in range(40)),
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).mkdir(parents=True)
    route = f"/filesystem-entries/%2F{str(root)[1:]}"

    met: list[bytes] = []
    after = ""
    while page := server.client.get(route, params={"limit": 7, "after": after}).json():
        assert page["total"] == len(names)
        for one in page["entries"]:
            coded = one.get("encodedName")
            met.append(one["name"].encode() if coded is None else unquote_to_bytes(coded))
        after = page["next"]
        if not after:
            break

    assert met == sorted(names)
    assert server.client.get(route, params={"limit": len(names)}).json()["next"] == ""
    (gone,) = server.client.get(route, params={"limit": 1, "after": "n038x"}).json()["entries"]
    assert gone["name"] == "n039"
    for query in ({"limit": "x"}, {"limit": 5, "depth": 2}):
        assert server.client.get(route, params=query).status_code == 400


def test_attributes_are_set_and_taken_away(server: Server) -> None:
    path = server.workdir / "marked"
    path.write_text("")

    def put(attributes: dict[str, Any]) -> int:
        body = {"attributes": attributes}
        return server.client.put("/filesystem-attributes/marked", json=body).status_code

    assert put({"a": "1", "b": "é"}) == 200
    assert server.client.get("/filesystem-stat/marked").json()["attributes"] == {"a": "1", "b": "é"}
    assert put({"a": None, "none": None}) == 200
    assert os.listxattr(path) == ["user.b"]
    assert put({"x\0": "1"}) == 422


def test_downloads_are_packed_for_who_names_gzip_alone(server: Server) -> None:
    data = b"line of text\n" * 50_000
    (server.workdir / "text").write_bytes(data)
    url = "/filesystem/text?download=true"
    for accept, packed in (
        ("gzip", True),
        ("gzip, identity;q=0.1", True),
        ("gzip, deflate, br", False),
        ("gzip;q=0", False),
        ("identity", False),
    ):
        with server.client.stream("GET", url, headers={"Accept-Encoding": accept}) as reply:
            raw = b"".join(reply.iter_raw())
        assert (reply.headers.get("Content-Encoding") == "gzip") is packed, accept
        assert (gzip.decompress(raw) if packed else raw) == data
    part = {"Accept-Encoding": "gzip", "Range": "bytes=0-3"}
    ranged = server.client.get(url, headers=part)
    assert (ranged.status_code, ranged.content) == (206, b"line")


def test_bodies_may_be_packed(server: Server) -> None:
    body = gzip.compress(b'{"command":"echo packed","waitForCompletion":true}')
    file = gzip.compress(b'{"content":"packed"}')
    coded = {"Content-Encoding": "gzip"}
    for _ in range(20):  # head and body may come as one, or one after the other
        reply = server.client.post("/process", content=body, headers=coded)
        assert reply.json().get("stdout") == "packed\n", reply.text
        written = server.client.put("/filesystem/packed", content=file, headers=coded)
        assert written.status_code == 200, written.text
    assert (server.workdir / "packed").read_text() == "packed"
    bomb = gzip.compress(b" " * (64 << 20))
    refused = server.client.post("/process", content=bomb, headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 413
    other = server.client.post("/process", content=body, headers={"Content-Encoding": "br"})
    assert other.status_code == 400
