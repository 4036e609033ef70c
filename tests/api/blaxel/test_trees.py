"""Trees and copies over HTTP."""

import os
import stat
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, needs_root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with one of everything."""
    root = tmp_path / "tree"
    (root / "src/deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "node_modules").mkdir()
    (root / "empty").mkdir()
    (root / "a.py").write_text("print('ä')")
    (root / "src/b.py").write_text("")
    (root / "src/deep/c.txt").write_text("see")
    (root / ".hidden/d.py").write_text("d")
    (root / "node_modules/e.py").write_text("e")
    (root / "link").symlink_to("a.py")
    (root / "dangling").symlink_to("nowhere")
    (root / "to-dir").symlink_to("src")
    os.mkfifo(root / "pipe")
    return root


def get_tree(server: Server, root: object, **query: str) -> httpx.Response:
    return server.client.get(f"/filesystem/tree/{root}", params=query)


def test_a_tree_without_recursive_is_one_level(server: Server, tree: Path) -> None:
    body = get_tree(server, tree).json()

    assert "recursive" not in body
    assert {d["name"] for d in body["subdirectories"]} == {
        "src",
        ".hidden",
        "node_modules",
        "empty",
    }
    assert body["path"] == str(tree)
    for url in ["/filesystem/tree", "/filesystem/tree/", "/filesystem/tree//"]:
        assert server.client.get(url).json()["path"] == "/"
    encoded = server.client.get(f"/filesystem/tree%2F{str(tree)[1:]}")
    assert encoded.json()["path"] == str(tree)


def test_a_recursive_tree_has_everything_below_with_contents(server: Server, tree: Path) -> None:
    body = get_tree(server, tree, recursive="true", content="true").json()

    assert body["recursive"] is True
    contents = {f["path"].removeprefix(f"{tree}/"): f.get("content") for f in body["files"]}
    assert contents == {
        "a.py": "print('ä')",
        "src/b.py": "",
        "src/deep/c.txt": "see",
        ".hidden/d.py": "d",
        "node_modules/e.py": "e",
        "link": "print('ä')",
        "dangling": None,
        "to-dir": None,
        "pipe": None,
    }
    assert [d["path"].removeprefix(f"{tree}/") for d in body["subdirectories"]] == [
        ".hidden",
        "empty",
        "node_modules",
        "src",
        "src/deep",
    ]
    assert body["subdirectories"][-1]["name"] == "deep"
    without = get_tree(server, tree, recursive="true").json()
    assert all("content" not in entry for entry in without["files"])


def test_a_recursive_tree_is_filtered_by_pattern_directory_and_dot(
    server: Server, tree: Path
) -> None:
    def names(**query: str) -> list[str]:
        body = get_tree(server, tree, recursive="true", **query).json()
        return [entry["name"] for entry in body["files"]]

    assert names(patterns="*.py") == ["d.py", "a.py", "e.py", "b.py"]
    assert names(patterns="*.py, c.*", excludeDirs="node_modules", excludeHidden="true") == [
        "a.py",
        "b.py",
        "c.txt",
    ]
    assert names(patterns="[") == []
    excluded = get_tree(server, tree, recursive="true", excludeDirs="src,deep").json()
    assert "src" not in {d["name"] for d in excluded["subdirectories"]}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"maxFiles": "8"}, 422),
        ({"maxFiles": "9"}, 200),
        ({"content": "true", "maxBytes": "10"}, 422),
        ({"content": "true", "maxBytes": "31"}, 200),
        ({"maxBytes": "1"}, 200),
        ({"maxFiles": "-1"}, 400),
        ({"maxBytes": "x"}, 400),
    ],
)
def test_a_tree_past_a_limit_is_refused_as_a_whole(
    server: Server, tree: Path, query: dict[str, str], status: int
) -> None:
    reply = get_tree(server, tree, recursive="true", **query)

    assert reply.status_code == status, reply.text
    assert ("error" in reply.json()) == (status != 200)


@pytest.mark.parametrize("query", [{}, {"recursive": "true"}])
def test_a_tree_of_no_directory_is_a_400(server: Server, tree: Path, query: dict[str, str]) -> None:
    for path in [f"{tree}/none", f"{tree}/a.py", f"{tree}/a.py/x"]:
        reply = get_tree(server, path, **query)
        assert (reply.status_code, reply.json()) == (400, {"error": "path is not a directory"})


def put_tree(server: Server, root: object, files: Any) -> httpx.Response:
    return server.client.put(f"/filesystem/tree/{root}", json={"files": files})


def test_a_tree_is_written_and_its_listing_returned(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "new"

    reply = put_tree(server, root, {"a.txt": "A", "sub/b.txt": "B", "/c.txt": "C", "./d": "D"})

    assert reply.status_code == 200
    assert [f["name"] for f in reply.json()["files"]] == ["a.txt", "c.txt", "d"]
    assert reply.json()["path"] == str(root)
    assert (root / "sub/b.txt").read_text() == "B"
    assert put_tree(server, tmp_path / "bare", {}).json()["files"] == []
    relative = server.client.put("/filesystem/tree", json={"files": {f"{tmp_path}/abs": "x"}})
    assert relative.json()["path"] == "/"
    assert (tmp_path / "abs").read_text() == "x"


@pytest.mark.parametrize("key", ["../out", "a/../../out", "", ".", "/", "a/.."])
def test_a_key_that_leads_out_of_the_tree_is_refused(
    server: Server, tmp_path: Path, key: str
) -> None:
    reply = put_tree(server, tmp_path / "root", {"fine": "x", key: "y"})

    assert reply.status_code == 400, reply.text
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "out").exists()


def test_a_tree_of_which_one_file_fails_changes_nothing(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "taken").mkdir(parents=True)
    (root / "a").write_text("old")

    directory = put_tree(server, root, {"a": "new", "made/b": "x", "taken": "x"})
    nul = put_tree(server, root, {"a": "new", "made/b\0": "x"})
    both = put_tree(server, root, {"a": "new", "x": "file", "x/y": "in a file"})

    assert (directory.status_code, nul.status_code, both.status_code) == (422, 422, 400)
    assert directory.json()["error"] == f"error writing file: open {root}/taken: is a directory"
    assert (root / "a").read_text() == "old"
    assert sorted(os.listdir(root)) == ["a", "taken"]


def test_a_tree_is_deleted_only_if_it_is_a_directory(server: Server, tree: Path) -> None:
    def delete(path: object, **query: str) -> tuple[int, str]:
        reply = server.client.delete(f"/filesystem/tree/{path}", params=query)
        return reply.status_code, reply.json().get("error") or reply.json()["message"]

    assert delete(tree)[0] == 422
    status, text = delete(f"{tree}/a.py", recursive="true")
    assert (status, "path points to a file, not a directory" in text) == (422, True)
    status, text = delete(f"{tree}/none", recursive="true")
    assert (status, text.startswith("error deleting directory: stat ")) == (422, True)
    assert delete(tree, recursive="true") == (200, "Directory deleted successfully")
    assert not tree.exists()


def copy(server: Server, source: object, destination: object, **more: Any) -> httpx.Response:
    body = {"source": str(source), "destination": str(destination), **more}
    return server.client.post("/filesystem-copy", json=body)


def test_a_tree_is_copied_with_links_modes_and_dot_files(server: Server, tree: Path) -> None:
    (tree / "pipe").unlink()
    os.chmod(tree / "src", 0o500)
    os.chmod(tree / "a.py", 0o711)

    reply = copy(server, tree, f"{tree}-copy")

    assert reply.status_code == 200, reply.text
    made = Path(f"{tree}-copy")
    assert (made / ".hidden/d.py").read_text() == "d"
    assert os.readlink(made / "dangling") == "nowhere"
    assert os.readlink(made / "to-dir") == "src"
    assert stat.S_IMODE((made / "src").stat().st_mode) == 0o500
    assert stat.S_IMODE((made / "a.py").stat().st_mode) == 0o711
    assert (made / "src/deep/c.txt").read_text() == "see"


def test_a_copy_onto_a_directory_goes_inside_and_merges(server: Server, tree: Path) -> None:
    (tree / "pipe").unlink()
    target = tree.parent / "target"
    target.mkdir()
    link = tree.parent / "target-link"
    link.symlink_to("target")

    assert copy(server, f"{tree}/a.py", link).json()["path"] == f"{link}/a.py"
    assert (target / "a.py").exists()
    assert copy(server, tree, target).status_code == 200
    (target / "tree/a.py").write_text("changed")
    (target / "tree/extra").write_text("stays")
    assert copy(server, tree, target).status_code == 200
    assert (target / "tree/a.py").read_text() == "print('ä')"
    assert (target / "tree/extra").read_text() == "stays"


def test_without_overwriting_an_existing_target_is_a_409_and_untouched(
    server: Server, tree: Path
) -> None:
    parent = tree.parent
    (parent / "file").write_text("old")
    (parent / "dangling").symlink_to("nowhere")
    (parent / "dir/src").mkdir(parents=True)

    for source, destination in [
        (f"{tree}/a.py", parent / "file"),
        (f"{tree}/a.py", parent / "dangling"),
        (f"{tree}/link", parent / "file"),
        (f"{tree}/src", parent / "file"),
        (f"{tree}/src", parent / "dir"),
    ]:
        reply = copy(server, source, destination, noOverwrite=True)
        assert reply.status_code == 409, (source, destination, reply.text)
        assert reply.json()["code"] == "FILE_ALREADY_EXISTS"
        assert reply.json()["error"]
    assert (parent / "file").read_text() == "old"
    assert os.readlink(parent / "dangling") == "nowhere"
    assert os.listdir(parent / "dir/src") == []
    fresh = copy(server, f"{tree}/src", parent / "fresh", noOverwrite=True)
    assert fresh.status_code == 200
    assert (parent / "fresh/deep/c.txt").read_text() == "see"


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_of_racing_exclusive_copies_exactly_one_wins(
    server: Server, tmp_path: Path, kind: str
) -> None:
    sources = []
    for number in range(6):
        source = tmp_path / f"s{number}"
        if kind == "file":
            source.write_text(str(number))
        elif kind == "directory":
            source.mkdir()
            (source / "f").write_text(str(number))
        else:
            source.symlink_to(str(number))
        sources.append(source)
    statuses: list[int] = []

    def race(source: Path) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            body = {
                "source": str(source),
                "destination": str(tmp_path / "t" / "x"),
                "noOverwrite": True,
            }
            statuses.append(client.post("/filesystem-copy", json=body).status_code)

    (tmp_path / "t").mkdir()
    threads = [threading.Thread(target=race, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = statuses.count(200)
    # A directory that lost the race goes inside the winner's, as the placement rule says.
    assert winners == 1 if kind != "directory" else winners >= 1
    assert set(statuses) <= {200, 409}
    assert [n for n in os.listdir(tmp_path / "t") if n != "x"] == []


def test_what_cannot_be_copied_is_a_422(server: Server, tree: Path) -> None:
    parent = tree.parent
    (parent / "file").write_text("old")
    for source, destination in [
        (tree, f"{tree}/inside"),
        (tree, tree / "src"),
        (tree, parent),
        (f"{tree}/a.py", f"{tree}/a.py"),
        (f"{tree}/none", parent / "x"),
        (f"{tree}/a.py", f"{parent}/no/parent"),
        (f"{tree}/pipe", parent / "x"),
        (f"{tree}/src", parent / "file"),
        ("/dev/zero", parent / "x"),
        (f"{tree}/a.py", f"{parent}/nul\0"),
    ]:
        reply = copy(server, source, destination)
        assert reply.status_code == 422, (source, destination, reply.text)
        assert reply.json()["error"]
    assert not (parent / "x").exists()
    assert not (tree / "inside").exists()
    assert (parent / "file").read_text() == "old"
    for body in [{}, {"source": "a"}, {"source": "", "destination": "b"}]:
        assert server.client.post("/filesystem-copy", json=body).status_code == 400


def test_relative_paths_of_a_copy_stand_below_the_working_directory(server: Server) -> None:
    (server.workdir / "rel.txt").write_text("r")

    assert copy(server, "rel.txt", "rel-copy.txt").status_code == 200
    assert (server.workdir / "rel-copy.txt").read_text() == "r"


def test_a_move_renames_and_keeps_what_is_there_on_request(server: Server, tree: Path) -> None:
    def move(source: object, destination: object, **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"source": str(source), "destination": str(destination), **more}
        return server.client.post("/filesystem-move", json=body, headers=headers)

    parent = tree.parent
    (parent / "old").write_text("old")

    assert move(tree / "a.py", parent / "old", noOverwrite=True).status_code == 409
    assert (tree / "a.py").exists()
    tag = server.client.head(f"/filesystem/{tree}/a.py").headers["etag"]
    assert move(tree / "a.py", parent / "x", headers={"If-Match": '"x"'}).status_code == 412
    assert move(tree / "a.py", parent / "old", headers={"If-Match": tag}).status_code == 200
    assert (parent / "old").read_text() == "print('ä')"
    assert move(tree / "src", parent / "moved").json()["path"] == f"{parent}/moved"
    assert (parent / "moved/deep/c.txt").exists()
    assert move(tree / "src", parent / "y").status_code == 404
    assert move(tree, tree / "empty" / "x").status_code == 422
    assert move("/", parent / "z").status_code == 422


@needs_root
def test_a_move_to_another_file_system_keeps_owner_mode_and_times(
    server: Server, tree: Path
) -> None:
    shm = Path("/dev/shm") / f"sandkeeper-{os.getpid()}"
    if os.stat("/dev/shm").st_dev == os.stat(tree).st_dev:
        raise AssertionError("this test needs /dev/shm to be another file system")
    (tree / "pipe").unlink()
    os.chown(tree / "src/b.py", 1234, 1234)
    os.chmod(tree / "src/b.py", 0o4711)
    os.utime(tree / "src/b.py", (1_600_000_000, 1_600_000_000))
    body = {"source": str(tree), "destination": str(shm)}
    try:
        reply = server.client.post("/filesystem-move", json=body)

        assert reply.status_code == 200, reply.text
        info = (shm / "src/b.py").stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (1234, 0o4711)
        assert info.st_mtime == 1_600_000_000
        assert not tree.exists()
    finally:
        server.client.delete(f"/filesystem/{shm}?recursive=true")
