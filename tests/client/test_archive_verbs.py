"""`export`, `import` and `thaw`: what a sandbox changed, as a file here and in another sandbox."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import Ask
from tests.harness import Server, start, until

from sandkeeper.client.archiving import _place


def _box(folder: Path) -> Server:
    """Return a server whose archive is of a folder, compared with a copy of it as it was."""
    for name in ("root", "image"):
        (folder / name / "etc").mkdir(parents=True)
        (folder / name / "etc/old").write_text("old")
        os.utime(folder / name / "etc/old", (1e9, 1e9))
    env = {
        "SANDKEEPER_ARCHIVE_ROOT": str(folder / "root"),
        "SANDKEEPER_ARCHIVE_IMAGE": str(folder / "image"),
    }
    return Server(folder, env=env)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Server]:
    """Return one that has changed something and runs something."""
    with _box(tmp_path / "box") as server:
        (_root(server) / "etc/new").write_bytes(os.urandom(1 << 20))
        (_root(server) / "etc/old").unlink()
        start(server, "exec sleep 1000", name="going")
        yield server
        for one in server.client.get("/process").json():
            server.client.delete(f"/process/{one['id']}/kill")


def _root(server: Server) -> Path:
    return Path(server.env["SANDKEEPER_ARCHIVE_ROOT"])


def _running(server: Server) -> set[str]:
    found = server.client.get("/process").json()
    return {one["name"] for one in found if one["status"] == "running"}


def test_what_one_sandbox_has_changed_goes_on_in_another(
    ask: Ask, box: Server, tmp_path: Path
) -> None:
    listed = ask("export", "-n", url=box.url)
    assert listed.returncode == 0, listed.stderr
    assert b"A etc/new\n" in listed.stdout
    assert _running(box) == {"going"}

    saved = ask("export", "box.tar", url=box.url)

    assert saved.returncode == 0, saved.stderr
    assert b"1 added" in saved.stdout
    assert b"stays frozen" in saved.stderr
    with tarfile.open(tmp_path / "box.tar") as archive:
        assert "etc/new" in archive.getnames()
    assert _running(box) == set()
    status = box.client.get("/archive/status").json()
    assert (status["state"], status["export"]["uploaded"]) == ("quiesced", True)
    assert ask("export", "again.tar", url=box.url).returncode == 0
    assert ask("thaw", url=box.url).stdout == b"active\n"
    assert _running(box) == set()

    with _box(tmp_path / "other") as other:
        start(other, "exec sleep 1000", name="in the way")
        done = ask("import", "-y", "again.tar", url=other.url)

        assert done.returncode == 0, done.stderr
        assert (_root(other) / "etc/new").read_bytes() == (_root(box) / "etc/new").read_bytes()
        assert not (_root(other) / "etc/old").exists()
        assert _running(other) == {"going"}
        assert other.client.get("/archive/status").json()["state"] == "active"
        assert not Path(_place(tmp_path / "again.tar")).exists()
        other.client.delete("/process/going/kill")


def test_a_copy_is_taken_of_a_sandbox_that_goes_on(ask: Ask, box: Server, tmp_path: Path) -> None:
    done = ask(
        "export", "--go-on", "-z", "--exclude", "etc/old", "--json", "a.tar.zst", url=box.url
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == (tmp_path / "a.tar.zst").stat().st_size
    assert _running(box) == {"going"}
    assert box.client.get("/archive/status").json()["state"] == "active"
    streamed = ask("export", "--go-on", "-", url=box.url)
    assert streamed.stdout[:14] == b".blaxel-archiv"


def test_what_is_kept_is_had_in_pieces_and_only_until_it_is_fetched(box: Server) -> None:
    assert box.client.get("/archive/content").status_code == 404
    assert box.client.post("/archive/export", json={"download": True}).status_code == 200

    whole = box.client.get("/archive/content")
    tag = whole.headers["etag"]
    rest = box.client.get("/archive/content", headers={"Range": "bytes=1000-", "If-Match": tag})
    other = box.client.get("/archive/content", headers={"Range": "bytes=5-", "If-Match": '"x"'})
    behind = box.client.get("/archive/content", headers={"Range": "bytes=99999999999-"})

    assert whole.status_code == 200
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    assert (
        rest.headers["content-range"] == f"bytes 1000-{len(whole.content) - 1}/{len(whole.content)}"
    )
    assert (other.status_code, behind.status_code) == (412, 416)
    assert box.client.delete("/archive/content").json()["state"] == "quiesced"
    assert box.client.get("/archive/content").status_code == 404
    assert box.client.post("/archive/resume").status_code == 200


def test_a_server_that_is_started_again_begins_what_was_stopped_for_an_archive_nobody_has(
    box: Server,
) -> None:
    assert box.client.post("/archive/export", json={"download": True}).status_code == 200
    assert _running(box) == set()
    box.kill9()
    box.restart()

    until(lambda: _running(box) == {"going"})
    assert box.client.get("/archive/content").status_code == 404


def test_what_is_no_archive_stops_nothing(ask: Ask, box: Server, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no archive")

    done = ask("import", "-y", "x.tar", url=box.url)

    assert done.returncode == 1
    assert b"is no archive" in done.stderr
    assert _running(box) == {"going"}
    missing = box.client.post("/archive/import", json={"path": "/nowhere.tar"})
    assert missing.status_code == 404
    assert box.client.post("/archive/import", json={"path": "a"}).status_code == 400
    os.mkfifo(box.workdir / "fifo")  # whose reader would wait for a writer
    fifo = box.client.post("/archive/import", json={"path": str(box.workdir / "fifo")})
    assert (fifo.status_code, "no regular file" in fifo.text) == (400, True)
    refused = box.client.post("/archive/export", json={"download": True, "url": "http://x/"})
    assert refused.status_code == 400
    assert ask("export", url=box.url).returncode == 2
    assert ask("export", "no/such/folder/a.tar", url=box.url).returncode == 1
    assert _running(box) == {"going"}
