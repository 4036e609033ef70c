"""Verbs about files, and `cp` both ways."""

import json
import os
import stat
from pathlib import Path

from tests.client.conftest import Ask
from tests.harness import Server


def test_trees_are_copied_with_modes_and_links(ask: Ask, server: Server, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "a").write_bytes(b"a" * 10)
    (tree / "a").chmod(0o764)
    (tree / "sub").chmod(0o775)
    (tree / "link").symlink_to("a")
    os.link(tree / "a", tree / "sub" / "hard")

    assert ask("cp", "tree", f":{server.workdir}/there").stderr == b""
    assert ask("cp", ":there", "back").stderr == b""

    back = tmp_path / "back"
    assert (back / "a").read_bytes() == b"a" * 10
    assert stat.S_IMODE((back / "a").stat().st_mode) == 0o764
    assert stat.S_IMODE((back / "sub").stat().st_mode) == 0o775
    assert (back / "link").readlink() == Path("a")
    assert (back / "sub" / "hard").samefile(back / "a")


def test_a_copy_goes_into_a_folder_and_over_a_file(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    (server.workdir / "folder").mkdir()
    (tmp_path / "name").write_text("1")

    ask("cp", "name", ":folder")
    ask("cp", "name", ":folder/other")
    (tmp_path / "name").write_text("2")
    ask("cp", "name", ":folder/other")

    assert (server.workdir / "folder/name").read_text() == "1"
    assert (server.workdir / "folder/other").read_text() == "2"
    assert ask("cp", "name", ":nowhere/").returncode == 1


def test_a_dash_is_standard_input_and_output(ask: Ask) -> None:
    data = os.urandom(300_000)

    assert ask("cp", "-", ":piped", stdin=data).stderr == b""
    assert ask("cp", ":piped", "-").stdout == data
    assert ask("cat", "piped", "piped").stdout == data * 2


def test_a_large_file_goes_on_where_an_upload_stopped(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * 70
    (tmp_path / "large").write_bytes(data)
    client = server.client
    initiate = "/filesystem-multipart/initiate/large"
    made = client.post(initiate, json={"permissions": "644"}).json()
    part = f"/filesystem-multipart/{made['uploadId']}/part?partNumber=1"
    assert client.put(part, files={"file": data[: 32 << 20]}).status_code == 200

    assert ask("cp", "large", ":large").stderr == b""

    assert (server.workdir / "large").read_bytes() == data
    known = {one["uploadId"] for one in client.get("/filesystem-multipart").json()["uploads"]}
    assert made["uploadId"] not in known


def test_names_that_are_no_text_arrive_as_they_are(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xff\n'")
    (tmp_path / name).write_text("x")

    assert ask("cp", f"./{name}", f":{name}").stderr == b""

    assert (server.workdir / name).read_text() == "x"


def test_what_is_no_plain_file_is_written_and_read_as_it_is(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    (server.workdir / "source").write_text("words")
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")

    assert ask("cp", ":source", "link").stderr == b""
    os.mkfifo(tmp_path / "fifo")
    pipe = os.open(tmp_path / "fifo", os.O_RDWR)
    assert ask("cp", ":source", "fifo").stderr == b""
    assert ask("cp", "/proc/version", ":version").stderr == b""

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "words"
    assert os.read(pipe, 100) == b"words"
    os.close(pipe)
    assert (server.workdir / "version").read_bytes() == Path("/proc/version").read_bytes()
    assert ask("mv", ":source", os.fsdecode(b":\xff")).returncode == 1
    assert (server.workdir / "source").exists()


def test_an_editor_never_overwrites_what_changed_meanwhile(
    ask: Ask, server: Server, tmp_path: Path
) -> None:
    target = server.workdir / "edited"
    target.write_text("one\n")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho more >> $1\n")
    editor.chmod(0o755)

    assert ask("edit", ":edited", env={"EDITOR": str(editor)}).returncode == 0
    assert target.read_text() == "one\nmore\n"
    editor.write_text(f"#!/bin/sh\necho mine >> $1\necho theirs > {target}\n")
    done = ask("edit", ":edited", env={"EDITOR": str(editor), "TMPDIR": str(tmp_path)})

    assert done.returncode == 1
    assert b"changed meanwhile" in done.stderr
    assert target.read_text() == "theirs\n"
    kept = Path(done.stderr.decode().rpartition(" in ")[2].strip())
    assert kept.read_text() == "one\nmore\nmine\n"


def test_a_folder_is_listed_searched_and_told_apart(ask: Ask, server: Server) -> None:
    folder = server.workdir / "looked"
    (folder / "below").mkdir(parents=True)
    (folder / "a.py").write_text("needle\n")
    (folder / ".hidden").write_text("")

    assert ask("ls", ":looked").stdout == b"a.py\nbelow/\n"
    assert b".hidden" in ask("ls", "-a", "looked").stdout
    assert ask("ls", "-l", "looked").stdout.splitlines()[1].startswith(b"-rw-r--r--")
    assert json.loads(ask("ls", "--json", "looked").stdout)[0]["name"] == "a.py"
    assert ask("find", "looked", "--name", "*.py").stdout == b"a.py\n"
    assert ask("grep", "needle", "looked").stdout == b"a.py:1:needle\n"
    (folder / "below" / "a.py").write_text("needle\n")
    assert ask("grep", "needle", "looked/a.py").stdout == b"a.py:1:needle\n"
    (folder / "below" / "a.py").unlink()
    assert ask("grep", "nothing", "looked").returncode == 1
    assert "└── below/" in ask("tree", "looked").stdout.decode()
    assert b"2 files" in ask("du", "looked").stdout


def test_what_is_made_moved_and_removed(ask: Ask, server: Server) -> None:
    cursor = ask("changes").stdout.split()[-1].decode()
    ask("mkdir", "made/deep")
    ask("mv", "made", "moved")
    changed = ask("changes", "--since", cursor).stdout.decode()

    assert "A moved" in changed
    assert ask("rm", ":moved").returncode == 1
    assert ask("rm", "-r", ":moved").returncode == 0
    assert ask("rm", "-f", ":moved").returncode == 0
    assert ask("rm", "moved").returncode == 1
    assert not (server.workdir / "moved").exists()


def test_who_is_refused_reads_the_name_once_and_how_a_path_is_written(ask: Ask) -> None:
    assert (
        ask("cat", "/nowhere").stderr == b"sandkeeper: stat /nowhere: no such file or directory\n"
    )
    hint = b"sandkeeper: /nowhere: process not found; a path is written :/nowhere\n"
    assert ask("rm", "/nowhere").stderr == hint
