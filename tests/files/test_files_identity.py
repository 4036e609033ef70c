"""Files under a workload user: every operation is the user's, none the server's."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import needs_root

from sandkeeper.errors import Internal, Unprocessable
from sandkeeper.files.changing.temporaries import Temporaries
from sandkeeper.files.conditions import NO_CONDITIONS
from sandkeeper.files.copies import Copies
from sandkeeper.files.service import Files
from sandkeeper.files.trees import Trees
from sandkeeper.files.uploads.sessions import Uploads
from sandkeeper.files.work import FileWork
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import SetAside
from sandkeeper.log.lines import Log
from sandkeeper.settings import FileSettings

UID = 1234


class Quiet(Log):
    def __init__(self) -> None:
        pass

    def write(self, level: str, message: str, **fields: Any) -> None:
        raise AssertionError(message)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of the user's, which the user can reach."""
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, UID, UID)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    work = FileWork(lambda: Identity(UID, UID, "user", "/"))
    temporaries = Temporaries(tmp_path / "state/temporaries")
    temporaries.open()
    yield Files(work, temporaries, FileSettings(), workdir="/", home=lambda: "/")
    work.close()
    temporaries.close()


def run(files: Files, function: Any, *arguments: Any) -> Any:
    async def go() -> Any:
        return await files.work.run(function, *arguments)

    return asyncio.run(go())


def walk(files: Files, function: Any, *arguments: Any) -> Any:
    async def go() -> Any:
        return await files.work.walk(function, *arguments)

    return asyncio.run(go())


@needs_root
def test_new_files_and_directories_belong_to_the_user(files: Files, home: Path) -> None:
    run(files, files.write, f"{home}/a/b", b"x")
    run(files, files.make_directory, f"{home}/d/e", 0o755)
    walk(files, Trees(files).write, f"{home}/t", {"x/y": "z"})
    walk(files, Copies(files).copy, f"{home}/t", f"{home}/copy", True)

    for name in ["a", "a/b", "d", "d/e", "t/x", "t/x/y", "copy", "copy/x/y"]:
        assert (home / name).stat().st_uid == UID, name


@needs_root
def test_what_only_root_may_touch_is_refused(files: Files, home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "f").write_text("root's")
    (home / "link").symlink_to(secret / "f")

    for path in [f"{secret}/f", f"{home}/link"]:
        with pytest.raises(Internal, match="permission denied"):
            run(files, files.look, path)
        with pytest.raises(Unprocessable, match="permission denied"):
            run(files, files.write, path, b"x")
    with pytest.raises(Unprocessable):
        run(files, files.listing, str(secret))
    with pytest.raises(Unprocessable):
        walk(files, files.delete, str(secret), True, NO_CONDITIONS)
    with pytest.raises(Unprocessable):
        walk(files, Copies(files).copy, f"{secret}", f"{home}/stolen", False)
    assert (secret / "f").read_text() == "root's"


@needs_root
def test_a_writable_file_of_somebody_else_keeps_its_owner(
    files: Files, home: Path, tmp_path: Path
) -> None:
    shared = home / "shared"
    shared.write_text("an old and longer text")
    os.chmod(shared, 0o666)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("in a directory of root's")
    os.chmod(elsewhere, 0o666)
    protected = home / "protected"
    protected.write_text("old")

    for path in [shared, elsewhere]:
        run(files, files.write, str(path), b"new")
        assert path.read_text() == "new"
        assert path.stat().st_uid == 0
    with pytest.raises(Unprocessable, match="permission denied"):
        run(files, files.write, str(protected), b"new")
    assert sorted(os.listdir(home)) == ["protected", "shared"]


@needs_root
def test_an_upload_in_parts_is_kept_by_the_server_and_ends_as_the_users(
    files: Files, home: Path, tmp_path: Path
) -> None:
    async def go() -> None:
        uploads = Uploads(
            files, tmp_path / "up", tmp_path / "fallback", 60.0, SetAside(tmp_path, print)
        )
        await uploads.start(Quiet())
        session = await uploads.initiate(f"{home}/f", 0o600)
        part = uploads.part(session.uploadId, 1)
        await part.write(b"data")
        etag = (await part.finish()).etag
        await part.abort()
        kept = (tmp_path / "up").stat()
        assert (kept.st_uid, stat.S_IMODE(kept.st_mode)) == (0, 0o700)
        await uploads.complete(session.uploadId, [(1, etag)], NO_CONDITIONS)
        await uploads.stop()

    asyncio.run(go())
    info = (home / "f").stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (UID, 0o600)


@needs_root
def test_a_directory_of_uploads_that_somebody_planted_is_not_used(
    files: Files, home: Path, tmp_path: Path
) -> None:
    lines: list[str] = []

    class Heard(Quiet):
        def write(self, level: str, message: str, **fields: Any) -> None:
            lines.append(message)

    async def go() -> None:
        uploads = Uploads(files, home, tmp_path / "fallback", 60.0, SetAside(tmp_path, print))
        await uploads.start(Heard())
        await uploads.initiate("/x", 0o600)
        await uploads.stop()

    asyncio.run(go())
    assert "belongs to somebody else" in lines[0]
    assert os.listdir(home) == []
    assert len(os.listdir(tmp_path / "fallback")) == 1
