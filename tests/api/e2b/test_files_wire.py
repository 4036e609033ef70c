"""E2B's Filesystem service and its plain HTTP for files: answers, codes, signatures, gzip."""

import base64
import gzip
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2b_wire import OpenStream, call, end_of, events, shell, stream
from tests.harness import Server, free_port, needs_root, resident, start, until

FS = "filesystem.Filesystem/"
TOKEN = "a-token"


def fs(server: Server, name: str, **message: Any) -> Any:
    return call(server, FS + name, message)


def code(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def test_an_entry_tells_all_of_it(server: Server) -> None:
    path = server.workdir / "entry.txt"
    path.write_text("12345")
    path.chmod(0o4640)
    entry = fs(server, "Stat", path=str(path)).json()["entry"]

    assert entry.pop("modifiedTime").endswith("Z")
    owner = entry.pop("owner"), entry.pop("group")
    assert all(owner)
    assert entry == {
        "name": "entry.txt",
        "path": str(path),
        "type": "FILE_TYPE_FILE",
        "size": "5",
        "mode": 0o640,
        "permissions": "urw-r-----",
    }
    link = server.workdir / "link"
    link.symlink_to("entry.txt")
    entry = fs(server, "Stat", path=str(link)).json()["entry"]
    assert (entry["type"], entry["isSymlink"]) == ("FILE_TYPE_FILE", True)
    assert entry["symlinkTarget"] == str(path)
    assert entry["permissions"] == "Lrwxrwxrwx"


def test_a_listing_goes_as_deep_as_asked_and_through_no_link(server: Server) -> None:
    root = server.workdir / "deep"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "f").write_text("")
    (root / "loop").symlink_to("..")

    def names(**more: Any) -> list[str]:
        entries = fs(server, "ListDir", path=str(root), **more).json()["entries"]
        return [str(Path(one["path"]).relative_to(root)) for one in entries]

    assert names() == names(depth=1) == ["a", "f", "loop"]
    assert names(depth=2) == ["a", "a/b", "f", "loop"]
    assert names(depth=9) == ["a", "a/b", "a/b/c", "f", "loop"]
    (server.workdir / "to-deep").symlink_to(root)
    via = fs(server, "ListDir", path=str(server.workdir / "to-deep")).json()["entries"]
    assert len(via) == 3
    empty = fs(server, "ListDir", path=str(root / "a/b/c"))
    assert empty.json() == {"entries": []}


def test_paths_begin_at_home(server: Server) -> None:
    home = str(server.home)
    for given in ("~", ".", home):
        assert fs(server, "Stat", path=given).json()["entry"]["path"] == home


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("Stat", {"path": "/no/such"}, (404, "not_found")),
        ("Stat", {}, (400, "invalid_argument")),
        ("Stat", {"path": "a\0b"}, (400, "invalid_argument")),
        ("ListDir", {"path": "/no/such"}, (404, "not_found")),
        ("ListDir", {"path": "/etc/passwd"}, (400, "invalid_argument")),
        ("ListDir", {"path": "/", "depth": -1}, (400, "invalid_argument")),
        ("MakeDir", {"path": "/tmp"}, (409, "already_exists")),
        ("MakeDir", {"path": "/etc/passwd"}, (400, "invalid_argument")),
        ("Move", {"source": "/no/such", "destination": "/tmp/x"}, (404, "not_found")),
        ("Move", {"source": "/no/such"}, (400, "invalid_argument")),
        ("GetWatcherEvents", {"watcherId": "w0"}, (404, "not_found")),
        ("RemoveWatcher", {"watcherId": "w0"}, (404, "not_found")),
        ("CreateWatcher", {"path": "/no/such"}, (404, "not_found")),
        ("CreateWatcher", {"path": "/etc/passwd"}, (400, "invalid_argument")),
    ],
)
def test_what_cannot_be_done_has_its_code(
    server: Server, name: str, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(fs(server, name, **fields)) == expected


def test_folders_are_made_entries_moved_and_removed(server: Server) -> None:
    base = server.workdir / "tree"
    made = fs(server, "MakeDir", path=f"{base}/x/y").json()["entry"]
    assert (made["type"], made["permissions"]) == ("FILE_TYPE_DIRECTORY", "drwxr-xr-x")
    (base / "x" / "file").write_text("1")
    moved = fs(server, "Move", source=f"{base}/x", destination=f"{base}/new/place/z")
    assert moved.json()["entry"]["path"] == f"{base}/new/place/z"
    assert (base / "new/place/z/file").read_text() == "1"
    (base / "other").mkdir()
    into = fs(server, "Move", source=f"{base}/new/place/z/file", destination=f"{base}/other/g")
    assert into.json()["entry"]["name"] == "g"
    assert fs(server, "Remove", path=str(base)).json() == {}
    assert not base.exists()
    assert fs(server, "Remove", path=str(base)).json() == {}
    assert fs(server, "Remove", path="/").status_code == 500


def told(server: Server, watcher: str, least: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        found.extend(fs(server, "GetWatcherEvents", watcherId=watcher).json().get("events", []))
        return len(found) >= least

    until(enough)
    return found


def test_a_watcher_gathers_what_it_is_asked_for(server: Server) -> None:
    root = server.workdir / "watched"
    (root / "sub").mkdir(parents=True)
    made = fs(server, "CreateWatcher", path=str(root), recursive=True, includeEntry=True).json()
    watcher = made["watcherId"]
    (root / "sub" / "n").write_text("abc")
    (root / "sub" / "n").unlink()
    found = told(server, watcher, 3)

    assert {one["name"] for one in found} == {"sub/n"}
    assert found[0]["type"] == "EVENT_TYPE_CREATE"
    assert found[-1]["type"] == "EVENT_TYPE_REMOVE"
    assert "entry" not in found[-1]
    assert fs(server, "RemoveWatcher", watcherId=watcher).json() == {}
    assert code(fs(server, "GetWatcherEvents", watcherId=watcher)) == (404, "not_found")


def test_a_watch_is_streamed_until_its_deadline(server: Server) -> None:
    root = server.workdir / "streamed"
    root.mkdir()
    with OpenStream(server, FS + "WatchDir", {"path": str(root), "includeEntry": True}) as frames:
        it = iter(frames)
        assert next(it) == (0, {"start": {}})
        (root / "é").write_text("x")
        _, message = next(it)
        one = message["filesystem"]
        assert (one["name"], one["type"]) == ("é", "EVENT_TYPE_CREATE")
        assert one["entry"]["path"] == str(root / "é")
    found = stream(
        server,
        FS + "WatchDir",
        {"path": str(root)},
        Keepalive_Ping_Interval="1",
        Connect_Timeout_Ms="2500",
    )
    assert end_of(found)["error"]["code"] == "deadline_exceeded"
    assert {"keepalive": {}} in [message for _, message in found]
    missing = stream(server, FS + "WatchDir", {"path": "/no/such"})
    assert end_of(missing)["error"]["code"] == "not_found"


# /files


def upload(server: Server, path: Path, data: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Content-Type", "application/octet-stream")
    return server.client.post("/files", params={"path": str(path)}, content=data, headers=named)


def test_files_go_in_and_out_as_they_are(server: Server) -> None:
    data = os.urandom(3 << 20)
    path = server.workdir / "made" / "here" / "blob"
    reply = upload(server, path, data)

    assert reply.json() == [{"name": "blob", "path": str(path), "type": "file"}]
    assert server.client.get("/files", params={"path": str(path)}).content == data
    part = server.client.get("/files", params={"path": str(path)}, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, data[5:10])
    behind = {"Range": f"bytes={len(data)}-"}
    assert (
        server.client.get("/files", params={"path": str(path)}, headers=behind).status_code == 416
    )


def test_forms_carry_one_file_or_many(server: Server) -> None:
    one = server.workdir / "one"
    reply = server.client.post("/files", params={"path": str(one)}, files={"file": ("other", b"1")})
    assert reply.json()[0]["path"] == str(one)
    many = [("file", (str(server.workdir / f"many/{n}"), b"%d" % n)) for n in range(3)]
    reply = server.client.post("/files", files=many)
    assert [Path(made["path"]).read_text() for made in reply.json()] == ["0", "1", "2"]
    both = server.client.post("/files", params={"path": str(one)}, files=many)
    assert both.status_code == 400
    none = server.client.post("/files", params={"path": str(one)}, files={"x": ("y", b"")})
    assert (none.status_code, none.json()["code"]) == (400, 400)


def test_metadata_is_kept_with_a_file_and_replaced_by_each_upload(server: Server) -> None:
    path = server.workdir / "meta"
    reply = upload(server, path, b"1", X_Metadata_Owner="me", X_Metadata_Step="2")
    assert reply.json()[0]["metadata"] == {"owner": "me", "step": "2"}
    assert os.getxattr(path, "user.e2b.owner") == b"me"
    os.setxattr(path, "user.mine", b"stays")
    upload(server, path, b"2", X_Metadata_Step="3")
    assert fs(server, "Stat", path=str(path)).json()["entry"]["metadata"] == {"step": "3"}
    assert os.getxattr(path, "user.mine") == b"stays"
    upload(server, path, b"3")
    assert "metadata" not in fs(server, "Stat", path=str(path)).json()["entry"]
    for wrong in (
        {f"X-Metadata-{'k' * 247}": "v"},
        {"X-Metadata-k": "é".encode()},
        {f"X-Metadata-k{n}": "v" * 1000 for n in range(5)},
    ):
        refused = server.client.post(
            "/files", params={"path": str(path)}, content=b"", headers=wrong
        )
        assert (refused.status_code, refused.json()["code"]) == (400, 400)
    assert path.read_bytes() == b"3"


def test_gzip_is_undone_on_the_way_in_and_made_on_the_way_out(server: Server) -> None:
    path, data = server.workdir / "packed", b"some text " * 100_000
    assert upload(server, path, gzip.compress(data), Content_Encoding="gzip").status_code == 200
    assert path.read_bytes() == data
    twice = gzip.compress(b"a") + gzip.compress(b"b")
    upload(server, path, twice, Content_Encoding="gzip")
    assert path.read_bytes() == b"ab"
    path.write_bytes(data)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        wanted = {"Accept-Encoding": "gzip"}
        with client.stream("GET", "/files", params={"path": str(path)}, headers=wanted) as reply:
            packed = b"".join(reply.iter_raw())
    assert reply.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in reply.headers["Vary"]
    assert len(packed) < len(data) // 20
    assert gzip.decompress(packed) == data
    unacceptable = {"Accept-Encoding": "br, identity;q=0"}
    refused = server.client.get("/files", params={"path": str(path)}, headers=unacceptable)
    assert (refused.status_code, refused.json()["code"]) == (406, 406)


CUT = gzip.compress(b"x" * 1000, mtime=0)[:-9]


@pytest.mark.parametrize("body", [b"no gzip", CUT, b"\x1f\x8b\x08"])
def test_what_is_no_gzip_is_refused_and_nothing_is_written(server: Server, body: bytes) -> None:
    path = server.workdir / "not-packed"
    refused = upload(server, path, body, Content_Encoding="gzip")
    assert (refused.status_code, refused.json()["code"]) == (400, 400)
    assert upload(server, path, body, Content_Encoding="br").status_code == 400
    assert not path.exists()


def test_a_bomb_costs_no_memory_and_keeps_nobody_waiting(server: Server) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    bomb = b"".join(packer.compress(block) for _ in range(200)) + packer.flush()
    before = resident(server.pid)
    path = server.workdir / "bomb"
    reply = upload(server, path, bomb, Content_Encoding="gzip")

    assert reply.status_code == 200
    assert path.stat().st_size == 200 << 20
    assert resident(server.pid) - before < 60 << 20
    message = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = server.client.post(f"/{FS}Stat", content=bomb, headers=message)
    assert code(refused) == (429, "resource_exhausted")


def test_files_are_put_together(server: Server) -> None:
    parts = [server.workdir / f"part{n}" for n in range(3)]
    for n, part in enumerate(parts):
        part.write_bytes(b"%d" % n * 3)
    whole = server.workdir / "whole"
    body = {"source_paths": [str(part) for part in parts], "destination": str(whole)}
    reply = server.client.post("/files/compose", json=body)

    assert reply.json() == {"name": "whole", "path": str(whole), "type": "file"}
    assert whole.read_bytes() == b"000111222"
    assert not any(part.exists() for part in parts)
    missing = server.client.post("/files/compose", json=body)
    assert (missing.status_code, missing.json()["code"]) == (404, 404)
    assert whole.read_bytes() == b"000111222"


def test_errors_of_files_have_a_code_and_a_message(server: Server) -> None:
    for path, status in (("/no/such", 404), ("/etc", 400), ("", 400), ("/etc/passwd/x", 404)):
        reply = server.client.get("/files", params={"path": path})
        assert (reply.status_code, reply.json()["code"]) == (status, status)
        assert reply.json()["message"]


# Rights


def sign(path: str, operation: str, user: str = "", until: int | None = None) -> dict[str, Any]:
    raw = f"{path}:{operation}:{user}:{TOKEN}" + ("" if until is None else f":{until}")
    digest = base64.b64encode(hashlib.sha256(raw.encode()).digest()).rstrip(b"=").decode()
    more = {} if until is None else {"signature_expiration": until}
    return {"path": path, "signature": f"v1_{digest}", **more}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_TOKEN": TOKEN}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        yield running


def test_a_token_opens_every_call_and_without_it_each_is_refused_in_e2bs_words(
    guarded: Server,
) -> None:
    calls = [
        ("POST", "/process.Process/List"),
        ("POST", "/process.Process/Start"),
        ("POST", "/filesystem.Filesystem/Stat"),
        ("GET", "/files?path=/etc/passwd"),
        ("POST", "/files?path=/tmp/x"),
        ("POST", "/files/compose"),
        ("GET", "/envs"),
        ("POST", "/init"),
    ]
    for method, path in calls:
        for headers in ({}, {"X-Access-Token": "wrong"}, {"Authorization": "Basic cm9vdDo="}):
            reply = guarded.client.request(method, path, headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, 401), path
    assert guarded.client.get("/health").status_code == 200
    listed = call(guarded, "process.Process/List", {}, X_Access_Token=TOKEN)
    assert listed.status_code == 200


def test_a_signature_opens_one_path_for_one_thing_until_it_ends(guarded: Server) -> None:
    path = str(guarded.workdir / "signed")
    later, past = int(time.time()) + 600, int(time.time()) - 600
    wrote = guarded.client.post("/files", params=sign(path, "write", until=later), content=b"hi")
    assert wrote.status_code == 200
    assert guarded.client.get("/files", params=sign(path, "read")).content == b"hi"
    forever = {**sign(path, "read", until=past), "signature_expiration": later}
    wrong = [
        sign(path, "read", until=past),
        sign(path, "write", until=later),
        {**sign(path, "read"), "path": "/etc/passwd"},
        {**sign(path, "read"), "username": "root"},
        {**sign(path, "read"), "signature": "v1_"},
        {**sign(path, "read"), "signature_expiration": ""} | {"signature_expiration": "x"},
        forever,
    ]
    for params in wrong:
        reply = guarded.client.get("/files", params=params)
        assert (reply.status_code, reply.json()["code"]) == (401, 401), params
    other = guarded.client.post("/filesystem.Filesystem/Stat", params=sign(path, "read"), json={})
    assert other.status_code == 401


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that everybody may write to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@needs_root
def test_a_user_is_named_by_basic_and_acts_as_itself(make_server: Any, open_folder: Path) -> None:
    server = make_server(env={"SANDKEEPER_USERS": "daemon"})
    daemon = {"Authorization": "Basic " + base64.b64encode(b"daemon:").decode()}
    frames = stream(
        server, "process.Process/Start", shell("id -un", process={"cwd": "/"}), **daemon
    )
    assert base64.b64decode(events(frames, "data")[0]["stdout"]) == b"daemon\n"
    path = open_folder / "theirs"
    reply = server.client.post("/files", params={"path": path, "username": "daemon"}, content=b"1")
    assert reply.json()[0]["path"] == str(path)
    assert path.owner() == "daemon"
    shadow = server.client.get("/files", params={"path": "/etc/shadow", "username": "daemon"})
    assert shadow.status_code == 403
    nobody = {"Authorization": "Basic " + base64.b64encode(b"nobody:").decode()}
    refused = server.client.post("/process.Process/List", json={}, headers=nobody)
    assert code(refused) == (401, "unauthenticated")


def test_metrics_are_json_for_who_wants_it_and_prometheus_for_all_others(server: Server) -> None:
    found = server.client.get("/metrics", headers={"Accept": "application/json"}).json()
    assert {"ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "disk_total"} <= set(found)
    assert 0 <= found["cpu_used_pct"] <= 100
    assert found["mem_used"] < found["mem_total"]
    assert server.client.get("/metrics").text.startswith("# HELP")


def test_init_sets_what_programs_start_from_and_a_restart_keeps_it(make_server: Any) -> None:
    server = make_server()
    body = {"envVars": {"FROM_INIT": "1"}, "defaultWorkdir": "/usr", "timestamp": "x"}
    assert server.client.post("/init", json=body).status_code == 204
    server.restart()
    assert server.client.get("/envs").json() == {"FROM_INIT": "1"}
    frames = stream(server, "process.Process/Start", shell('echo "$FROM_INIT $PWD"'))
    assert base64.b64decode(events(frames, "data")[0]["stdout"]) == b"1 /usr\n"
    for wrong in ({"accessToken": "x"}, {"volumeMounts": [{}]}, {"defaultUser": "nobody"}):
        assert server.client.post("/init", json=wrong).json()["code"] in {400, 401, 409}


def test_another_port_answers_the_same(make_server: Any) -> None:
    port = free_port()
    server = make_server(args=["--e2b-port", str(port)])
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(url + "/health").status_code == 200
    assert httpx.post(url + "/process.Process/List", json={}).json() == {"processes": []}
    server.stop()
    server.start()
    assert httpx.get(url + "/health").status_code == 200


def test_a_field_names_a_port_and_e2bs_own_port_is_this_server(server: Server) -> None:
    port = free_port()
    page = (
        f"mkdir -p p && echo from-the-port > p/page && cd p && exec python3 -m http.server {port}"
    )
    serving = start(server, page, waitForPorts=[port], workingDir=str(server.workdir))
    there = {"E2b-Sandbox-Id": "debug_sandbox_id", "E2b-Sandbox-Port": str(port)}
    assert server.client.get("/page", headers=there).text == "from-the-port\n"
    here = {**there, "E2b-Sandbox-Port": "49983"}
    assert server.client.post("/process.Process/List", json={}, headers=here).status_code == 200
    named = {"Host": f"49983.localhost:{server.port}"}
    assert server.client.get("/health", headers=named).json()["status"] == "ok"
    by_name = {"Host": f"{port}.localhost:{server.port}"}
    assert server.client.get("/page", headers=by_name).text == "from-the-port\n"
    odd = {**there, "E2b-Sandbox-Port": "x"}
    assert server.client.get("/health", headers=odd).status_code == 204
    assert server.client.delete(f"/process/{serving['pid']}/kill").status_code == 200


def test_the_wire_can_be_switched_off(make_server: Any) -> None:
    server = make_server(env={"SANDKEEPER_E2B": "off"})
    assert call(server, "process.Process/List", {}).status_code == 404
    assert server.client.get("/sandboxes").status_code == 404
