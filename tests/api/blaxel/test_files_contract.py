"""Small print of the contract that no other file of tests looks at."""

import os
from pathlib import Path

import pytest
from tests.harness import Server

OCTETS = {"Accept": "application/octet-stream"}
FORM = {"Content-Type": "multipart/form-data; boundary=XX"}


def form(disposition: str, data: bytes, before: bytes = b"") -> bytes:
    head = f"--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    return before + head + data + b"\r\n--XX--\r\n"


def test_the_name_is_the_base_name_however_the_path_is_written(server: Server) -> None:
    (server.workdir / "dir").mkdir()
    (server.workdir / "dir/f").write_text("x")

    names = {
        path: server.client.get(f"/filesystem/{path}").json()
        for path in ("dir/f/", "dir/f", "dir/", "dir/%2e%2e/dir/")
    }

    assert [found["name"] for found in names.values()] == ["f", "f", "dir", "dir"]
    assert [found["path"] for found in names.values()] == [
        "dir/f/",
        "dir/f",
        "dir/",
        "dir/../dir/",
    ]
    assert names["dir/"]["files"][0]["path"] == "dir/f"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/filesystem", 301),
        ("PUT", "/filesystem", 307),
        ("DELETE", "/filesystem?recursive=true", 307),
        ("HEAD", "/filesystem", 307),
        ("GET", "/filesystem-multipart/", 301),
        ("GET", "/watch/filesystem?ignore=a", 301),
    ],
)
def test_a_redirect_is_bare(server: Server, method: str, path: str, status: int) -> None:
    reply = server.client.request(method, path, follow_redirects=False)

    bare, _, query = path.partition("?")
    other = bare.rstrip("/") if bare.endswith("/") else bare + "/"
    assert reply.status_code == status
    assert reply.headers["location"] == other + (f"?{query}" if query else "")
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "-find/none",
        "-search/none",
        "-content-search/none",
        "-multipart",
        "-multipart/none/parts",
        "/tree/none",
        "-stat/none",
        "-usage/none",
        "-archive/none",
    ],
)
def test_head_of_every_get_route_is_200_and_looks_nothing_up(server: Server, path: str) -> None:
    reply = server.client.head(f"/filesystem{path}")

    assert (reply.status_code, reply.content) == (200, b"")


def test_a_nul_in_a_path_is_no_fault_of_the_server(server: Server) -> None:
    client = server.client
    replies = {
        422: [
            client.get("/filesystem/a%00b"),
            client.get("/filesystem/%00", headers=OCTETS),
            client.put("/filesystem/a%00b", json={}),
            client.put("/filesystem/%00", files={"file": ("f", b"x")}),
            client.delete("/filesystem/%00"),
            client.get("/filesystem-find/%00"),
            client.post("/filesystem-edit/%00", json={"oldString": "a"}),
            client.get("/filesystem-stat/%00"),
            client.get("/filesystem-archive/%00"),
            client.post("/filesystem-copy", json={"source": "\0", "destination": "x"}),
        ],
    }

    for status, answers in replies.items():
        for reply in answers:
            assert (reply.status_code, "invalid argument" in reply.text) == (status, True)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (form('name="file"; filename="f"', b"one", b"a preamble\r\nof two lines\r\n"), b"one"),
        (form("name=\"file\"; filename*=UTF-8''%C3%BC", b"two"), b"two"),
        (form("name=file; filename=f", b"three"), b"three"),
        (form('name="file"; filename="f"', b"\r\n--XY\r\n--X"), b"\r\n--XY\r\n--X"),
    ],
)
def test_forms_that_are_written_unusually_are_read(
    server: Server, body: bytes, content: bytes
) -> None:
    reply = server.client.put("/filesystem/form", content=body, headers=FORM)

    assert reply.json() == {"path": "form", "message": "Binary file uploaded successfully"}
    assert (server.workdir / "form").read_bytes() == content


def test_a_form_that_arrives_byte_by_byte_is_read(server: Server) -> None:
    body = form('name="file"; filename="f"', b"slow", b"a preamble\r\n")
    pieces = (body[at : at + 1] for at in range(len(body)))

    reply = server.client.put("/filesystem/slow", content=pieces, headers=FORM)

    assert reply.status_code == 200
    assert (server.workdir / "slow").read_bytes() == b"slow"


def test_an_endless_preamble_is_a_400(server: Server) -> None:
    reply = server.client.put("/filesystem/endless", content=b"x\r\n" * 100_000, headers=FORM)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith("error reading multipart part: ")
    assert not (server.workdir / "endless").exists()


def test_a_file_that_lies_about_its_size_is_sent_to_its_end(server: Server) -> None:
    for path in ("/sys/kernel/mm/transparent_hugepage/enabled", "/proc/version"):
        reply = server.client.get(f"/filesystem/{path}", headers=OCTETS)

        assert reply.status_code == 200
        assert reply.content == Path(path).read_bytes()
        assert "content-length" not in reply.headers


def test_a_file_of_nothing_but_a_hole_has_its_size(server: Server, tmp_path: Path) -> None:
    path = f"/dev/shm/sandkeeper-hole-{os.getpid()}"
    with open(path, "wb") as file:
        file.truncate(30_000)
    try:
        reply = server.client.get(f"/filesystem/{path}", headers=OCTETS)
        assert reply.headers["content-length"] == "30000"
        assert reply.content == bytes(30_000)
    finally:
        os.unlink(path)


def test_a_range_of_nothing_is_the_whole_file_and_a_plus_is_a_number(server: Server) -> None:
    (server.workdir / "r").write_text("0123456789")

    whole = server.client.get("/filesystem/r", headers={**OCTETS, "Range": "bytes="})
    found = server.client.get("/filesystem-find/?maxResults=%2B1")
    refused = server.client.get("/filesystem-find/?maxResults=%2B-1")

    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert (found.status_code, found.json()["total"]) == (200, 1)
    assert refused.json() == {"error": "invalid maxResults: +-1"}


def test_of_those_who_make_a_directory_that_must_not_be_there_one_does(server: Server) -> None:
    new = {"If-None-Match": "*"}

    statuses = [
        server.client.put("/filesystem/made", json={"isDirectory": True}, headers=new).status_code
        for _ in range(2)
    ]

    assert statuses == [200, 412]
    stale = {"If-Match": '"x"'}
    assert server.client.delete("/filesystem/made", headers=stale).status_code == 412
    assert (server.workdir / "made").is_dir()
