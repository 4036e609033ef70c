"""`sync`: a folder of the sandbox becomes like one here."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.client.conftest import Ask
from tests.client.verbs import begin
from tests.harness import Server, until


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with a tree of every kind."""
    folder = tmp_path / "source"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "src" / "a.txt").write_bytes(b"one\0\xff")
    (folder / "src" / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "src" / "deep" / "run.sh").chmod(0o755)
    (folder / "src" / "link").symlink_to("deep/run.sh")
    (folder / "dangling").symlink_to("/nowhere/at/all")
    (folder / "näme with\nline").write_text("x")
    return folder


def seen(folder: Path) -> dict[str, object]:
    """Return what is in a folder: contents, links, modes."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = path.stat().st_mode
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode, int(path.stat().st_mtime))
    return found


def alike(folder: Path, other: Path) -> bool:
    """Say whether both hold the same; what goes away under a look makes them differ."""
    try:
        return seen(folder) == seen(other)
    except FileNotFoundError:
        return False


def counts(ask: Ask, *words: str) -> tuple[int, int, int]:
    """Return what a run says it has sent, deleted and left alone."""
    done = ask("sync", "--json", *words)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["sent"], said["deleted"], said["unchanged"]


def test_only_what_differs_is_sent(ask: Ask, server: Server, source: Path) -> None:
    target = server.workdir / "target"

    assert counts(ask, str(source), ":target") == (8, 0, 0)
    assert seen(target) == seen(source)
    assert counts(ask, str(source), ":target") == (0, 0, 8)

    (source / "src" / "a.txt").write_text("two")
    (source / "src" / "deep" / "run.sh").chmod(0o700)
    (source / "dangling").unlink()
    (source / "dangling").symlink_to("/elsewhere")
    assert counts(ask, str(source), ":target") == (3, 0, 5)
    assert seen(target) == seen(source)


def test_what_is_only_there_stays_unless_it_is_to_be_deleted(
    ask: Ask, server: Server, source: Path
) -> None:
    target = server.workdir / "kept"
    counts(ask, str(source), ":kept")
    (target / "old" / "older").mkdir(parents=True)
    (target / "old" / "older" / "oldest").touch()
    (target / "src" / "more").touch()

    assert counts(ask, str(source), ":kept")[:2] == (0, 0)
    told = ask("sync", "--delete", "-n", "-v", str(source), ":kept").stdout
    assert b"4 would be deleted" in told
    assert (target / "old").exists()
    assert counts(ask, "--delete", str(source), ":kept")[:2] == (0, 4)
    assert seen(target) == seen(source)


def test_what_git_ignores_is_neither_sent_nor_deleted(
    ask: Ask, server: Server, source: Path
) -> None:
    (source / ".gitignore").write_text("*.log\n!keep.log\n/build/\nnode_modules\n")
    (source / "src" / ".gitignore").write_text("secret\n!src.log\n")
    (source / ".git").mkdir()
    for name in ("a.log", "keep.log", "src/src.log", "src/secret", "secret", "src/build"):
        (source / name).write_text(name)
    for name in ("build", "src/node_modules"):
        (source / name).mkdir()
        (source / name / "made").touch()
    target = server.workdir / "ignoring"
    (target / "build").mkdir(parents=True)
    for name in ("build/there", "there.log", "there"):
        (target / name).touch()

    counts(ask, "--delete", str(source), ":ignoring")

    names = {name for name in seen(target) if "src/deep" not in name}
    assert {"keep.log", "src/src.log", "secret", "src/build"} <= names
    assert {"build/there", "there.log"} <= names
    assert not names & {"a.log", "src/secret", "build/made", "src/node_modules", ".git", "there"}
    counts(ask, "--no-ignore", "--delete", str(source), ":ignoring")
    assert seen(target) == seen(source)


def test_the_rules_of_the_repository_above_count(ask: Ask, server: Server, source: Path) -> None:
    (source / ".git" / "info").mkdir(parents=True)
    (source / ".git" / "info" / "exclude").write_text("excluded\n")
    (source / ".gitignore").write_text("/src/deep/\n*.tmp\n")
    for name in ("excluded", "x.tmp", "kept"):
        (source / "src" / name).touch()

    counts(ask, str(source / "src"), ":part")

    assert set(seen(server.workdir / "part")) == {"a.txt", "link", "kept"}


def test_a_file_where_a_folder_was_is_replaced_when_that_is_asked_for(
    ask: Ask, server: Server, source: Path
) -> None:
    target = server.workdir / "kinds"
    (target / "dangling" / "full").mkdir(parents=True)
    (target / "src").write_text("a file")

    refused = ask("sync", str(source), ":kinds")
    assert refused.returncode == 1
    assert b"--delete replaces it" in refused.stderr
    counts(ask, "--delete", str(source), ":kinds")
    assert seen(target) == seen(source)


def test_names_that_are_no_text_arrive_and_what_cannot_be_read_is_told(
    ask: Ask, server: Server, source: Path
) -> None:
    os.close(os.open(os.fsencode(source) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY, 0o644))
    os.mkfifo(source / "fifo")

    counts(ask, str(source), ":bytes")

    assert os.path.exists(os.fsencode(server.workdir) + b"/bytes/\xff\xfe")
    assert not (server.workdir / "bytes" / "fifo").exists()
    assert counts(ask, str(source), ":bytes")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-folder", ":x"], b"it is no folder"),
        ([".", "x"], b"is written :PATH"),
        ([".", ":/etc/passwd"], b"not a directory"),
    ],
)
def test_what_makes_no_sense_is_told(ask: Ask, words: list[str], said: bytes) -> None:
    done = ask("sync", *words)

    assert done.returncode == 1
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_changes_follow_also_in_new_folders_and_over_a_restart(make_server, source: Path) -> None:
    server = make_server()
    target = server.workdir / "followed"
    env = {**server.env, "SANDKEEPER_URL": server.url}
    words = ("sync", "--watch", "--delete", "--json", str(source), ":followed")
    with begin(*words, env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        assert seen(target) == seen(source)

        (source / "new" / "newer").mkdir(parents=True)
        (source / "new" / "newer" / "file").write_text("1")
        (source / "src" / "a.txt").unlink()
        (source / "src" / "deep").rename(source / "moved")
        until(lambda: alike(target, source))

        (source / "moved" / "run.sh").write_text("changed")
        until(lambda: alike(target, source))

        server.kill9()
        (source / "new" / "newer" / "file").write_text("while it was away")
        (source / "new" / "newest").mkdir()
        server.restart()
        until(lambda: alike(target, source))

        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
        assert b"Traceback" not in child.stderr.read()


def test_a_server_that_is_killed_while_files_go_over_gets_the_rest(
    make_server, tmp_path: Path
) -> None:
    server = make_server()
    source = tmp_path / "large"
    source.mkdir()
    for number in range(60):
        (source / f"{number:02}").write_bytes(os.urandom(1 << 16) * 32)
    target = server.workdir / "large"
    env = {**server.env, "SANDKEEPER_URL": server.url}
    with begin("sync", str(source), ":large", env=env) as child:
        until(lambda: len(list(target.glob("[0-9]*"))) > 3)
        server.kill9()
        server.restart()
        assert child.stderr is not None
        said = child.stderr.read()

        assert child.wait() == 0, said
    assert seen(target) == seen(source)


def logged(server: Server) -> int:
    """Return how many lines the server's log has, with those of all that was asked before."""
    query = f"asked={time.monotonic_ns()}"
    server.client.get(f"/health?{query}")
    told: list[dict[str, object]] = until(
        lambda: (
            (lines := server.log_lines())
            and any(one.get("query") == query for one in lines)
            and lines
        )
    )
    return len(told)


def test_a_thousand_files_that_are_the_same_are_compared_at_once(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    source = tmp_path / "many"
    for folder in range(10):
        (source / f"{folder}").mkdir(parents=True)
        for number in range(100):
            (source / f"{folder}" / f"{number}").touch()
    (source / ".gitignore").write_text("*.pyc\n__pycache__/\n/dist\n!x.pyc\n")

    assert counts(ask, str(source), ":many")[0] == 1011
    before = logged(server)
    assert counts(ask, str(source), ":many") == (0, 0, 1011)
    assert logged(server) - before < 50
