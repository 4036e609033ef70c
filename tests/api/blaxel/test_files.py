"""Files over HTTP: reading, writing, listing, deleting, as the contract has it."""

import getpass
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from tests.harness import Server, needs_root


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory of the test's own."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


class OwnedFolder:
    """An open directory, by its descriptor."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_error: object) -> None:
        os.close(self.number)


def put(server: Server, path: object, **body: object) -> httpx.Response:
    return server.client.put(f"/filesystem/{path}", json=body)


def test_a_text_written_is_read_back_and_the_path_is_echoed(server: Server, work: Path) -> None:
    text = "zeile\nünïcödé 漢字 <tag> & more\n"

    reply = put(server, f"{work}/deep/er/a.txt", content=text)
    read = server.client.get(f"/filesystem/{work}/deep/er/a.txt")

    assert reply.json() == {
        "path": f"{work}/deep/er/a.txt",
        "message": "File created/updated successfully",
    }
    body = read.json()
    assert (body["content"], body["path"], body["name"]) == (
        text,
        f"{work}/deep/er/a.txt",
        "a.txt",
    )
    assert (body["permissions"], body["size"], body["owner"]) == (
        "644",
        len(text.encode()),
        getpass.getuser(),
    )
    assert read.headers["content-type"] == "application/json; charset=utf-8"
    assert b"\\u003ctag\\u003e \\u0026" in read.content


@pytest.mark.parametrize(
    ("url", "echoed"),
    [
        ("/filesystem/p.txt", "p.txt"),
        ("/filesystem/{abs}", "{dir}/p.txt"),
        ("//filesystem/{abs}", "{dir}/p.txt"),
        ("/filesystem/{enc}", "{dir}/p.txt"),
        ("/filesystem{enc}", "{dir}/p.txt"),
        ("/%66ilesystem/{abs}", "{dir}/p.txt"),
    ],
)
def test_every_way_to_write_a_path_leads_to_the_same_file(
    server: Server, url: str, echoed: str
) -> None:
    (server.workdir / "p.txt").write_text("here")
    path = f"{server.workdir}/p.txt"

    asked = url.format(abs=path, enc=quote(path, safe=""))
    reply = httpx.get(server.url + asked)

    assert (reply.json()["content"], reply.json()["path"]) == (
        "here",
        echoed.format(dir=server.workdir),
    )


def test_the_working_directory_is_listed_by_its_absolute_path(server: Server) -> None:
    body = server.client.get("/filesystem/").json()

    assert (body["path"], body["name"]) == (str(server.workdir), "work")
    assert server.client.get("/filesystem").headers["location"] == "/filesystem/"
    assert server.client.get("/filesystem//").json()["name"] == "/"
    assert any(
        d == {"path": "/tmp", "name": "tmp"}
        for d in server.client.get("/filesystem/%2F").json()["subdirectories"]
    )


def test_a_listing_is_sorted_shows_links_as_files_and_no_temporaries(
    server: Server, work: Path
) -> None:
    for name in ["b", "a", "Z", "é"]:
        (work / name).write_text(name)
    (work / "sub").mkdir()
    (work / "link").symlink_to("sub")
    (work / "dangling").symlink_to("nowhere")
    (work / ".sandkeeper-tmp-n-0123456789abcdef0123").write_text("half")
    os.mkfifo(work / "pipe")
    (work / "suid").write_text("")
    os.chmod(work / "suid", 0o4755)

    body = server.client.get(f"/filesystem/{work}").json()

    names = ["Z", "a", "b", "dangling", "link", "pipe", "suid", "é"]
    assert [entry["name"] for entry in body["files"]] == names
    assert body["files"][1]["path"] == f"{work}/a"
    modes = {entry["name"]: entry["permissions"] for entry in body["files"]}
    assert modes["link"] == modes["dangling"] == "1000000777"
    assert (modes["pipe"], modes["suid"]) == ("200000644", "40000755")
    assert body["subdirectories"] == [{"path": f"{work}/sub", "name": "sub"}]


NAMES = [
    b"new\nline",
    b"quote\"s and 'apostrophes'",
    b"back\\slash",
    b"invalid \xff\xfe utf-8",
    b"  spaces  ",
    b"%41+plus?&#",
    b"n" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_the_kernel_allows_works_everywhere(
    server: Server, work: Path, name: bytes
) -> None:
    url = f"/filesystem/{work}/{quote(name)}"

    assert server.client.put(url, json={"content": "inside"}).status_code == 200
    assert os.listdir(os.fsencode(work)) == [name]
    assert server.client.get(url).json()["content"] == "inside"
    download = server.client.get(url, params={"download": "true"})
    assert download.content == b"inside"
    assert "attachment" in download.headers["content-disposition"]
    listed = server.client.get(f"/filesystem/{work}").json()["files"]
    assert [entry["name"] for entry in listed] == [name.decode("utf-8", "replace")]
    assert server.client.delete(url).status_code == 200
    assert os.listdir(work) == []


def test_a_name_too_long_for_the_kernel_is_said_as_such(server: Server, work: Path) -> None:
    reply = put(server, f"{work}/{'n' * 256}", content="")

    assert reply.status_code == 422
    assert reply.json()["error"].endswith("file name too long")


@pytest.mark.parametrize(
    ("permissions", "mode"), [("600", 0o600), ("0644", 0o644), ("100777", 0o755), ("", 0o644)]
)
def test_a_new_file_gets_the_mode_under_the_umask(
    server: Server, work: Path, permissions: str, mode: int
) -> None:
    put(server, f"{work}/f", content="x", permissions=permissions)

    assert stat.S_IMODE((work / "f").stat().st_mode) == mode


@pytest.mark.parametrize("permissions", ["0o644", "rw-r--r--", "99", "-1", "7777777777777"])
def test_a_wrong_mode_is_refused_before_anything_is_written(
    server: Server, work: Path, permissions: str
) -> None:
    reply = put(server, f"{work}/f", content="x", permissions=permissions)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(f"invalid permissions format '{permissions}': ")
    assert not (work / "f").exists()


@needs_root
def test_overwriting_keeps_mode_and_owner_and_replaces_the_content(
    server: Server, work: Path
) -> None:
    target = work / "f"
    target.write_text("a long old content")
    os.chown(target, 1234, 2345)
    os.chmod(target, 0o4750)
    os.setxattr(target, "user.note", b"kept")

    put(server, target, content="new", permissions="777")

    info = target.stat()
    assert target.read_text() == "new"
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o4750, 1234, 2345)
    assert os.getxattr(target, "user.note") == b"kept"


def test_links_are_written_through_even_dangling_ones(server: Server, work: Path) -> None:
    (work / "real").write_text("old")
    (work / "link").symlink_to("real")
    (work / "chain").symlink_to("link")
    (work / "dangling").symlink_to("later")

    put(server, f"{work}/chain", content="new")
    put(server, f"{work}/dangling", content="made")

    assert (work / "real").read_text() == "new"
    assert (work / "later").read_text() == "made"
    assert (work / "chain").is_symlink()
    assert (work / "link").is_symlink()


def test_all_names_of_a_hard_linked_file_see_the_new_content(server: Server, work: Path) -> None:
    (work / "one").write_text("an old and longer text")
    os.link(work / "one", work / "two")

    put(server, f"{work}/one", content="new")

    assert (work / "two").read_text() == "new"
    assert (work / "one").samefile(work / "two")


def test_a_write_to_a_device_or_a_read_pipe_goes_to_it_and_leaves_it(
    server: Server, work: Path
) -> None:
    os.mkfifo(work / "pipe")
    reader = os.open(work / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    assert put(server, "/dev/null", content="gone").status_code == 200
    assert put(server, f"{work}/pipe", content="through").status_code == 200
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    nobody = put(server, f"{work}/pipe", content="x")
    assert (nobody.status_code, "no such device" in nobody.text) == (422, True)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO((work / "pipe").stat().st_mode)
    assert put(server, "/dev/full", content="x").status_code == 507


def test_a_directory_is_made_with_its_parents_and_an_existing_one_stays(
    server: Server, work: Path
) -> None:
    reply = put(server, f"{work}/a/b", isDirectory=True, permissions="0700")

    assert reply.json()["message"] == "Directory created successfully"
    assert stat.S_IMODE((work / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((work / "a/b").stat().st_mode) == 0o700
    assert put(server, f"{work}/a", isDirectory=True, permissions="755").status_code == 200
    assert stat.S_IMODE((work / "a").stat().st_mode) == 0o700
    (work / "file").write_text("")
    refused = put(server, f"{work}/file", isDirectory=True)
    assert refused.status_code == 422
    assert refused.json()["error"] == (
        f"error creating directory: mkdir {work}/file: not a directory"
    )


def test_what_cannot_be_written_says_why(server: Server, work: Path) -> None:
    (work / "file").write_text("")

    directory = put(server, work, content="x")
    below = put(server, f"{work}/file/x", content="x")

    assert (directory.status_code, directory.json()["error"]) == (
        422,
        f"error writing file: open {work}: is a directory",
    )
    assert (below.status_code, below.json()["error"]) == (
        422,
        f"error writing file: open {work}/file/x: not a directory",
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"content": 5}', b"\xff"])
def test_a_body_that_is_no_request_is_a_400(server: Server, work: Path, body: bytes) -> None:
    reply = server.client.put(f"/filesystem/{work}/f", content=body)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith("invalid request body: ")
    assert not (work / "f").exists()


def test_json_is_read_leniently_and_an_empty_object_makes_an_empty_file(
    server: Server, work: Path
) -> None:
    reply = server.client.put(
        f"/filesystem/{work}/f",
        content=b'{"CONTENT": "x", "other": 1} trailing',
        headers={"Content-Type": "text/plain"},
    )

    assert (reply.status_code, (work / "f").read_text()) == (200, "x")
    put(server, f"{work}/f")
    assert (work / "f").read_text() == ""


def test_missing_files_are_404_and_other_stat_errors_500(server: Server, work: Path) -> None:
    (work / "file").write_text("")
    (work / "loop").symlink_to("loop")
    (work / "dangling").symlink_to("nowhere")

    missing = server.client.get(f"/filesystem/{work}/none")
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": f"stat {work}/none: no such file or directory"},
    )
    assert server.client.get(f"/filesystem/{work}/dangling").status_code == 404
    below = server.client.get(f"/filesystem/{work}/file/x")
    assert (below.status_code, below.json()["error"]) == (
        500,
        f"stat {work}/file/x: not a directory",
    )
    assert server.client.get(f"/filesystem/{work}/loop").status_code == 500
    assert server.client.get(f"/filesystem/{work}/a%00b").status_code == 422
    assert server.client.put(f"/filesystem/{work}/a%00b", json={}).status_code == 422
    assert server.client.delete(f"/filesystem/{work}/a%00b").status_code == 422


def test_deleting_files_links_and_directories(server: Server, work: Path) -> None:
    (work / "d/sub").mkdir(parents=True)
    (work / "d/sub/f").write_text("")
    (work / "to-dir").symlink_to("d")
    (work / "dangling").symlink_to("nowhere")

    def delete(name: str, **query: str) -> tuple[int, str]:
        reply = server.client.delete(f"/filesystem/{work}/{name}", params=query)
        return reply.status_code, reply.json().get("message") or reply.json()["error"]

    assert delete("to-dir", recursive="true") == (200, "Directory deleted successfully")
    assert (work / "d/sub/f").exists()
    assert delete("dangling") == (200, "File deleted successfully")
    assert delete("d") == (
        422,
        f"error deleting directory: remove {work}/d: directory not empty",
    )
    assert delete("d", recursive="1")[0] == 422
    assert delete("d/sub/f") == (200, "File deleted successfully")
    assert delete("d/sub") == (200, "Directory deleted successfully")
    assert delete("d", recursive="true") == (200, "Directory deleted successfully")
    assert delete("d") == (404, "file or directory not found")


@pytest.mark.parametrize("path", ["//", "/%2F", "/tree", "/tree/", "/tree//", "//proc/self/root/"])
def test_the_root_is_never_deleted(server: Server, path: str) -> None:
    reply = server.client.delete(f"/filesystem{path}", params={"recursive": "true"})

    if "proc" in path:  # a link: it could go, were it a file of a disk
        assert reply.status_code == 422
    else:
        assert (reply.status_code, reply.json()["error"]) == (
            422,
            "error deleting directory: refusing to delete /",
        )


def test_a_very_deep_tree_is_deleted(server: Server, work: Path) -> None:
    fd = os.open(work, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper-and-deeper", dir_fd=fd)
        inner = os.open("deeper-and-deeper", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT, dir_fd=inner))
        os.close(fd)
        fd = inner
    os.close(fd)

    reply = server.client.delete(f"/filesystem/{work}", params={"recursive": "true"})

    assert reply.status_code == 200, reply.text
    assert not work.exists()


def test_special_files_neither_hang_nor_exhaust(server: Server, work: Path) -> None:
    os.mkfifo(work / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    with OwnedFolder(work) as folder:  # a socket's own path may have 107 bytes only
        listener.bind(f"/proc/self/fd/{folder}/sock")
    octets = {"Accept": "application/octet-stream"}

    for path in [f"{work}/pipe", f"{work}/sock", "/dev/zero", "/dev/tty", "/dev/random"]:
        as_json = server.client.get(f"/filesystem/{path}")
        as_bytes = server.client.get(f"/filesystem/{path}", headers=octets)
        assert (as_json.status_code, as_bytes.status_code) == (422, 422), path
        assert "not a regular file" in as_json.json()["error"]
        assert as_bytes.json()["error"].startswith("error opening file: ")
    listener.close()

    with open(work / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert server.client.get(f"/filesystem/{work}/sparse").status_code == 422
    status = server.client.get(f"/filesystem//proc/{server.pid}/status")
    assert status.json()["content"].startswith("Name:")
    whole = server.client.get(f"/filesystem//proc/{server.pid}/maps", headers=octets)
    assert whole.content.count(b"\n") > 20


def test_a_file_too_large_for_json_is_refused_and_still_downloads(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(env={"SANDKEEPER_MAX_JSON_READ_BYTES": "1000"})
    (server.workdir / "big").write_bytes(b"x" * 1001)

    refused = server.client.get("/filesystem/big")

    assert refused.status_code == 422
    assert "larger than 1000 bytes" in refused.json()["error"]
    assert len(server.client.get("/filesystem/big?download=true").content) == 1001


def test_bytes_that_are_not_text_come_back_lossy_and_never_encoded(
    server: Server, work: Path
) -> None:
    (work / "f").write_bytes(b"a\xffb\x00c")

    assert server.client.get(f"/filesystem/{work}/f").json()["content"] == "a\ufffdb\x00c"


def test_head_tells_type_size_and_mode_and_is_always_200(server: Server, work: Path) -> None:
    (work / "f").write_bytes(b"12345")
    os.chmod(work / "f", 0o4755)
    os.chmod(work, 0o1777)

    file = server.client.head("/filesystem/" + quote(f"{work}/f", safe=""))
    directory = server.client.head(f"/filesystem/{work}")
    absent = server.client.head(f"/filesystem/{work}/none")

    assert file.status_code == directory.status_code == absent.status_code == 200
    assert (file.headers["x-file-type"], file.headers["x-file-mode"]) == ("file", "4755")
    assert file.headers["content-length"] == "5"
    assert file.headers["last-modified"].endswith("GMT")
    assert (directory.headers["x-file-type"], directory.headers["x-file-mode"]) == (
        "directory",
        "1777",
    )
    assert "x-file-type" not in absent.headers
    os.chmod(work / "f", 0)
    assert server.client.head(f"/filesystem/{work}/f").headers["x-file-mode"] == "0"


@needs_root
def test_names_that_only_begin_like_the_tree_are_plain_files(server: Server) -> None:
    for name in ["tree.txt", "treehouse/x"]:
        assert put(server, name, content=name).status_code == 200
        assert server.client.get(f"/filesystem/{name}").json()["content"] == name
        assert server.client.delete(f"/filesystem/{name}").status_code == 200
    folder = "/tree-of-sandkeeper-test"
    url = f"/filesystem%2F{folder[1:]}/x"
    assert server.client.put(url, json={"content": "abs"}).status_code == 200
    assert Path(folder, "x").read_text() == "abs"
    assert server.client.delete(f"/filesystem%2F{folder[1:]}?recursive=true").status_code == 200
    assert not Path(folder).exists()


def test_an_unknown_method_on_a_path_is_an_unknown_route(server: Server) -> None:
    reply = server.client.post("/filesystem/x", json={})

    assert (reply.status_code, reply.text) == (404, "404 page not found")
