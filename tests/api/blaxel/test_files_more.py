"""What the contract does not have: stat, attributes, edits, archives, disk usage."""

import io
import os
import random
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness import Server, cases, needs_root, until

from sandkeeper.files.paths import is_temporary


def test_stat_tells_everything_and_does_not_follow_links(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("12345")
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "dangling").symlink_to("nowhere")

    file = server.client.get(f"/filesystem-stat/{tmp_path}/f").json()
    link = server.client.get(f"/filesystem-stat/{tmp_path}/link").json()
    dangling = server.client.get(f"/filesystem-stat/{tmp_path}/dangling").json()

    info = (tmp_path / "f").stat()
    assert (file["type"], file["size"], file["permissions"]) == ("file", 5, "644")
    assert (file["inode"], file["links"], file["uid"]) == (info.st_ino, 1, os.getuid())
    assert "target" not in file
    assert (link["type"], link["target"], link["etag"]) == ("symlink", "f", file["etag"])
    assert dangling["target"] == "nowhere"
    assert server.client.get(f"/filesystem-stat/{tmp_path}/x").status_code == 404
    assert server.client.get(f"/filesystem-stat/{tmp_path}/f/x").status_code == 422
    assert server.client.get("/filesystem-stat//dev/null").json()["type"] == "character-device"
    assert server.client.get("/filesystem-stat//").json()["name"] == "/"


@needs_root
def test_attributes_are_changed_alone_and_recursively(server: Server, tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/f").write_text("")
    (tmp_path / "outside").write_text("")
    (tmp_path / "d/link").symlink_to("../outside")

    def change(name: str, **body: object) -> httpx.Response:
        headers = body.pop("headers", None)
        url = f"/filesystem-attributes/{tmp_path}/{name}"
        return server.client.put(url, json=body, headers=headers)  # type: ignore[arg-type]

    assert change("d", permissions="1700").status_code == 200
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o1700
    reply = change("d", owner="nobody", group="1234", permissions="750", recursive=True)
    assert reply.json()["message"] == "Attributes of 4 entries changed successfully"
    for name in ["d", "d/sub", "d/sub/f"]:
        info = (tmp_path / name).stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (65534, 1234, 0o750)
    assert (tmp_path / "outside").stat().st_uid == 0
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o644
    assert change("d", owner="no-such-user").status_code == 400
    assert change("d", group="99999999999").status_code == 400
    assert change("d").status_code == 400
    assert change("none", permissions="600").status_code == 404
    stale = change("outside", permissions="600", headers={"If-Match": '"x"'})
    assert stale.status_code == 412


def test_an_edit_replaces_exact_text_as_often_as_it_must(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes("one two one ünï\r\n".encode() + b"\xff")

    def edit(old: str, new: str, **more: object) -> httpx.Response:
        headers = more.pop("headers", None)
        body = {"oldString": old, "newString": new, **more}
        url = f"/filesystem-edit/{target}"
        return server.client.post(url, json=body, headers=headers)  # type: ignore[arg-type]

    for arguments, status, word in [
        (("three", "x"), 422, "not found"),
        (("one", "x"), 422, "2 times"),
        (("one", "one"), 400, "identical"),
        (("", "x"), 400, "empty"),
    ]:
        reply = edit(*arguments)
        assert (reply.status_code, word in reply.json()["error"]) == (status, True)
    assert edit("one", "x", expectedOccurrences=3).status_code == 422
    done = edit("two", "2")
    assert done.json() == {
        "path": str(target),
        "message": "File edited successfully",
        "occurrencesReplaced": 1,
    }
    assert edit("ünï\r\n", "U", headers={"If-Match": '"x"'}).status_code == 412
    tag = {"If-Match": done.headers["etag"]}
    assert edit("ünï\r\n", "U", headers=tag).status_code == 200
    assert edit("one", "1", replaceAll=True).json()["occurrencesReplaced"] == 2
    assert target.read_bytes() == b"1 2 1 U\xff"
    url = f"/filesystem-edit/{tmp_path}/none"
    missing = server.client.post(url, json={"oldString": "a", "newString": "b"})
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("text", "old", "more", "said"),
    [
        ("aaa", "aa", {}, "occurs 2 times; make"),
        ("aaaa", "aa", {}, "occurs 3 times; make"),
        ("xabababx", "abab", {"expectedOccurrences": 1}, "occurs 2 times, not 1"),
        ("xabababx", "abab", {"expectedOccurrences": 2}, "occurs 2 times; make"),
        ("a" * 200_000, "a" * 100_000, {}, "times; make"),
    ],
)
def test_a_text_that_fits_two_overlapping_places_is_ambiguous(
    server: Server, tmp_path: Path, text: str, old: str, more: dict[str, int], said: str
) -> None:
    target = tmp_path / "f"
    target.write_text(text)
    body = {"oldString": old, "newString": "x", **more}

    reply = server.client.post(f"/filesystem-edit/{target}", json=body)

    assert reply.status_code == 422
    assert said in reply.json()["error"]
    assert target.read_text() == text
    everywhere = server.client.post(
        f"/filesystem-edit/{target}", json={**body, "expectedOccurrences": None, "replaceAll": True}
    )
    assert everywhere.json()["occurrencesReplaced"] == text.count(old)
    assert target.read_text() == text.replace(old, "x")


def test_an_edit_does_not_grow_a_file_over_the_limit(make_server, tmp_path: Path) -> None:
    server: Server = make_server(env={"SANDKEEPER_MAX_JSON_WRITE_BYTES": "4096"})
    target = tmp_path / "f"
    target.write_text("a" * 5000)
    body = {"oldString": "a", "newString": "b" * 2000, "replaceAll": True}

    reply = server.client.post(f"/filesystem-edit/{target}", json=body)

    assert (reply.status_code, reply.json()["error"]) == (
        422,
        "the result is larger than 5000 bytes",
    )
    assert target.read_text() == "a" * 5000
    body["newString"] = "b"
    assert server.client.post(f"/filesystem-edit/{target}", json=body).status_code == 200


def test_edits_that_meet_are_tried_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("\n".join(f"<{number}>" for number in range(12)))

    def edit(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            body = {"oldString": f"<{number}>", "newString": f"[{number}]"}
            while (reply := client.post(f"/filesystem-edit/{target}", json=body)).is_error:
                assert reply.status_code == 412
                assert "being written by others" in reply.json()["error"]

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert target.read_text() == "\n".join(f"[{number}]" for number in range(12))


def test_simultaneous_edits_are_all_there_or_told(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("\n".join(f"<{number}>" for number in range(40)))
    done: list[int] = []

    def run(numbers: range) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for number in numbers:
                body = {"oldString": f"<{number}>", "newString": f"[{number}]"}
                if client.post(f"/filesystem-edit/{target}", json=body).status_code == 200:
                    done.append(number)

    threads = [threading.Thread(target=run, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    edited = {int(line[1:-1]) for line in target.read_text().split("\n") if line[0] == "["}
    assert edited == set(done)


def test_usage_adds_up_as_du_does(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "sub/a", tmp_path / "b")
    (tmp_path / "link").symlink_to("sub")

    body = server.client.get(f"/filesystem-usage/{tmp_path}").json()

    output = subprocess.run(["du", "-sB1", tmp_path], capture_output=True, check=True).stdout
    assert body["disk"] == int(output.split()[0])
    assert (body["files"], body["directories"]) == (2, 2)
    assert body["apparent"] == 100_003
    assert body["filesystemSize"] > body["filesystemFree"] > 0
    assert server.client.get(f"/filesystem-usage/{tmp_path}/x").status_code == 404


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with what a tar can hold."""
    root = tmp_path / "source"
    (root / "sub/deep").mkdir(parents=True)
    (root / "a").write_bytes(os.urandom(700_001))
    (root / "sub/deep/empty").touch()
    os.link(root / "a", root / "sub/hard")
    (root / "link").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    (root / ("n" * 200)).write_text("long")
    (root / "ünï\n").write_text("odd")
    Path(os.fsdecode(os.fsencode(root) + b"/raw\xff")).write_text("raw")
    os.chmod(root / "a", 0o4750)
    os.chmod(root / "sub", 0o500)
    os.chown(root / "sub/deep/empty", 1234, 1234)
    os.utime(root / "sub", (1_600_000_000, 1_600_000_000))
    return root


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                content = Path(path).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(info.st_mode)
            found[os.path.relpath(path, root)] = (kind, mode, info.st_uid, content)
    return found


@needs_root
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_directory_goes_down_and_up_as_one_stream(
    server: Server, source: Path, compression: str
) -> None:
    query = {"compression": compression}
    down = server.client.get(f"/filesystem-archive/{source}", params=query)
    assert down.status_code == 200
    kind = "application/zstd" if compression == "zstd" else "application/x-tar"
    assert down.headers["content-type"] == kind

    target = source.parent / "target"
    up = server.client.put(
        f"/filesystem-archive/{target}", params={"owners": "true"}, content=down.content
    )

    assert up.status_code == 200, up.text
    assert snapshot(target) == snapshot(source)
    assert (target / "sub").stat().st_mtime == 1_600_000_000
    assert (target / "a").samefile(target / "sub/hard")
    again = server.client.put(f"/filesystem-archive/{target}", content=down.content)
    assert again.status_code == 200
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o750  # not setuid for another owner
    assert (target / "sub/deep/empty").stat().st_uid == 0


@needs_root
def test_tar_itself_reads_and_writes_the_same_archives(server: Server, source: Path) -> None:
    accepted = server.client.get(
        f"/filesystem-archive/{source}", headers={"Accept": "application/zstd"}
    )
    plain = zstd.decompress(accepted.content)
    listed = subprocess.run(["tar", "-tf", "-"], input=plain, capture_output=True, check=True)
    assert b"sub/deep/empty" in listed.stdout
    made = subprocess.run(
        ["tar", "-cf", "-", "-C", source, "."], capture_output=True, check=True
    ).stdout
    target = source.parent / "target"

    reply = server.client.put(f"/filesystem-archive/{target}?owners=true", content=made)

    assert reply.status_code == 200, reply.text
    assert snapshot(target) == snapshot(source)


def archive(*members: tuple[str, dict[str, object], bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


LINK = {"type": tarfile.SYMTYPE, "linkname": ".."}
ROOT_LINK = {"type": tarfile.SYMTYPE, "linkname": "/"}
EVIL = [
    archive(("../out", {}, b"x")),
    archive(("/out", {}, b"x")),
    archive(("a/../../out", {}, b"x")),
    archive(("link", LINK, b""), ("link/out", {}, b"x")),
    archive(("d/", {"type": tarfile.DIRTYPE}, b""), ("d/l", ROOT_LINK, b""), ("d/l/out", {}, b"x")),
    archive(("hard", {"type": tarfile.LNKTYPE, "linkname": "../victim"}, b"")),
    archive(("hard", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b"")),
    archive(("link", LINK, b""), ("h", {"type": tarfile.LNKTYPE, "linkname": "link/victim"}, b"")),
    archive(("link", LINK, b""), ("link", {"type": tarfile.DIRTYPE}, b"")),
    archive(("dev", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")),
]


@pytest.mark.parametrize("data", EVIL, ids=range(len(EVIL)))
def test_an_archive_never_leaves_its_directory(server: Server, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "victim").write_text("untouched")

    reply = server.client.put(f"/filesystem-archive/{tmp_path}/target", content=data)

    assert (reply.status_code, "refused" in reply.json()["error"]) == (400, True), reply.text
    assert sorted(os.listdir(tmp_path)) == ["target", "victim"]
    assert (tmp_path / "victim").stat().st_nlink == 1
    assert not Path("/out").exists()


def test_a_link_in_the_target_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/sub").symlink_to("..")
    (tmp_path / "victim").write_text("untouched")

    through = archive(("sub/victim", {}, b"overwritten"))
    reply = server.client.put(f"/filesystem-archive/{tmp_path}/target", content=through)
    assert reply.status_code == 400
    onto = archive(("sub", {}, b"a file now"))
    assert server.client.put(f"/filesystem-archive/{tmp_path}/target", content=onto).is_success
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "target/sub").read_text() == "a file now"


@settings(max_examples=cases(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.booleans())
def test_a_broken_archive_is_a_400_and_leaves_no_temporary(
    server: Server, tmp_path: Path, seed: int, compressed: bool
) -> None:
    chance = random.Random(seed)
    data = bytearray(archive(("a", {}, b"a" * 5000), ("d/b", {}, chance.randbytes(3000))))
    if compressed:
        data = bytearray(zstd.compress(bytes(data)))
    if chance.random() < 0.5:
        del data[chance.randrange(len(data)) :]
    for _ in range(chance.randrange(3)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)

    reply = server.client.put(f"/filesystem-archive/{tmp_path}/t", content=bytes(data))

    assert reply.status_code in {200, 400, 422}, reply.text
    assert not [p for p in (tmp_path / "t").rglob(".*") if is_temporary(p.name)]


def test_an_archive_that_breaks_off_ends_the_unpacking(server: Server, tmp_path: Path) -> None:
    data = archive(("whole", {}, b"w" * 1000), ("half", {}, bytes(5_000_000)))
    head = (
        f"PUT /filesystem-archive/{tmp_path}/t HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode() + data[:3_000_000])
        until(lambda: (tmp_path / "t/whole").exists())

    until(lambda: os.listdir(tmp_path / "t") == ["whole"])
    assert server.client.get("/health").status_code == 200


def test_a_large_archive_that_is_refused_early_is_answered(server: Server, tmp_path: Path) -> None:
    data = archive(("../out", {}, b"x"), ("more", {}, bytes(20_000_000)))

    assert server.client.put(f"/filesystem-archive/{tmp_path}/t", content=data).status_code == 400
    assert server.client.get(f"/filesystem-archive/{tmp_path}/none").status_code == 404
    (tmp_path / "file").touch()
    assert server.client.get(f"/filesystem-archive/{tmp_path}/file").status_code == 400
    odd = server.client.get(f"/filesystem-archive/{tmp_path}?compression=rar")
    assert odd.status_code == 400


def test_a_header_that_claims_gigabytes_is_refused(server: Server, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 4 << 30

    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000)
    reply = server.client.put(f"/filesystem-archive/{tmp_path}/t", content=data)

    assert (reply.status_code, "4294967296" in reply.text) == (400, True)


def test_a_kill_while_unpacking_leaves_no_temporary_after_the_next_start(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server()
    target = tmp_path / "t"
    big = archive(("d/whole", {}, b"w" * 1000), ("d/big", {}, bytes(50_000_000)))
    head = (
        f"PUT /filesystem-archive/{target} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(big)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode() + big[:3_000_000])
        until(lambda: target.exists() and len(list(target.rglob("*"))) == 3)
        server.kill9()
    server.start()

    assert sorted(p.name for p in target.rglob("*")) == ["d", "whole"]


def test_a_copy_that_is_refused_leaves_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "from/deep").mkdir(parents=True)
    (tmp_path / "from/deep/file").write_text("x")
    (tmp_path / "from/deep").chmod(0o500)
    os.mkfifo(tmp_path / "from/pipe")
    (tmp_path / "there/from").mkdir(parents=True)
    (tmp_path / "there/from/mine").write_text("mine")
    for target in ("new", "there"):
        body = {"source": str(tmp_path / "from"), "destination": str(tmp_path / target)}
        assert server.client.post("/filesystem-copy", json=body).status_code == 422

    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there/from/mine").read_text() == "mine"
