"""The archive over HTTP: what is exported, where it goes, and what is refused meanwhile."""

import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from backports import zstd
from tests.api.blaxel.test_files_long import BOUNDARY, DATA, HEAD, TAIL
from tests.api.port.test_proxy_long import answer_of
from tests.harness import Server, needs_root, over, until
from tests.mcp_calls import Tools
from tests.storage import Storage, storage

from sandkeeper.api.edge.frozen import READING_TOOLS

PART = 5 << 20
FORM = b"Content-Type: multipart/form-data; boundary=%s\r\n\r\n" % BOUNDARY


@pytest.fixture
def store() -> Iterator[Storage]:
    with storage() as made:
        yield made


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose archive is of a folder, compared with a copy of it as it was."""
    folder = tmp_path_factory.mktemp("archive")
    for name in ("root", "image"):
        (folder / name / "etc").mkdir(parents=True)
        (folder / name / "etc/old.conf").write_text("old")
        os.utime(folder / name / "etc/old.conf", (1e9, 1e9))
        for below in ("gone/deep/er", "proc"):
            (folder / name / below).mkdir(parents=True)
            (folder / name / below / "file").write_text("x")
            os.utime(folder / name / below / "file", (1e9, 1e9))
    env = {
        "SANDKEEPER_ARCHIVE_ROOT": str(folder / "root"),
        "SANDKEEPER_ARCHIVE_IMAGE": str(folder / "image"),
        "SANDKEEPER_ARCHIVE_RETRIES": "2",
    }
    with Server(folder, env=env) as running:
        yield running


@pytest.fixture
def box(boxed: Server) -> Iterator[Server]:
    yield boxed
    until(lambda: boxed.client.post("/archive/resume").status_code == 200)
    for record in boxed.client.get("/process").json():
        if record["status"] == "running":
            boxed.client.delete(f"/process/{record['pid']}/kill")
            over(boxed, record["id"])  # the next test may give that name again


def root(server: Server) -> Path:
    return Path(server.env["SANDKEEPER_ARCHIVE_ROOT"])


def export(server: Server, **options: Any) -> httpx.Response:
    return server.client.post("/archive/export", json=options)


def status(server: Server) -> dict[str, Any]:
    return server.client.get("/archive/status").json()


def opened(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))


def read_json(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = archive.extractfile(f".blaxel-archive/{name}.json")
    assert file is not None
    return json.loads(file.read())


def parts_of(store: Storage, count: int, **more: Any) -> dict[str, Any]:
    return {
        "partUrls": [store.url(f"part{number}") for number in range(count)],
        "partSize": PART,
        "completeUrl": store.url("complete"),
        "abortUrl": store.url("abort"),
        **more,
    }


def fill(path: Path, size: int) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


def test_a_dry_run_lists_the_changes_and_stops_nothing(box: Server) -> None:
    (root(box) / "etc/new.conf").write_text("12345")
    box.client.post("/process", json={"command": "sleep 60", "name": "dry"})

    done = export(box, dryRun=True, excludes=["/gone/"])

    body = done.json()
    assert done.status_code == 200
    assert {"kind": "added", "path": "etc/new.conf", "size": 5} in body["changes"]
    assert not any(change["path"].startswith(("gone", "proc")) for change in body["changes"])
    assert body["uploaded"] is False
    assert "stoppedProcesses" not in body
    assert body["size"] % 512 == 0
    assert body["duration"].endswith("s")
    manifest = body["manifest"]
    assert (manifest["version"], manifest["root"]) == (1, str(root(box)))
    assert {"proc", "etc/hosts", "gone"} <= set(manifest["excludes"])
    assert box.client.get("/process/dry").json()["status"] == "running"
    assert status(box)["state"] == "active"
    assert status(box)["export"]["state"] == "succeeded"


@needs_root
def test_the_export_is_a_tar_of_announced_length_with_everything_that_changed(
    box: Server, store: Storage
) -> None:
    top = root(box)
    long_name = "n" * 120
    fill(top / "big", 1_000_001)
    (top / long_name).write_text("long")
    (top / os.fsdecode(b"raw\xff")).write_text("not UTF-8")
    (top / "link").symlink_to("/nowhere")
    (top / "one").write_text("twice")
    os.link(top / "one", top / "two")
    os.mkfifo(top / "pipe")
    (top / "suid").write_text("s")
    os.chown(top / "suid", 12, 34)
    (top / "suid").chmod(0o4755)
    os.setxattr(top / "suid", "user.note", b"\x00\xff\n=")
    os.utime(top / "suid", (1234567, 1234567))
    (top / "etc/old.conf").write_text("new")
    os.utime(top / "etc/old.conf", (1e9, 1e9))

    done = export(box, url=store.url("a"), headers={"x-amz-storage-class": "GLACIER_IR"})

    assert done.status_code == 200, done.text
    (asked,) = store.asked
    assert asked[2]["x-amz-storage-class"] == "GLACIER_IR"
    assert "Transfer-Encoding" not in asked[2]
    assert int(asked[2]["Content-Length"]) == len(store.kept["a"]) == done.json()["size"]
    archive = opened(store.kept["a"])
    names = archive.getnames()
    assert names[:2] == [".blaxel-archive/manifest.json", ".blaxel-archive/processes.json"]
    assert long_name in names
    assert os.fsdecode(b"raw\xff") in names
    assert not any(name.startswith("proc") for name in names)
    suid = archive.getmember("suid")
    assert (suid.mode, suid.uid, suid.gid, suid.mtime) == (0o4755, 12, 34, 1234567)
    value = suid.pax_headers["SCHILY.xattr.user.note"]
    assert value.encode("utf-8", "surrogateescape") == b"\x00\xff\n="
    assert archive.getmember("link").linkname == "/nowhere"
    assert archive.getmember("two").linkname == "one"
    assert archive.getmember("pipe").isfifo()
    changed = archive.extractfile("etc/old.conf")
    assert changed is not None
    assert changed.read() == b"new"
    manifest = read_json(archive, "manifest")
    assert manifest["modified"] == 1
    assert manifest["processes"] is True
    body = done.json()
    assert body["uploaded"] is True
    assert body["manifest"]["added"] == manifest["added"] == len(names) - 3


def test_deleted_paths_stand_in_the_manifest_a_tree_by_its_top(box: Server) -> None:
    moved = root(box) / "moved"
    (root(box) / "gone").rename(moved)

    changes = export(box, dryRun=True).json()

    moved.rename(root(box) / "gone")
    assert changes["manifest"]["deleted"] == ["gone"]
    added = [change["path"] for change in changes["changes"] if change["kind"] == "added"]
    assert "moved/deep/er/file" in added


def test_an_export_saves_and_stops_the_processes_and_leaves_the_sandbox_frozen(
    box: Server, store: Storage
) -> None:
    stubborn = "trap '' TERM; echo set; (sleep 61 &); while :; do sleep 0.05; done"
    box.client.post(
        "/process",
        json={
            "command": stubborn,
            "name": "stubborn",
            "env": {"A": "b"},
            "restartOnFailure": True,
            "maxRestarts": 3,
            "stdin": True,
            "limits": {"openFiles": 512},
        },
    )
    box.client.post("/terminals", json={"sessionId": "shell"})
    until(lambda: box.client.get("/process/stubborn").json()["stdout"])

    done = export(box, url=store.url("a"), stopTimeoutSeconds=1)

    assert done.json()["stoppedProcesses"] == ["stubborn"]
    saved = read_json(opened(store.kept["a"]), "processes")["processes"]
    assert saved == [
        {
            "command": stubborn,
            "name": "stubborn",
            "env": {"A": "b"},
            "restartOnFailure": True,
            "maxRestarts": 3,
            "stdin": True,
            "limits": {"openFiles": 512},
        }
    ]
    assert box.client.get("/process/stubborn").json()["status"] in {"killed", "stopped"}
    assert box.client.get("/terminals").json()[-1]["status"] != "running"
    frozen = status(box)
    assert frozen["state"] == "quiesced"
    assert frozen["stoppedProcesses"] == ["stubborn"]
    assert frozen["readOnlyRoot"] is False
    assert "read-only" in frozen["reason"]
    assert frozen["since"]
    assert frozen["export"]["uploaded"] is True

    again = export(box, url=store.url("b"), saveProcesses=False)
    assert again.json()["stoppedProcesses"] == ["stubborn"]
    assert again.json()["manifest"]["processes"] is False
    export(box, url=store.url("c"))
    assert read_json(opened(store.kept["c"]), "processes")["processes"] == saved

    lifted = box.client.post("/archive/resume")
    assert lifted.json()["state"] == "active"
    assert "since" not in lifted.json()
    assert box.client.get("/process/stubborn").json()["status"] in {"killed", "stopped"}
    assert box.client.post("/archive/resume").status_code == 200


WRITES = [
    ("POST", "/process"),
    ("POST", "/process/x/stdin"),
    ("DELETE", "/process/x/stdin"),
    ("POST", "/process/x/signal"),
    ("PUT", "/filesystem/x"),
    ("DELETE", "/filesystem/x"),
    ("PUT", "/filesystem/tree/x"),
    ("DELETE", "/filesystem/tree/x"),
    ("POST", "/filesystem-copy"),
    ("POST", "/filesystem-move"),
    ("POST", "/filesystem-edit/x"),
    ("PUT", "/filesystem-attributes/x"),
    ("PUT", "/filesystem-archive/x"),
    ("POST", "/filesystem-multipart/initiate/x"),
    ("PUT", "/filesystem-multipart/x/part"),
    ("PUT", "/filesystem-multipart/x/content"),
    ("POST", "/filesystem-multipart/x/complete"),
    ("DELETE", "/filesystem-multipart/x/abort"),
    ("POST", "/terminals"),
    ("POST", "/terminals/x/input"),
    ("PUT", "/codegen/fastapply/x"),
    ("POST", "/drives/mount"),
    ("DELETE", "/drives/mount/x"),
    ("PUT", "/network/tunnel/config"),
    ("DELETE", "/network/tunnel"),
    ("POST", "/environment/reload"),
]


def test_a_frozen_sandbox_refuses_what_changes_something_and_nothing_else(
    box: Server, store: Storage
) -> None:
    assert export(box, url=store.url("a")).status_code == 200

    for method, path in WRITES:
        refused = box.client.request(method, path, content=b"{}")
        assert refused.status_code == 503, (method, path)
        assert "quiesced" in refused.json()["error"]
    for path in ("/process", "/filesystem/etc", "/health", "/metrics", "/terminals", "/"):
        assert box.client.get(path).status_code in {200, 404}, path
    assert box.client.delete("/process/nobody").status_code == 404
    unknown = box.client.post("/no/such/route")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")
    tools = Tools(box)
    listed = {tool["name"] for tool in tools.rpc("tools/list", {})["result"]["tools"]}
    assert listed - READING_TOOLS == {
        *("processExecute", "processWriteStdin", "terminalOpen", "terminalType"),
        *("fsWriteFile", "fsEditFile", "fsApplyEdits", "fsDeleteFileOrDirectory"),
        *("codegenReapply", "codegenParallelApply"),
        *("codeContextCreate", "codeRestart", "codeRun"),
        *("gitAbort", "gitAdd", "gitCheckout", "gitClone", "gitCommit", "gitCreateBranch"),
        *("gitDeleteBranch", "gitFetch", "gitPull", "gitPush"),
    }
    assert "quiesced" in tools.error("processExecute", command="true")
    assert tools.value("processesList") is not None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"{", "invalid request body"),
        (b"{}", "url is required"),
        (b'{"url": 5}', "invalid request body"),
        (b'{"url": "file:///etc/passwd?s3cr3t"}', "http or https"),
        (b'{"url": "http:///x?s3cr3t"}', "http or https"),
        (b'{"url": "http://h/x y?s3cr3t"}', "http or https"),
        (b'{"url": "http://h:99999/s3cr3t"}', "http or https"),
        (b'{"multipart": {}}', "partUrls"),
        (b'{"multipart": {"partUrls": ["http://h/"]}}', "completeUrl"),
        (b'{"multipart": {"partUrls": ["http://h/"], "completeUrl": "http://h/"}}', "partSize"),
        (
            b'{"multipart": {"partUrls": ["ftp://s3cr3t/"], "completeUrl": "http://h/", '
            b'"partSize": 5242880}}',
            "partUrls",
        ),
        (b'{"url": "http://h/", "stopTimeoutSeconds": -1}', "stopTimeoutSeconds"),
        (b'{"url": "http://h/", "compression": "lzma"}', "compression"),
        (b'{"url": "http://h/", "headers": {"a": "b\\r\\nc"}}', "headers"),
        (b'{"url": "http://h/", "headers": {"Content-Length": "1"}}', "headers"),
        (b'{"dryRun": true, "imageMountPoint": "/no/such"}', "imageMountPoint"),
        (b'{"dryRun": true, "imageDevice": "/dev/null"}', "block device"),
        (b'{"dryRun": true, "excludes": ["a\\u0000"]}', "NUL"),
    ],
)
def test_a_wrong_request_is_a_400_and_stops_nothing(box: Server, body: bytes, text: str) -> None:
    box.client.post("/process", json={"command": "sleep 60", "name": "w"})

    refused = box.client.post("/archive/export", content=body)

    assert refused.status_code == 400
    assert text in refused.json()["error"]
    assert "s3cr3t" not in refused.text
    assert box.client.get("/process/w").json()["status"] == "running"
    assert status(box)["state"] == "active"


def test_only_the_methods_of_the_contract_are_known(box: Server) -> None:
    for method, path in (
        ("GET", "/archive/export"),
        ("HEAD", "/archive/status"),
        ("POST", "/archive/status"),
        ("GET", "/archive/resume"),
        ("DELETE", "/archive/export"),
    ):
        assert box.client.request(method, path).status_code == 404


def test_one_export_at_a_time_and_its_progress_is_told(box: Server, store: Storage) -> None:
    fill(root(box) / "big", 8 << 20)
    store.hold = threading.Event()

    begun = export(box, url=store.url("a"), **{"async": True})

    assert begun.status_code == 202
    assert begun.json()["state"] == "running"
    assert begun.json()["uploaded"] is False
    assert store.arrived.wait(60)
    assert export(box, dryRun=True).status_code == 409
    assert export(box, url=store.url("b")).status_code == 409
    assert box.client.post("/archive/resume").status_code == 409
    running = status(box)
    assert running["state"] == "quiesced"
    assert running["export"]["state"] == "running"
    assert 0 < running["export"]["sent"] <= running["export"]["size"]
    assert box.client.get("/health").status_code == 200
    store.hold.set()
    done = until(lambda: (s := status(box)["export"])["state"] != "running" and s)
    assert (done["state"], done["uploaded"]) == ("succeeded", True)
    assert done["finishedAt"]
    (root(box) / "big").unlink()


def test_an_upload_that_breaks_half_way_starts_again_from_its_beginning(
    box: Server, store: Storage
) -> None:
    data = fill(root(box) / "big", 8 << 20)
    store.fault = lambda method, _path, attempt: (
        "drop:3000000" if method == "PUT" and attempt == 1 else None
    )

    done = export(box, url=store.url("a"))

    assert done.status_code == 200, done.text
    assert store.attempts("PUT", "a") == 2
    file = opened(store.kept["a"]).extractfile("big")
    assert file is not None
    assert file.read() == data


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_of_an_upload_in_parts_only_the_failed_part_is_sent_again(
    box: Server, store: Storage, compression: str
) -> None:
    data = fill(root(box) / "big", 11 << 20)
    faults = {("/part1", 1): "drop:2000000", ("/part2", 1): 503, ("/complete", 1): 500}
    store.fault = lambda _method, path, attempt: faults.get((path, attempt))

    done = export(box, multipart=parts_of(store, 5), url="", compression=compression)

    assert done.status_code == 200, done.text
    asked = [store.attempts("PUT", f"part{number}") for number in range(5)]
    assert asked == [1, 2, 2, 0, 0]
    assert [len(store.kept[f"part{n}"]) for n in (0, 1)] == [PART, PART]
    whole = b"".join(store.kept[f"part{number}"] for number in range(3))
    assert len(whole) == done.json()["size"]
    if compression == "zstd":
        whole = zstd.decompress(whole)
    file = opened(whole).extractfile("big")
    assert file is not None
    assert file.read() == data
    completion = store.bodies["complete"].decode()
    assert completion.startswith("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>")
    assert '<ETag>"part2-tag"</ETag>' in completion
    assert store.attempts("POST", "complete") == 2
    assert store.attempts("DELETE", "abort") == 0


def test_too_few_part_urls_fail_before_anything_is_sent(box: Server, store: Storage) -> None:
    fill(root(box) / "big", 11 << 20)

    failed = export(box, multipart=parts_of(store, 2))

    assert failed.status_code == 500
    assert "need 3 part URLs" in failed.json()["error"]
    assert [asked[0] for asked in store.asked] == ["DELETE"]
    assert status(box)["state"] == "active"


def test_a_failure_lifts_the_freeze_and_tells_no_secret(box: Server, store: Storage) -> None:
    box.client.post("/process", json={"command": "sleep 60", "name": "f"})
    store.fault = lambda method, _path, _attempt: 503 if method == "PUT" else None

    failed = export(box, multipart=parts_of(store, 9), headers={"x-secret": "s3cr3t"})

    assert failed.status_code == 500
    assert failed.json()["error"] == "the upload failed: the storage answered 503 (SlowDown)"
    assert store.attempts("PUT", "part0") == 3
    assert store.attempts("DELETE", "abort") == 1
    after = status(box)
    assert after["state"] == "active"
    assert after["export"]["state"] == "failed"
    assert after["export"]["uploaded"] is False
    assert after["export"]["error"] == failed.json()["error"]
    assert box.client.get("/process/f").json()["status"] == "running"
    assert box.run("true")["exitCode"] == 0
    for url in ("http://127.0.0.1:9/s3cr3t", "http://no-such-host.invalid/s3cr3t"):
        assert export(box, url=url).status_code == 500
    audits = until(lambda: [a for a in box.log_lines() if a.get("action") == "archive_export"])
    assert audits[0]["dry-run"] in {"true", "false"}
    assert b"s3cr3t" not in box.log_path.read_bytes()
    assert "s3cr3t" not in json.dumps(status(box))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://no host/x", 400),
        ("http://a..b/x", 400),
        (f"http://{'l' * 64}.example/x", 400),
        ("http://999.1.1.1/x", 400),
        ("http://-a.example/x", 400),
        ("http://[::g]/x", 400),
        ("http://a:99999/x", 400),
        ("http://127.0.0.1:9/x", 500),
    ],
)
@pytest.mark.parametrize("field", ["url", "partUrls", "completeUrl", "abortUrl"])
def test_where_nothing_can_be_sent_nothing_is_stopped(
    box: Server, store: Storage, url: str, code: int, field: str
) -> None:
    pid = box.client.post("/process", json={"command": "sleep 60", "name": "here"}).json()["pid"]
    parts = parts_of(store, 1)
    parts[field] = [url] if field == "partUrls" else url
    options = {"url": url} if field == "url" else {"multipart": parts}

    assert export(box, **options).status_code == code
    process = box.client.get("/process/here").json()
    assert (process["pid"], process["status"]) == (pid, "running")
    assert status(box)["state"] == "active"
    assert store.attempts("PUT", "part0") == 0


def test_what_was_stopped_for_nothing_is_started_again(
    make_server: Callable[..., Server], tmp_path: Path, store: Storage
) -> None:
    (tmp_path / "root").mkdir()
    started = tmp_path / "started"
    env = {"SANDKEEPER_ARCHIVE_ROOT": str(tmp_path / "root"), "SANDKEEPER_ARCHIVE_RETRIES": "0"}
    box = make_server(env=env, args=["-c", f"echo >> {started}; exec sleep 60"])
    until(lambda: started.exists())
    wanted = {"command": "sleep 61", "name": "one", "env": {"A": "1"}, "workingDir": "/tmp"}
    first = box.client.post("/process", json=wanted).json()
    box.client.post("/process", json={"command": "true", "name": "over", "waitForCompletion": True})
    store.fault = lambda _method, _path, _attempt: 403

    assert export(box, url=store.url("a")).status_code == 500
    again = box.client.get("/process/one").json()
    assert (again["status"], again["workingDir"]) == ("running", "/tmp")
    assert again["pid"] != first["pid"]
    until(lambda: started.read_text() == "\n\n")
    assert box.client.get("/process/over").json()["status"] == "completed"

    # What an earlier export sent is elsewhere now, and stays stopped here.
    store.fault = lambda _method, _path, _attempt: None
    assert export(box, url=store.url("b")).status_code == 200
    store.fault = lambda _method, _path, _attempt: 403
    assert export(box, url=store.url("c")).status_code == 500
    assert box.client.get("/process/one").json()["status"] != "running"


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_what_an_interrupted_export_stopped_the_next_start_begins_again(
    make_server: Callable[..., Server], tmp_path: Path, store: Storage, end: str
) -> None:
    (tmp_path / "root").mkdir()
    fill(tmp_path / "root/big", 4 << 20)
    box = make_server(env={"SANDKEEPER_ARCHIVE_ROOT": str(tmp_path / "root")})
    box.client.post("/process", json={"command": "sleep 60", "name": "one"})
    store.hold = threading.Event()
    export(box, url=store.url("a"), **{"async": True})
    assert store.arrived.wait(60)
    assert box.client.get("/process/one").json()["status"] != "running"

    getattr(box, end)()
    store.hold.set()
    box.start()

    assert status(box)["state"] == "active"
    until(lambda: box.client.get("/process/one").json()["status"] == "running")


def test_redirects_are_not_followed(box: Server, store: Storage) -> None:
    store.fault = lambda _method, _path, _attempt: 307

    failed = export(box, url=store.url("a"))

    assert "answered 307" in failed.json()["error"]
    assert len(store.asked) == 1


def test_without_an_image_what_changed_since_the_first_start_is_exported(
    make_server: Callable[..., Server], tmp_path: Path, store: Storage
) -> None:
    top = tmp_path / "root"
    for name in ("still/one", "tree/deep"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
    box = make_server(env={"SANDKEEPER_ARCHIVE_ROOT": str(top)})
    (top / "still/one/new").write_text("new")
    (top / "tree").rename(top / "elsewhere")

    dry = export(box, dryRun=True).json()

    kinds = {change["path"]: change["kind"] for change in dry["changes"]}
    assert dry["manifest"]["basis"] == "first-start"
    assert kinds["still/one/new"] == "added"
    # A directory that was moved keeps all times below it.
    assert {"elsewhere/deep", "elsewhere/deep/file"} <= kinds.keys()
    assert "still/one/file" not in kinds
    box.env["SANDKEEPER_ARCHIVE_BASELINE"] = "required"
    box.restart()
    box.client.post("/process", json={"command": "sleep 60", "name": "r"})
    refused = export(box, url=store.url("a"))
    assert refused.status_code == 500
    assert "imageMountPoint" in refused.json()["error"]
    assert box.client.get("/process/r").json()["status"] == "running"


def test_an_export_outlives_no_kill_9_but_a_finished_one_stays_frozen(
    make_server: Callable[..., Server], tmp_path: Path, store: Storage
) -> None:
    (tmp_path / "root").mkdir()
    box = make_server(env={"SANDKEEPER_ARCHIVE_ROOT": str(tmp_path / "root")})
    fill(tmp_path / "root/big", 4 << 20)
    store.hold = threading.Event()
    export(box, url=store.url("a"), **{"async": True})
    assert store.arrived.wait(60)

    box.kill9()
    box.start()

    after = status(box)
    assert after["state"] == "active"
    assert after["export"]["state"] == "failed"
    assert "restarted" in after["export"]["error"]
    store.hold.set()
    store.hold = None
    box.client.post("/process", json={"command": "sleep 60", "name": "k"})
    assert export(box, url=store.url("b")).status_code == 200
    since = status(box)["since"]
    box.kill9()
    box.start()
    frozen = status(box)
    assert (frozen["state"], frozen["since"]) == ("quiesced", since)
    assert frozen["stoppedProcesses"] == ["k"]
    assert box.client.post("/process", json={"command": "true"}).status_code == 503
    export(box, url=store.url("c"))
    assert read_json(opened(store.kept["c"]), "processes")["processes"][0]["name"] == "k"
    assert box.client.post("/archive/resume").json()["state"] == "active"
    box.restart()
    assert status(box) == {"state": "active", "readOnlyRoot": False, "stoppedProcesses": []}


def test_requests_do_not_wait_for_an_export(box: Server, store: Storage) -> None:
    many = root(box) / "many"
    many.mkdir()
    for number in range(3000):
        (many / str(number)).write_bytes(b"x" * 100)
    slowest = 0.0

    export(box, url=store.url("a"), **{"async": True})
    while status(box)["export"]["state"] == "running":
        began = time.perf_counter()
        assert box.client.get("/health").status_code == 200
        slowest = max(slowest, time.perf_counter() - began)

    assert status(box)["export"]["state"] == "succeeded"
    assert slowest < 10


def test_an_upload_that_drags_on_is_given_up_before_the_archive_is_made(
    box: Server, store: Storage, tmp_path: Path
) -> None:
    body = HEAD + DATA + TAIL
    head = b"PUT /filesystem/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" + FORM
    with (
        socket.create_connection(("127.0.0.1", box.port), timeout=60) as sock,
        sock.makefile("rb") as file,
    ):
        sock.sendall(head % (bytes(tmp_path / "late"), len(body)) + body[:-100_000])
        until(lambda: os.listdir(tmp_path))
        reply = box.client.post("/archive/export", json={"url": store.url("a")})
        assert reply.status_code == 200
        assert os.listdir(tmp_path) == []
        sock.sendall(body[-100_000:] + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert answer_of(file)[0] == 503
        assert answer_of(file)[0] == 200


def test_an_answer_that_comes_before_the_whole_archive_is_no_success(
    box: Server, store: Storage
) -> None:
    (Path(box.folder) / "root/large").write_bytes(os.urandom(16 << 20))
    store.fault = lambda _method, _path, _attempt: "early:100000"

    failed = box.client.post("/archive/export", json={"url": store.url("a")})

    assert (failed.status_code, store.attempts("PUT", "a")) == (500, 3)
    assert "connection broke" in failed.text or "before it had everything" in failed.text
    (Path(box.folder) / "root/large").unlink()
