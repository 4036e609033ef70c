"""Uploads: forms in one request, and sessions of parts."""

import gzip
import hashlib
import itertools
import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness import Server, cases, until


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> dict[str, Any]:
    """A form of (disposition parameters, data) parts, as a request's content and headers."""
    body = b""
    for disposition, data in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        body += head.encode() + data + b"\r\n"
    return {
        "content": body + f"--{boundary}--\r\n".encode(),
        "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    }


FILE = 'name="file"; filename="x.bin"'


@pytest.mark.parametrize("size", [0, 1, 65_536, 600_000, 3_000_000])
def test_a_form_upload_arrives_byte_for_byte(server: Server, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    reply = server.client.put(
        f"/filesystem/{tmp_path}/up/x.bin",
        files={"file": ("x.bin", data)},
        data={"permissions": "0600", "path": "ignored"},
    )

    assert reply.json() == {
        "path": f"{tmp_path}/up/x.bin",
        "message": "Binary file uploaded successfully",
    }
    assert (tmp_path / "up/x.bin").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "up/x.bin").stat().st_mode) == 0o600


def test_fields_may_come_in_any_order(server: Server, tmp_path: Path) -> None:
    after = form((FILE, b"data"), ('name="permissions"', b" 0640 "), ('name="path"', b"/x"))

    assert server.client.put(f"/filesystem/{tmp_path}/f", **after).status_code == 200
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert (tmp_path / "f").read_bytes() == b"data"


def test_only_the_first_file_with_a_name_counts(server: Server, tmp_path: Path) -> None:
    several = form(
        ('name="file"', b"no filename"),
        ('name="other"; filename="y"', b"another field"),
        (FILE, b"first"),
        (FILE, b"second"),
    )

    assert server.client.put(f"/filesystem/{tmp_path}/f", **several).status_code == 200
    assert (tmp_path / "f").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (form(('name="file"', b"x")), "missing 'file' field in multipart form"),
        (form(), "missing 'file' field in multipart form"),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            "error reading multipart data: ",
        ),
        (
            {**form((FILE, b"new" * 100_000)), "content": form((FILE, b"new"))["content"][:-20]},
            "error reading multipart part: ",
        ),
        (
            {**form((FILE, b"x")), "content": b"no form at all"},
            "error reading multipart part: ",
        ),
        (
            form((FILE, b"new"), ('name="permissions"', b"0x1ff")),
            "invalid permissions format '0x1ff': ",
        ),
        (
            form((FILE, b"new"), ('name="permissions"', b"7" * 65)),
            "error reading multipart part: ",
        ),
    ],
)
def test_a_form_that_is_not_whole_is_a_400_and_leaves_the_old_file(
    server: Server, tmp_path: Path, request_: dict[str, Any], error: str
) -> None:
    (tmp_path / "f").write_bytes(b"old")

    reply = server.client.put(f"/filesystem/{tmp_path}/f", **request_)

    assert (reply.status_code, reply.json()["error"][: len(error)]) == (400, error)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_an_upload_that_breaks_off_leaves_the_old_file_and_nothing_else(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    head = (
        f"PUT /filesystem/{tmp_path}/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        f"--b\r\nContent-Disposition: form-data; {FILE}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode() + b"n" * 3_000_000)
        until(lambda: len(os.listdir(tmp_path)) == 2)

    until(lambda: os.listdir(tmp_path) == ["f"])
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_form_to_what_cannot_be_written_is_a_422(server: Server, tmp_path: Path) -> None:
    for size in (10, 2_000_000):
        reply = server.client.put(f"/filesystem/{tmp_path}", files={"file": ("x", b"x" * size)})
        assert reply.status_code == 422
        assert reply.json()["error"].startswith("error writing binary file: ")


@settings(max_examples=cases(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=300).map(lambda b: b.replace(b"Q", b"\r\n--b0undar")),
    cuts=st.lists(st.integers(0, 700), max_size=6),
)
def test_a_form_may_be_cut_anywhere_between_packets(
    server: Server, tmp_path: Path, data: bytes, cuts: list[int]
) -> None:
    request = form((FILE, data), ('name="permissions"', b"600"))
    body = request["content"]
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    def pieces() -> Any:
        for start, end in itertools.pairwise(edges):
            yield body[start:end]

    reply = server.client.put(
        f"/filesystem/{tmp_path}/cut", content=pieces(), headers=request["headers"]
    )

    assert reply.status_code == 200, reply.text
    assert (tmp_path / "cut").read_bytes() == data


# Sessions


class Session:
    """One upload in parts."""

    def __init__(self, server: Server, path: object, **body: Any) -> None:
        self.client = server.client
        reply = self.client.post(f"/filesystem-multipart/initiate/{path}", json=body)
        assert reply.status_code == 200, reply.text
        self.started = reply.json()
        self.url = f"/filesystem-multipart/{self.started['uploadId']}"

    def part(self, number: object, data: bytes) -> httpx.Response:
        files = {"file": (f"part-{number}", data)}
        return self.client.put(f"{self.url}/part", params={"partNumber": number}, files=files)

    def complete(self, *parts: tuple[int, str], **options: Any) -> httpx.Response:
        listed = [{"partNumber": number, "etag": etag} for number, etag in parts]
        return self.client.post(f"{self.url}/complete", json={"parts": listed}, **options)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def test_parts_in_any_order_become_one_file(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/deep/f", permissions="0600")
    data = {number: os.urandom(700_000) for number in (3, 1, 2)}

    assert session.started["path"] == f"{tmp_path}/deep/f"
    assert not (tmp_path / "deep").exists()
    for number, content in data.items():
        assert session.part(number, content).json() == {
            "partNumber": number,
            "etag": md5(content),
            "size": 700_000,
        }
    listed = session.client.get(f"{session.url}/parts").json()
    assert [part["partNumber"] for part in listed["parts"]] == [1, 2, 3]
    assert listed["uploadId"] == session.started["uploadId"]
    reply = session.complete(*[(n, md5(data[n])) for n in (2, 3, 1)])

    assert reply.json() == {
        "path": f"{tmp_path}/deep/f",
        "message": "Multipart upload completed successfully",
    }
    assert (tmp_path / "deep/f").read_bytes() == data[1] + data[2] + data[3]
    assert stat.S_IMODE((tmp_path / "deep/f").stat().st_mode) == 0o600
    assert session.client.get(f"{session.url}/parts").status_code == 404


def test_the_list_of_uploads_shows_them_with_their_parts(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/f")
    session.part(7, b"seven")

    uploads = server.client.get("/filesystem-multipart").json()["uploads"]

    (mine,) = [u for u in uploads if u["uploadId"] == session.started["uploadId"]]
    assert mine["permissions"] == 420
    assert mine["parts"]["7"]["etag"] == md5(b"seven")
    assert mine["parts"]["7"]["uploadedAt"] >= mine["initiatedAt"]
    redirect = server.client.get("/filesystem-multipart/")
    assert (redirect.status_code, redirect.headers["location"]) == (301, "/filesystem-multipart")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"permissions": 5}'])
def test_an_initiate_without_a_readable_body_uses_the_default_mode(
    server: Server, tmp_path: Path, body: bytes
) -> None:
    url = f"/filesystem-multipart/initiate/{tmp_path}/f"

    assert server.client.post(url, content=body).status_code == 200
    wrong = server.client.post(url, json={"permissions": "9"})
    assert (wrong.status_code, wrong.json()["error"][:28]) == (400, "invalid permissions format: ")


@pytest.mark.parametrize(
    ("number", "status", "error"),
    [
        ("", 400, "partNumber is required"),
        ("x", 400, "invalid partNumber: "),
        ("1.5", 400, "invalid partNumber: "),
        ("0", 500, "failed to upload part: part number must be between 1 and 10000"),
        ("-1", 500, "failed to upload part: part number must be between 1 and 10000"),
        ("10001", 500, "failed to upload part: part number must be between 1 and 10000"),
        ("10000", 200, ""),
    ],
)
def test_a_part_number_is_a_number_from_1_to_10000(
    server: Server, tmp_path: Path, number: str, status: int, error: str
) -> None:
    session = Session(server, f"{tmp_path}/f")

    reply = session.part(number, b"x")

    assert reply.status_code == status
    assert reply.json().get("error", "").startswith(error)


def test_a_part_sent_again_replaces_the_first(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/f")
    session.part(1, b"first")
    session.part(1, b"second")
    session.part(1, b"second")

    stale = session.complete((1, md5(b"first")))
    assert stale.status_code == 500
    assert stale.json()["error"] == "failed to complete upload: etag mismatch for part 1"
    assert session.complete((1, md5(b"second"))).status_code == 200
    assert (tmp_path / "f").read_bytes() == b"second"


def test_what_cannot_be_completed_keeps_the_session_and_the_old_file(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("old")
    session = Session(server, f"{tmp_path}/f")
    session.part(1, b"one")
    url = f"{session.url}/complete"

    assert session.client.post(url, content=b"").status_code == 400
    none = session.client.post(url, json={"parts": []})
    assert (none.status_code, none.json()["error"]) == (400, "at least one part is required")
    missing = session.complete((1, md5(b"one")), (2, "x"))
    assert missing.json()["error"] == "failed to complete upload: part 2 not found"
    twice = session.complete((1, md5(b"one")), (1, md5(b"one")))
    assert twice.status_code == 500
    guarded = session.complete((1, md5(b"one")), headers={"If-None-Match": "*"})
    assert guarded.status_code == 412
    assert (tmp_path / "f").read_text() == "old"
    assert session.complete((1, md5(b"one"))).status_code == 200


def test_an_unknown_or_aborted_upload_is_unknown_to_every_call(
    server: Server, tmp_path: Path
) -> None:
    session = Session(server, f"{tmp_path}/f")
    session.part(1, b"x")

    reply = session.client.delete(f"{session.url}/abort")
    assert reply.json() == {"path": "", "message": "Multipart upload aborted successfully"}

    upload_id = session.started["uploadId"]
    assert session.client.delete(f"{session.url}/abort").status_code == 404
    assert session.complete((1, md5(b"x"))).status_code == 404
    parts = session.client.get(f"{session.url}/parts")
    assert (parts.status_code, parts.json()) == (404, {"error": f"upload not found: {upload_id}"})
    late = session.part(1, b"x")
    assert (late.status_code, late.json()["error"]) == (
        500,
        f"failed to upload part: upload not found: {upload_id}",
    )
    assert server.client.get(f"/filesystem/{tmp_path}/f").status_code == 404
    no_file = session.client.put(f"{session.url}/part", params={"partNumber": 1}, data={"a": "b"})
    assert no_file.status_code == 400


def test_of_two_simultaneous_completes_one_wins_and_the_other_finds_nothing(
    server: Server, tmp_path: Path
) -> None:
    data = os.urandom(5_000_000)
    session = Session(server, f"{tmp_path}/f")
    session.part(1, data)

    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: session.complete((1, md5(data))), range(4)))

    assert sorted(reply.status_code for reply in replies) == [200, 404, 404, 404]
    assert (tmp_path / "f").read_bytes() == data


def test_simultaneous_versions_of_one_part_do_not_mix(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/f")
    versions = [bytes([number]) * 2_000_000 for number in range(6)]

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda data: session.part(1, data), versions))
    kept = session.client.get(f"{session.url}/parts").json()["parts"][0]["etag"]

    assert all(reply.status_code == 200 for reply in replies)
    assert session.complete((1, kept)).status_code == 200
    assert md5((tmp_path / "f").read_bytes()) == kept


def test_listing_while_parts_arrive_never_fails(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/f")
    done = threading.Event()

    def send() -> None:
        for number in range(1, 150):
            session.part(number, b"x" * 10)
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while not done.is_set():
            reply = client.get("/filesystem-multipart")
            assert reply.status_code == 200
            json.loads(reply.content)
    sender.join()
    assert len(session.client.get(f"{session.url}/parts").json()["parts"]) == 149


@settings(max_examples=cases(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sent=st.lists(st.tuples(st.integers(1, 6), st.binary(max_size=30)), min_size=1, max_size=10),
    listed=st.sets(st.integers(1, 6), min_size=1),
)
def test_whatever_order_and_choice_the_file_is_the_listed_parts_by_number(
    server: Server,
    tmp_path: Path,
    sent: list[tuple[int, bytes]],
    listed: set[int],
) -> None:
    session = Session(server, f"{tmp_path}/h")
    for number, data in sent:
        session.part(number, data)
    latest = dict(sent)

    order = sorted(listed, key=lambda number: md5(bytes([number])))
    reply = session.complete(*[(n, md5(latest.get(n, b""))) for n in order])

    if listed <= set(latest):
        assert reply.status_code == 200
        expected = b"".join(latest[number] for number in sorted(listed))
        assert (tmp_path / "h").read_bytes() == expected
    else:
        assert reply.status_code == 500
        session.client.delete(f"{session.url}/abort")


def test_sessions_survive_a_restart_and_strangers_in_their_directory_do_no_harm(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = make_server(env={"TMPDIR": str(temporary)})
    root = temporary / "multipart-uploads"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    session = Session(server, f"{tmp_path}/f%FF")
    session.part(1, b"one")
    session.part(2, b"two")
    folder = root / session.started["uploadId"]
    (folder / "part-0123456789abcdef.tmp").write_bytes(b"half a part")
    planted = root / "0b0e7f4e-0000-4000-8000-000000000000"
    planted.mkdir()
    (planted / "metadata.json").write_text(
        '{"uploadId":"..","path":"/x","permissions":420,"initiatedAt":"","parts":null}'
    )
    half_removed = root / "0b0e7f4e-0000-4000-8000-000000000001"
    half_removed.mkdir()
    (half_removed / f"part-1-{'0' * 32}").write_text("of a session that was being removed")
    (root / "junk").write_text("")
    (root / "broken").mkdir()

    server.kill9()
    server.start()

    (upload,) = server.client.get("/filesystem-multipart").json()["uploads"]
    assert upload["uploadId"] == session.started["uploadId"]
    assert not (folder / "part-0123456789abcdef.tmp").exists()
    session.part(2, b"TWO")
    assert session.complete((1, md5(b"one")), (2, md5(b"TWO"))).status_code == 200
    assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff")).read_bytes() == b"oneTWO"
    assert not folder.exists()
    # It looks like one of ours that is damaged: it is out of the way, and kept.
    assert not planted.exists()
    (aside,) = (server.state / "damaged").glob(f"*-{planted.name}")
    assert (aside / "metadata.json").exists()
    assert not half_removed.exists()


def test_abandoned_uploads_are_removed_after_their_time(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = make_server(env={"TMPDIR": str(temporary), "SANDKEEPER_UPLOAD_SECONDS": "1"})
    Session(server, f"{tmp_path}/f").part(1, b"x")

    until(lambda: os.listdir(temporary / "multipart-uploads") == [])
    assert server.client.get("/filesystem-multipart").json() == {"uploads": []}


# Contents: from the beginning on, in any number of requests


def sent(session: Session, offset: int, data: bytes, **options: Any) -> httpx.Response:
    options.setdefault("params", {"offset": offset})
    return session.client.put(f"{session.url}/content", content=data, **options)


def finished(session: Session, size: int, **options: Any) -> httpx.Response:
    return session.client.post(f"{session.url}/complete", json={"size": size}, **options)


def test_a_content_grows_where_it_stands_and_becomes_the_file(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o640)
    data = os.urandom(3_000_000)
    session = Session(server, f"{tmp_path}/f")
    state = f"{session.url}/content"

    assert sent(session, 0, data[:1_000_000]).json()["size"] == 1_000_000
    for offset in (0, 999_999, 1_000_001):
        wrong = sent(session, offset, b"x" * 600_000)
        assert (wrong.status_code, wrong.json()["size"]) == (409, 1_000_000)
    packed = {"headers": {"Content-Encoding": "gzip"}}
    assert sent(session, 1_000_000, gzip.compress(data[1_000_000:]), **packed).status_code == 200
    told = session.client.get(state, params={"digest": "sha256"}).json()
    assert told.pop("sha256") == hashlib.sha256(data).hexdigest()
    assert told == {
        "uploadId": session.started["uploadId"],
        "size": len(data),
        "arriving": False,
    }
    listed = session.client.get("/filesystem-multipart").json()["uploads"]
    (size,) = (one["contentSize"] for one in listed if one["uploadId"] == told["uploadId"])
    assert size == len(data)

    assert finished(session, len(data) - 1).status_code == 409
    assert finished(session, len(data), headers={"If-None-Match": "*"}).status_code == 412
    assert (tmp_path / "f").read_text() == "old"
    assert finished(session, len(data)).json()["path"] == f"{tmp_path}/f"
    assert (tmp_path / "f").read_bytes() == data
    info = (tmp_path / "f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_nlink) == (0o640, 1)
    assert session.client.get(state).status_code == 404
    assert os.listdir(tmp_path) == ["f"]


def test_a_content_takes_the_place_of_what_only_can_be_written_in_place(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("old")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    for name, made in (("one", b"both"), ("new/f", b"x"), ("empty", b""), ("unsent", b"")):
        session = Session(server, f"{tmp_path}/{name}", permissions="600")
        assert name == "unsent" or sent(session, 0, made).status_code == 200
        assert finished(session, len(made)).status_code == 200
        assert (tmp_path / name).read_bytes() == made

    assert (tmp_path / "two").read_bytes() == b"both"
    assert stat.S_IMODE((tmp_path / "new/f").stat().st_mode) == 0o600


def test_what_came_of_a_content_stays_after_a_lost_line_and_a_kill(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = make_server(env={"TMPDIR": str(temporary)})
    session = Session(server, f"{tmp_path}/f")
    state = f"{session.url}/content"
    data = os.urandom(4 << 20)

    def begun(offset: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", server.port))
        head = f"PUT {state}?offset={offset} HTTP/1.1\r\nHost: localhost\r\n"
        sock.sendall(
            f"{head}Content-Length: 9999999\r\n\r\n".encode() + data[offset : offset + (2 << 20)]
        )
        return sock

    def size() -> int:
        return int(session.client.get(state).json()["size"])

    with begun(0) as stale:
        until(lambda: size() > 1 << 20)
        assert session.client.get(state).json()["arriving"] is True
        # Whoever goes on takes its place: of the stale line nothing more counts.
        here = size()
        reply = sent(session, here, b"")
        here = reply.json()["size"]
        assert reply.status_code in {200, 409}
        stale.sendall(b"stale" * 200_000)
        assert stale.makefile("rb").readline().split()[1] == b"409"
        assert size() == here
    with begun(here):
        until(lambda: size() > here + (1 << 20))
    until(lambda: session.client.get(state).json()["arriving"] is False)
    here = size()
    server.kill9()
    server.start()

    assert size() == here
    # As a kill leaves it behind the very moment in which it became a file.
    folder = temporary / "multipart-uploads" / session.started["uploadId"]
    (tmp_path / "file").hardlink_to(folder / "content")
    assert sent(session, here, data[here:]).json()["size"] == len(data)
    assert (tmp_path / "file").read_bytes() == data[:here]
    assert sorted(os.listdir(folder)) == ["content", "metadata.json"]
    assert finished(session, len(data)).status_code == 200
    assert (tmp_path / "f").read_bytes() == data
    assert os.listdir(temporary / "multipart-uploads") == []


def test_what_makes_no_sense_of_a_content_is_told(server: Server, tmp_path: Path) -> None:
    session = Session(server, f"{tmp_path}/f")
    state = f"{session.url}/content"
    nowhere = f"/filesystem-multipart/{session.started['uploadId'][::-1]}/content"

    def asked(method: str, route: str, **options: Any) -> tuple[int, str]:
        reply = session.client.request(method, route, **options)
        return reply.status_code, reply.json()["error"]

    assert asked("PUT", f"{state}?offset=-1", content=b"") == (
        400,
        "offset must be a number of bytes",
    )
    assert asked("GET", f"{state}?digest=md5") == (400, "digest must be sha256")
    both = {"parts": [{"partNumber": 1, "etag": "x"}], "size": 1}
    assert asked("POST", f"{session.url}/complete", json=both) == (
        400,
        "parts and size exclude each other",
    )
    assert asked("PUT", nowhere, content=b"")[0] == asked("GET", nowhere)[0] == 404
    assert asked("POST", f"{session.url}/complete", json={"size": 5})[0] == 409
