"""E2B's published Python client, sync and async, against a real server: all that it can do."""

import asyncio
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, until
from tests.later import Later

e2b = Later("e2b")

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

KEY = "e2b-key"
Envs = Callable[[Server], dict[str, str]]


def pointed(server: Server) -> dict[str, Any]:
    """Return the options that point a client at a server (the variables `E2B_…` do the same)."""
    return {"api_url": server.url, "sandbox_url": server.url, "api_key": KEY}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server with a token, which is the client's key."""
    # Login shells that are killed must leave nothing behind in a real home.
    env = {"SANDKEEPER_TOKEN": KEY, "HOME": str(tmp_path_factory.mktemp("home"))}
    with Server(tmp_path_factory.mktemp("guarded"), env=env) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="module")
def box(guarded: Server) -> Iterator[Any]:
    """Return a sandbox, made by the client."""
    made = e2b.Sandbox.create(timeout=600, metadata={"by": "test"}, **pointed(guarded))
    yield made
    made.kill()


@pytest.fixture
def folder(guarded: Server, request: pytest.FixtureRequest) -> Path:
    """Return a folder of the test's own."""
    made = guarded.workdir / request.node.name
    made.mkdir()
    return made


# Commands


def test_a_command_gives_output_and_code(box: Any) -> None:
    seen: list[str] = []
    done = box.commands.run("echo out; echo err >&2", on_stdout=seen.append)
    assert (done.stdout, done.stderr, done.exit_code, done.error) == ("out\n", "err\n", 0, None)
    assert seen == ["out\n"]
    with pytest.raises(e2b.CommandExitException) as failed:
        box.commands.run("echo so; exit 3")
    assert (failed.value.exit_code, failed.value.stdout) == (3, "so\n")
    assert failed.value.error == "exit status 3"


def test_a_command_has_variables_a_folder_and_a_user(box: Any, folder: Path) -> None:
    done = box.commands.run("echo $A; pwd; id -un", envs={"A": "b c"}, cwd=str(folder))
    assert done.stdout.splitlines()[:2] == ["b c", str(folder)]
    me = done.stdout.splitlines()[2]
    assert box.commands.run("id -un", user=me).stdout == f"{me}\n"
    with pytest.raises(e2b.AuthenticationException):
        box.commands.run("id", user="no-such-user")
    with pytest.raises(e2b.InvalidArgumentException):
        box.commands.run("pwd", cwd="/no/such/folder")


def test_a_timeout_ends_a_command(box: Any) -> None:
    with pytest.raises(e2b.TimeoutException):
        box.commands.run("sleep 60", timeout=1)


def test_a_background_command_is_listed_connected_to_and_killed(
    guarded: Server, box: Any, folder: Path
) -> None:
    go = folder / "go"
    os.mkfifo(go)
    made = box.commands.run(f"echo one; cat {go}", background=True)
    made.disconnect()
    (found,) = [one for one in box.commands.list() if one.pid == made.pid]
    assert (found.cmd, found.args[:2]) == ("/bin/bash", ["-l", "-c"])
    until(lambda: guarded.client.get(f"/process/{made.pid}").json()["stdout"] == "one\n")
    again = box.commands.connect(made.pid)
    go.write_text("two\n")
    assert again.wait().stdout == "two\n"
    sleeper = box.commands.run("sleep 60", background=True)
    assert box.commands.kill(sleeper.pid) is True
    with pytest.raises(e2b.CommandExitException) as killed:
        sleeper.wait()
    assert killed.value.error == "signal: killed"
    until(lambda: box.commands.kill(sleeper.pid) is False)
    with pytest.raises(e2b.NotFoundException):
        box.commands.connect(4194301)


def test_a_command_is_typed_at(box: Any) -> None:
    made = box.commands.run("cat", background=True, stdin=True)
    box.commands.send_stdin(made.pid, "a\n")
    box.commands.stream_input(made.pid, iter([b"b", b"\xc3", b"\xa9\n"]))
    box.commands.close_stdin(made.pid)
    assert made.wait().stdout == "a\nbé\n"


def test_characters_are_whole_however_they_are_written(box: Any) -> None:
    done = box.commands.run(r"for i in $(seq 200); do printf '\xe2\x82'; printf '\xac'; done")
    assert done.stdout == "€" * 200


def test_much_output_comes_whole_and_in_order(box: Any) -> None:
    done = box.commands.run("seq 1 2000000", timeout=0)
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 2_000_001))


# Terminals


def test_a_terminal_is_typed_at_resized_and_ended(box: Any) -> None:
    seen = bytearray()
    made = box.pty.create(e2b.PtySize(rows=24, cols=80), envs={"IN_PTY": "yes"})
    box.pty.resize(made.pid, e2b.PtySize(rows=33, cols=101))
    box.pty.send_stdin(made.pid, b"stty size; echo $IN_PTY-$TERM; exit 5\n")
    with pytest.raises(e2b.CommandExitException) as ended:
        made.wait(on_pty=seen.extend)
    assert b"33 101" in seen
    assert b"yes-xterm-256color" in seen
    assert ended.value.exit_code == 5
    other = box.pty.create(e2b.PtySize(rows=24, cols=80))
    other.disconnect()
    again = box.pty.connect(other.pid)
    box.pty.stream_input(other.pid, iter([b"exit ", b"0\n"]))
    again.wait()
    third = box.pty.create(e2b.PtySize(rows=24, cols=80))
    assert box.pty.kill(third.pid) is True


# Files


def test_files_are_written_and_read_in_every_form(box: Any, folder: Path) -> None:
    path = str(folder / "new" / "f")
    made = box.files.write(path, "héllo")
    assert (made.name, made.path) == ("f", path)
    assert box.files.read(path) == "héllo"
    assert bytes(box.files.read(path, format="bytes")) == "héllo".encode()
    data = os.urandom(2 << 20)
    box.files.write(path, io.BytesIO(data))
    assert b"".join(box.files.read(path, format="stream")) == data
    box.files.write(path, iter([b"a", b"b"]))
    assert box.files.read(path) == "ab"
    box.files.write(path, "packed " * 1000, gzip=True)
    assert box.files.read(path, gzip=True) == "packed " * 1000
    many = [{"path": str(folder / f"m{n}"), "data": str(n)} for n in range(3)]
    assert [one.name for one in box.files.write_files(many)] == ["m0", "m1", "m2"]
    with pytest.raises(e2b.FileNotFoundException):
        box.files.read(str(folder / "none"))


def test_metadata_is_kept(box: Any, folder: Path) -> None:
    path = str(folder / "f")
    made = box.files.write(path, "1", metadata={"Kind": "x"})
    assert made.metadata == {"kind": "x"}
    assert box.files.get_info(path).metadata == {"kind": "x"}


def test_folders_are_made_listed_moved_and_removed(box: Any, folder: Path) -> None:
    base = str(folder)
    assert box.files.make_dir(f"{base}/a/b") is True
    assert box.files.make_dir(f"{base}/a/b") is False
    box.files.write(f"{base}/a/b/c", "1")
    assert [one.name for one in box.files.list(base)] == ["a"]
    assert [one.name for one in box.files.list(base, depth=3)] == ["a", "b", "c"]
    info = box.files.rename(f"{base}/a/b/c", f"{base}/x/y")
    assert (info.path, info.type, info.size) == (f"{base}/x/y", e2b.FileType.FILE, 1)
    assert box.files.exists(f"{base}/x/y") is True
    assert box.files.exists(f"{base}/a/b/c") is False
    box.files.remove(f"{base}/x")
    assert not (folder / "x").exists()
    with pytest.raises(e2b.FileNotFoundException):
        box.files.list(f"{base}/x")
    with pytest.raises(e2b.InvalidArgumentException):
        box.files.list("/etc/passwd")


def test_a_folder_is_watched(box: Any, folder: Path) -> None:
    watch = box.files.watch_dir(str(folder), recursive=True, include_entry=True)
    (folder / "f").write_text("x")
    found: list[Any] = []
    until(lambda: found.extend(watch.get_new_events()) or found)
    assert (found[0].name, found[0].type) == ("f", e2b.FilesystemEventType.CREATE)
    assert found[0].entry.path == str(folder / "f")
    watch.stop()
    with pytest.raises(e2b.SandboxException):
        watch.get_new_events()


def test_signed_addresses_open_their_file(box: Any, folder: Path) -> None:
    path = str(folder / "signed")
    up = box.upload_url(path, use_signature_expiration=300)
    assert httpx.post(up, files={"file": ("f", b"by url")}).status_code == 200
    down = box.download_url(path, use_signature_expiration=300)
    assert httpx.get(down).content == b"by url"
    assert httpx.get(down.replace("signed", "other")).status_code == 401
    late = box.download_url(path, use_signature_expiration=-10)
    assert httpx.get(late).status_code == 401


# The sandbox itself


def test_a_sandbox_is_found_measured_paused_and_ended(guarded: Server) -> None:
    box = e2b.Sandbox.create(
        timeout=60, metadata={"m": "1"}, envs={"GIVEN": "v"}, **pointed(guarded)
    )
    assert box.is_running()
    assert box.commands.run("echo $GIVEN").stdout == "v\n"
    info = box.get_info()
    assert (info.sandbox_id, info.metadata) == (box.sandbox_id, {"m": "1"})
    from e2b import SandboxQuery

    query = SandboxQuery(metadata={"m": "1"})
    found = e2b.Sandbox.list(query=query, **pointed(guarded)).next_items()
    assert [one.sandbox_id for one in found] == [box.sandbox_id]
    box.set_timeout(500)
    assert box.get_metrics()[0].mem_total > 0
    same = e2b.Sandbox.connect(box.sandbox_id, **pointed(guarded))
    assert same.commands.run("echo same").stdout == "same\n"
    assert box.pause() is True
    assert box.is_running() is False
    assert e2b.Sandbox.connect(box.sandbox_id, **pointed(guarded)).is_running()
    with pytest.raises(e2b.SandboxException, match="501"):
        box.create_snapshot()
    assert box.kill() is True
    assert box.kill() is False
    assert box.is_running() is False
    with pytest.raises(e2b.SandboxNotFoundException):
        box.get_info()
    with pytest.raises(e2b.AuthenticationException):
        e2b.Sandbox.create(**{**pointed(guarded), "api_key": "wrong"})


def test_without_a_control_plane_and_without_a_token(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    monkeypatch.setenv("E2B_SANDBOX_URL", server.url)
    box = e2b.Sandbox.create()
    assert box.commands.run("echo hi").stdout == "hi\n"
    assert box.is_running()


def test_the_async_client_does_the_same(guarded: Server, folder: Path) -> None:
    async def use() -> None:
        box = await e2b.AsyncSandbox.create(timeout=60, **pointed(guarded))
        assert (await box.commands.run("echo out")).stdout == "out\n"
        with pytest.raises(e2b.TimeoutException):
            await box.commands.run("sleep 60", timeout=1)
        made = await box.commands.run("cat", background=True, stdin=True)
        await box.commands.send_stdin(made.pid, "typed\n")
        await box.commands.close_stdin(made.pid)
        assert (await made.wait()).stdout == "typed\n"
        events: asyncio.Queue[Any] = asyncio.Queue()
        watch = await box.files.watch_dir(str(folder), on_event=events.put)
        await box.files.write(str(folder / "f"), "x")
        assert (await events.get()).name == "f"
        await watch.stop()
        seen = bytearray()

        async def take(data: bytes) -> None:
            seen.extend(data)

        pty = await box.pty.create(e2b.PtySize(rows=24, cols=80), on_data=take)
        await box.pty.send_stdin(pty.pid, b"echo $((40+2)); exit\n")
        await pty.wait()
        assert b"42" in seen
        many = [box.commands.run(f"echo {n}") for n in range(10)]
        assert [one.stdout for one in await asyncio.gather(*many)] == [f"{n}\n" for n in range(10)]
        assert await box.files.read(str(folder / "f")) == "x"
        await box.kill()

    asyncio.run(asyncio.wait_for(use(), 100))
