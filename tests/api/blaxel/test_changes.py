"""What changed since a cursor, over HTTP."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.harness import Server, until

URL = "/filesystem-changes"


def changes(server: Server, path: str = "/", **params: str) -> dict[str, Any]:
    reply = server.client.get(URL + path, params=params)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def lists(body: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    assert body["reset"] is False
    return body["created"], body["changed"], body["deleted"]


def test_a_first_call_gives_a_cursor_and_later_ones_the_difference(make_server: Any) -> None:
    server = make_server()
    work = server.workdir
    (work / "kept").write_text("1")
    (work / "gone").write_text("1")
    first = changes(server)
    assert first["reset"] is True
    assert first["path"] == str(work)

    cursor = first["cursor"]
    assert lists(changes(server, since=cursor)) == ([], [], [])
    (work / "kept").write_text("2")
    (work / "gone").unlink()
    (work / "new" / "deep").mkdir(parents=True)
    (work / "new" / "deep" / "file").touch()
    (work / "brief").touch()
    (work / "brief").unlink()
    answer = changes(server, since=cursor)
    assert lists(answer) == (["new", "new/deep", "new/deep/file"], ["kept"], ["gone"])
    assert lists(changes(server, since=answer["cursor"])) == ([], [], [])
    assert lists(changes(server, since=cursor)) == lists(answer)


def test_every_change_before_a_call_is_in_its_answer(make_server: Any) -> None:
    server = make_server()
    cursor = changes(server)["cursor"]
    for round_ in range(20):
        made = []
        for index in range(100):
            name = f"{round_:02}-{index:03}"
            (server.workdir / name).touch()
            made.append(name)
        answer = changes(server, since=cursor)
        assert answer["created"] == made
        cursor = answer["cursor"]


def test_a_cursor_that_is_not_known_is_answered_by_a_reset(make_server: Any) -> None:
    server = make_server()
    good = changes(server)["cursor"]
    for cursor in ("nonsense", "a.b", good + "999", "0" * 16 + ".1", good.split(".")[0], "\0"):
        answer = changes(server, since=cursor)
        assert answer["reset"] is True
        assert lists(changes(server, since=answer["cursor"])) == ([], [], [])
    server.restart()
    assert changes(server, since=good)["reset"] is True


def test_directories_have_their_own_records_and_ignored_texts_hide(make_server: Any) -> None:
    server = make_server()
    (server.workdir / "a" / "node_modules").mkdir(parents=True)
    whole = changes(server)["cursor"]
    part = changes(server, "/a", ignore="node_modules")["cursor"]
    (server.workdir / "a" / "node_modules" / "x").touch()
    (server.workdir / "a" / "y").touch()

    assert changes(server, since=whole)["created"] == ["a/node_modules/x", "a/y"]
    assert changes(server, "/a", ignore="node_modules", since=part)["created"] == ["y"]
    assert changes(server, since=part)["reset"] is True


def test_a_directory_that_went_and_came_is_a_reset(make_server: Any) -> None:
    server = make_server()
    folder = server.workdir / "d"
    folder.mkdir()
    cursor = changes(server, "/d")["cursor"]
    shutil.rmtree(folder)
    reply = server.client.get(URL + "/d", params={"since": cursor})
    assert (reply.status_code, reply.json()) == (400, {"error": "path is not a directory"})
    folder.mkdir()
    assert changes(server, "/d", since=cursor)["reset"] is True


def test_recorders_are_few(make_server: Any) -> None:
    server = make_server()
    for index in range(12):
        (server.workdir / str(index)).mkdir()
        changes(server, f"/{index}")

    def watched() -> int:
        count = 0
        for fd in Path(f"/proc/{server.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):
                count += fd.read_text().count("inotify wd:")
        return count

    until(lambda: watched() == 8)
