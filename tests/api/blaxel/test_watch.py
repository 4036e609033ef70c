"""Watching over HTTP: what is told, when, and what a watch leaves behind."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, debian, make_files, open_files, until
from tests.watching import Watching

from sandkeeper.files.paths import temporary_name
from sandkeeper.journal.lines import KEEPALIVE_SECONDS


@pytest.fixture
def folder(server: Server, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = server.workdir / f"{request.node.originalname}-{len(list(server.workdir.iterdir()))}"
    path.mkdir()
    yield path
    until(lambda: watches(server) == 0)


def test_headers_come_at_once_and_the_first_line_is_an_event(server: Server, folder: Path) -> None:
    with Watching(server, folder.name) as watching:
        assert watching.status == 200
        assert watching.headers["content-type"] == "text/plain; charset=utf-8"
        assert watching.headers["transfer-encoding"] == "chunked"
        assert watching.headers["x-accel-buffering"] == "no"
        assert watching.events == []

        (folder / "a<b>.txt").touch()
        until(lambda: watching.events)

    expected = '{"op":"CREATE","name":"a\\u003cb\\u003e.txt","path":"%s","error":null}'
    assert next(line for line in watching.lines if line[0] == "{") == expected % folder


def test_each_operation_has_its_line(server: Server, folder: Path) -> None:
    with Watching(server, folder.name) as watching:
        file = folder / "f"
        file.write_text("x")
        watching.until("WRITE", file)
        file.chmod(0o600)
        watching.until("CHMOD", file)
        file.rename(folder / "g")
        watching.until("CREATE", folder / "g")
        (folder / "g").unlink()
        watching.until("REMOVE", folder / "g")

    assert [op for op, _ in watching.told()] == [
        *("CREATE", "WRITE", "CHMOD", "RENAME", "CREATE", "REMOVE"),
    ]


def test_a_plain_watch_sees_only_its_own_directory(server: Server, folder: Path) -> None:
    (folder / "sub").mkdir()
    with Watching(server, f"%2F{str(folder)[1:]}") as watching:
        (folder / "sub" / "deep").touch()
        (folder / "near").touch()
        watching.until("CREATE", folder / "near")

    assert watching.told() == [("CREATE", str(folder / "near"))]


def test_a_recursive_watch_sees_new_directories_and_what_is_in_them(
    server: Server, folder: Path
) -> None:
    (folder / "old" / "older").mkdir(parents=True)
    with Watching(server, f"/{folder}/**") as watching:
        (folder / "old" / "older" / "f").touch()
        watching.until("CREATE", folder / "old" / "older" / "f")
        (folder / "a" / "b" / "c").mkdir(parents=True)
        (folder / "a" / "b" / "c" / "f").write_text("x")
        for path in ("a", "a/b", "a/b/c", "a/b/c/f"):
            watching.until("CREATE", folder / path)
        (folder / "a" / "b" / "c" / "g").touch()
        watching.until("CREATE", folder / "a/b/c/g")
        shutil.rmtree(folder / "a")
        watching.until("REMOVE", folder / "a")


def test_events_come_soon_after_the_change(server: Server, folder: Path) -> None:
    with Watching(server, f"{folder.name}/**") as watching:
        for index in range(20):
            before = time.perf_counter()
            path = folder / str(index)
            path.touch()
            until(lambda p=str(path): any(p.endswith(e["name"]) for e in watching.events))
            assert time.perf_counter() - before < 20  # two busy cores; the benchmark measures


def test_a_renamed_directory_is_followed_and_one_moved_out_is_not(
    server: Server, folder: Path
) -> None:
    (folder / "watched" / "a" / "b").mkdir(parents=True)
    root = folder / "watched"
    with Watching(server, f"{folder.name}/watched/**") as watching:
        (root / "a").rename(root / "z")
        watching.until("RENAME", root / "a")
        watching.until("CREATE", root / "z" / "b")
        (root / "z" / "b" / "f").touch()
        watching.until("CREATE", root / "z" / "b" / "f")
        (root / "z").rename(folder / "outside")
        watching.until("RENAME", root / "z")
        (folder / "outside" / "b" / "unseen").touch()
        (root / "end").touch()
        watching.until("CREATE", root / "end")

    assert not [path for _, path in watching.told() if "unseen" in path]


def test_ignored_texts_hide_paths_and_their_directories_are_not_watched(
    server: Server, folder: Path
) -> None:
    (folder / "node_modules" / "deep").mkdir(parents=True)
    with Watching(server, f"{folder.name}/**", ignore="node_modules,.log") as watching:
        assert watches(server) == 1
        (folder / "node_modules" / "deep" / "x").touch()
        (folder / "a.log").touch()
        (folder / "b.log.txt").touch()
        (folder / "seen").touch()
        watching.until("CREATE", folder / "seen")

    assert watching.told() == [("CREATE", str(folder / "seen"))]


def test_our_temporary_files_do_not_show_but_their_targets_do(server: Server, folder: Path) -> None:
    def put(name: str, text: str, *, replacing: bool) -> None:
        temporary = folder / temporary_name(replacing=replacing)
        temporary.write_text(text)
        temporary.rename(folder / name)

    with Watching(server, f"{folder.name}/**") as watching:
        put("new", "x", replacing=False)
        put("new", "y", replacing=True)
        put("empty", "", replacing=False)
        (folder / temporary_name(replacing=True)).touch()
        (folder / "end").touch()
        watching.until("CREATE", folder / "end")

    assert [(op, Path(path).name) for op, path in watching.told()] == [
        ("CREATE", "new"),
        ("WRITE", "new"),
        *[("WRITE", "new")] * (len(watching.told()) - 4),
        ("CREATE", "empty"),
        ("CREATE", "end"),
    ]


def test_a_link_to_a_directory_is_watched_under_its_own_name(server: Server, folder: Path) -> None:
    (folder / "real" / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("real")
    with Watching(server, f"{folder.name}/link/**") as watching:
        (folder / "real" / "sub" / "f").touch()
        watching.until("CREATE", folder / "link" / "sub" / "f")


@pytest.mark.parametrize("recursive", ["", "/**"])
@pytest.mark.parametrize(("how", "op"), [("remove", "REMOVE"), ("rename", "RENAME")])
def test_the_stream_ends_when_its_root_goes(
    server: Server, folder: Path, recursive: str, how: str, op: str
) -> None:
    root = folder / "root"
    root.mkdir()
    with Watching(server, f"/{root}{recursive}") as watching:
        if how == "remove":
            root.rmdir()
        else:
            root.rename(folder / "other")
        until(lambda: watching.ended)

    assert watching.told() == [(op, str(root))]


def test_what_is_no_directory_cannot_be_watched(server: Server, folder: Path) -> None:
    (folder / "file").touch()
    for path in (f"{folder.name}/file", "/no/such", "%2Fno%00such", f"{folder.name}/none/**"):
        reply = server.client.get(f"/watch/filesystem/{path}")
        assert (reply.status_code, reply.json()) == (400, {"error": "path is not a directory"})
    assert server.client.get("/watch/filesystem//" + "x" * 300).status_code == 422
    assert server.client.head("/watch/filesystem/nothing").status_code == 200


def test_a_quiet_watch_has_a_heartbeat_within_4_seconds(server: Server, folder: Path) -> None:
    before = time.monotonic()
    with Watching(server, folder.name) as watching:
        until(lambda: watching.lines)

    assert watching.lines[0] == "[keepalive]"
    assert time.monotonic() - before > 1.0
    assert KEEPALIVE_SECONDS < 4


def test_names_of_any_bytes_are_told(server: Server, folder: Path) -> None:
    names = [b"new\nline", b"bad\xff\xfe", b'quote"\\', b"y" * 255, "é☃".encode()]
    with Watching(server, folder.name) as watching:
        for name in names:
            os.close(os.open(os.path.join(os.fsencode(folder), name), os.O_CREAT | os.O_WRONLY))
        until(lambda: len(watching.events) >= len(names))

    told = [event["name"] for event in watching.events]
    assert told == [name.decode("utf-8", "replace") for name in names]


def watches(server: Server) -> int:
    """Count the inotify watches of the server's process."""
    count = 0
    for info in Path(f"/proc/{server.pid}/fdinfo").iterdir():
        try:
            count += info.read_text().count("inotify wd:")
        except OSError:
            continue
    return count


def held(server: Server) -> tuple[int, int]:
    """Return how many descriptors and threads the server has."""
    process = Path(f"/proc/{server.pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def test_a_client_that_goes_leaves_nothing_behind(make_server: Any) -> None:
    server = make_server()
    for index in range(200):
        (server.workdir / f"d{index}").mkdir()
    with Watching(server, "./**") as warm:
        (server.workdir / "x").touch()
        until(lambda: warm.lines)
    until(lambda: watches(server) == 0)
    before = held(server)
    many = [Watching(server, f"/{server.workdir}/**") for _ in range(10)]
    many += [Watching(server, f"/{server.workdir}/**", read=False) for _ in range(10)]
    assert watches(server) == 201  # one reader of a folder serves all
    for watching in many:
        watching.close()

    until(lambda: watches(server) == 0)
    until(lambda: held(server) <= before)


def test_a_server_that_stops_sends_its_watchers_away_at_once(make_server: Any) -> None:
    server = make_server()
    with Watching(server, "") as watching:
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 50
        until(lambda: not watching.reading)
        assert not watching.ended  # the last chunk is missing: the client may come again


def test_more_different_watches_than_are_served_are_refused_clearly(make_server: Any) -> None:
    server = make_server(constants={"sandkeeper.watch.service.SCOPES_MOST": 20})
    opened: list[Watching] = []
    try:
        while len(opened) <= 20 and (not opened or opened[-1].status == 200):
            opened.append(Watching(server, "", read=False, ignore=f"/{len(opened)}/"))
        assert (len(opened), opened[-1].status) == (21, 500)
        assert instances(server) == 1
        assert server.client.get("/health").status_code == 200
    finally:
        for watching in opened:
            watching.close()
    until(lambda: is_served(server))


def is_served(server: Server) -> bool:
    with Watching(server, "") as watching:
        return bool(watching.status == 200)


def instances(server: Server) -> int:
    return sum("inotify" in link for link in open_files(server.pid))


def test_watchers_that_do_not_read_make_nobody_late(make_server: Any) -> None:
    server = make_server()
    folder = server.workdir / "storm"
    folder.mkdir()
    watching = [Watching(server, "storm/**", read=False) for _ in range(60)]
    watching += [Watching(server, "storm/**", read=False, ignore=f"{n}") for n in range(20)]
    try:
        writing = threading.Thread(target=overwrite, args=[folder, 2_000])
        writing.start()
        took: list[float] = []
        while writing.is_alive():
            before = time.perf_counter()
            assert server.client.get("/health").status_code == 200
            took.append(time.perf_counter() - before)
            writing.join(0.005)
        # 0.05 s at worst on a quiet machine; two seconds with a reader for each watcher.
        assert sorted(took)[len(took) // 2] < 1
        assert max(took) < 20  # where the machine itself stands still
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 200_000
    finally:
        for one in watching:
            one.close()


def overwrite(folder: Path, count: int) -> None:
    for number in range(count):
        with open(folder / str(number % 500), "w") as file:
            file.write("x")


def test_a_client_that_does_not_read_stops_nobody_and_costs_little(make_server: Any) -> None:
    server = make_server()
    with (
        Watching(server, "", read=False) as idle,
        Watching(server, "") as reader,
    ):
        make_files(server.workdir, (f"file-{index:05}" for index in range(15_000)))
        reader.until("CREATE", server.workdir / "file-14999")
        status = Path(f"/proc/{server.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        assert resident < 120_000
        idle.read()
        idle.until("CREATE", server.workdir / "file-14999")
        seen = {path for op, path in idle.told() if op == "CREATE"}

    assert len(seen) == 15_000


def test_of_50_000_files_created_at_once_none_is_missed(server: Server, folder: Path) -> None:
    shm = Path(f"/dev/shm/sandkeeper-watch-{os.getpid()}")
    shm.mkdir()
    script = (
        "for d in a b c d e; do mkdir $d; (cd $d; seq -f f%06.0f 10000 | xargs touch) & done; wait"
    )
    try:
        with Watching(server, f"/{shm}/**") as watching:
            subprocess.run(["sh", "-c", script], cwd=shm, check=True)
            expected = every_path(shm)
            assert len(expected) == 50_005

            def created() -> set[str]:
                return {path for op, path in watching.told() if op == "CREATE"}

            # If the kernel had to drop notices, a rescan tells the rest, in an order of its own.
            until(lambda: len(watching.lines) >= len(expected))
            until(lambda: created() == expected, every=0.5)
    finally:
        shutil.rmtree(shm)


@pytest.fixture
def inotifywait() -> str:
    if not shutil.which("inotifywait"):
        debian("inotify-tools")
    return "inotifywait"


def test_a_storm_misses_nothing_that_inotifywait_sees(
    server: Server, folder: Path, inotifywait: str, tmp_path: Path
) -> None:
    seen_file = tmp_path / "seen"
    command = [inotifywait, "-m", "-r", "-q", "--format", "%w%f", "-o", str(seen_file)]
    other = subprocess.Popen(
        [*command, "-e", "create,delete,move", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        with Watching(server, f"/{folder}/**") as watching:
            until(lambda: watches_of(other.pid) == 1)
            storm(folder, 8_000)
            (folder / "last").touch()
            until(lambda: b"/last\n" in seen_file.read_bytes())
            watching.until("CREATE", folder / "last")
            left = every_path(folder)
            until(lambda: left <= {path for _, path in watching.told()}, every=0.2)
            told = {path for _, path in watching.told()}
    finally:
        other.terminate()
        other.wait()
    seen = {line.rstrip("/") for line in seen_file.read_text().splitlines()}
    assert len(seen) > 3_000  # a late inotifywait misses some itself
    # Deeper down, a name that was gone before its directory could be watched is nobody's to see:
    # either program misses some. A directory that was watched all the time loses none.
    direct = {path for path in seen if os.path.dirname(path) == str(folder)}
    assert len(direct) > 90
    assert direct <= told
    assert {path for path in seen if os.path.lexists(path)} <= told


def watches_of(pid: int) -> int:
    count = 0
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # it opens and closes others as it starts
            count += info.read_text().count("inotify wd:")
    return count


def every_path(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, ds, fs in os.walk(folder) for name in [*ds, *fs]}


def storm(root: Path, count: int) -> None:
    """Do what package managers do: fill staging directories, rename them, remove some."""
    for package in range(count // 100):
        staging = root / f".staging-{package}"
        (staging / "lib").mkdir(parents=True)
        for index in range(40):
            (staging / f"f{index}").touch()
            (staging / "lib" / f"g{index}").write_text("x")
        staging.rename(root / f"package-{package}")
        for index in range(10):
            (root / f"package-{package}" / f"f{index}").unlink()
        if package % 5 == 0:
            shutil.rmtree(root / f"package-{package}")


def test_a_write_over_the_api_shows_as_the_target_only(server: Server, folder: Path) -> None:
    with Watching(server, f"{folder.name}/**") as watching:
        for content in ("one", "two"):
            reply = server.client.put(f"/filesystem/{folder.name}/f", json={"content": content})
            assert reply.status_code == 200
            watching.until("WRITE", folder / "f")
        server.client.delete(f"/filesystem/{folder.name}/f")
        watching.until("REMOVE", folder / "f")

    assert {path for _, path in watching.told()} == {str(folder / "f")}
    assert watching.told()[0][0] == "CREATE"
    assert [op for op, _ in watching.told()].count("CREATE") == 1
