"""MCP: file and code tools."""

import getpass
import json
import os
import threading
from pathlib import Path

import pytest
from tests.harness import Server
from tests.mcp_calls import Tools


@pytest.fixture
def work(server: Server) -> Path:
    return server.workdir


def test_the_working_directory_is_told(tools: Tools, work: Path) -> None:
    assert tools.value("fsGetWorkingDirectory") == {"path": str(work)}


def test_a_file_is_written_read_listed_and_deleted(tools: Tools, work: Path) -> None:
    done = tools.value("fsWriteFile", path="a/b.txt", content="héllo\n", permissions="0600")
    assert done == {"path": "a/b.txt", "message": "File created/updated successfully"}
    assert (work / "a/b.txt").stat().st_mode & 0o777 == 0o600

    read = tools.value("fsReadFile", path="a/b.txt")
    assert set(read) == {
        *("path", "name", "permissions", "size", "lastModified", "owner", "group", "content"),
    }
    assert (read["path"], read["name"], read["content"]) == ("a/b.txt", "b.txt", "héllo\n")
    assert (read["size"], read["permissions"], read["owner"]) == (7, "600", getpass.getuser())
    assert "." not in read["lastModified"]
    listed = tools.value("fsListDirectory", path="a")["directory"]
    assert [item["name"] for item in listed["files"]] == ["b.txt"]
    assert listed == tools.server.client.get("/filesystem/a").json()
    assert tools.value("codegenListDir", relativeWorkspacePath="a")["directory"] == listed
    assert tools.value("fsDeleteFileOrDirectory", path="a/b.txt") == {
        "path": "a/b.txt",
        "message": "File deleted successfully",
    }
    assert not (work / "a/b.txt").exists()


def test_a_directory_is_made_and_needs_recursive_when_full(tools: Tools, work: Path) -> None:
    made = tools.value("fsWriteFile", path="d/e", isDirectory=True)
    assert made["message"] == "Directory created successfully"
    (work / "d/e/f").write_text("x")

    assert "not empty" in tools.error("fsDeleteFileOrDirectory", path="d")
    done = tools.value("fsDeleteFileOrDirectory", path="d", recursive=True)
    assert done["message"] == "Directory deleted successfully"
    assert not (work / "d").exists()


def test_bad_permissions_are_the_default(tools: Tools, work: Path) -> None:
    tools.value("fsWriteFile", path="p.txt", content="", permissions="rw-r--r--")

    assert (work / "p.txt").stat().st_mode & 0o777 == 0o644


def test_bytes_that_are_not_utf8_come_as_replacement_characters(tools: Tools, work: Path) -> None:
    (work / "raw").write_bytes(b"a\xffb")
    os.makedirs(os.fsencode(work) + b"/odd/\xfe", exist_ok=True)

    assert tools.value("fsReadFile", path="raw")["content"] == "a�b"
    names = tools.value("fsListDirectory", path="odd")["directory"]["subdirectories"]
    assert names[0]["name"] == "�"


@pytest.mark.parametrize(
    ("tool", "arguments", "text"),
    [
        ("fsReadFile", {"path": "absent"}, "failed to read file: "),
        ("fsReadFile", {"path": ""}, "path is empty"),
        ("fsReadFile", {"path": "a\0b"}, "failed to read file: "),
        ("fsReadFile", {"path": "."}, "is a directory"),
        ("fsListDirectory", {"path": "/etc/passwd"}, "failed to list directory: "),
        ("fsWriteFile", {"path": "/proc/none/x", "content": ""}, "failed to write: "),
        ("fsDeleteFileOrDirectory", {"path": ""}, "path is empty"),
        ("fsDeleteFileOrDirectory", {"path": "absent"}, "not found"),
        ("fsDeleteFileOrDirectory", {"path": "/", "recursive": True}, "failed to delete: "),
        ("fsStat", {"path": "absent"}, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(
    tools: Tools, tool: str, arguments: dict[str, object], text: str
) -> None:
    assert text in tools.error(tool, **arguments)


def test_an_edit_needs_one_place_or_all(tools: Tools, work: Path) -> None:
    file = work / "edit.txt"
    file.write_text("one two\none two\none\n")
    file.chmod(0o751)

    assert tools.value("fsEditFile", path="edit.txt", oldString="two\none\n", newString="2\n") == {
        "path": "edit.txt",
        "occurrencesReplaced": 1,
    }
    text = tools.error("fsEditFile", path="edit.txt", oldString="one", newString="1")
    assert "2" in text
    file.write_text("one one one")
    assert "3" in tools.error("fsEditFile", path="edit.txt", oldString="one", newString="1")
    done = tools.value(
        "fsEditFile", path="edit.txt", oldString="one", newString="1", replaceAll=True
    )
    assert done["occurrencesReplaced"] == 3
    assert file.read_text() == "1 1 1"
    file.write_text("aaa")
    text = tools.error("fsEditFile", path="edit.txt", oldString="aa", newString="b")
    assert "occurs 2 times; give more" in text
    assert file.read_text() == "aaa"
    assert file.stat().st_mode & 0o777 == 0o751


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [("nowhere", "x", "not found"), ("same", "same", "identical"), ("", "x", "empty")],
)
def test_a_failed_edit_leaves_the_file(
    tools: Tools, work: Path, old: str, new: str, text: str
) -> None:
    (work / "keep.txt").write_text("same")

    assert text in tools.error("fsEditFile", path="keep.txt", oldString=old, newString=new)
    assert (work / "keep.txt").read_text() == "same"


def test_several_edits_are_made_all_or_none_and_only_on_the_known_state(
    tools: Tools, work: Path
) -> None:
    (work / "many.txt").write_text("a b c")
    state = tools.value("fsStat", path="many.txt")
    edits = [{"oldString": "a", "newString": "b"}, {"oldString": "b b", "newString": "x"}]

    text = tools.error(
        "fsApplyEdits", path="many.txt", edits=[*edits, {"oldString": "gone", "newString": ""}]
    )
    assert "edit 3: oldString not found" in text
    assert (work / "many.txt").read_text() == "a b c"
    done = tools.value("fsApplyEdits", path="many.txt", edits=edits, etag=state["etag"])
    assert (work / "many.txt").read_text() == "x c"
    assert done["occurrencesReplaced"] == 2
    assert "the file is now" in tools.error(
        "fsApplyEdits", path="many.txt", edits=[{"oldString": "x", "newString": "y"}],
        etag=state["etag"],
    )  # fmt: skip
    assert tools.value("fsStat", path="many.txt")["etag"] == done["etag"]


def test_concurrent_edits_of_one_file_are_all_kept(tools: Tools, work: Path) -> None:
    words = [f"word{number:02}" for number in range(12)]
    (work / "shared.txt").write_text("\n".join(words))

    def edit(word: str) -> None:
        while "being written" in json.dumps(
            tools.call("fsEditFile", path="shared.txt", oldString=word, newString=word.upper())
        ):
            pass

    threads = [threading.Thread(target=edit, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (work / "shared.txt").read_text() == "\n".join(words).upper()


def test_stat_tells_a_link_and_where_it_leads(tools: Tools, work: Path) -> None:
    (work / "target").write_text("12345")
    (work / "link").symlink_to("target")

    state = tools.value("fsStat", path="link")
    assert (state["type"], state["target"]) == ("symlink", "target")
    assert state["etag"] == tools.value("fsStat", path="target")["etag"]


# Code


def test_files_are_found_by_characters_of_their_names(make_server) -> None:
    own: Server = make_server()
    tools = Tools(own)
    for name in ("src/UserTable.ts", "src/other.ts", "docs/usertable.md"):
        path = own.workdir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    root = str(own.workdir)
    found = tools.value("codegenFileSearch", query="usrtb")
    assert found == {
        "success": True,
        "matches": [f"{root}/docs/usertable.md", f"{root}/src/UserTable.ts"],
        "query": "usrtb",
    }
    for directory in ("src", "./src", "./", f"{root}/src", "/src"):
        assert (
            f"{root}/src/UserTable.ts"
            in tools.value("codegenFileSearch", query="user", directory=directory)["matches"]
        )
    assert tools.value("codegenFileSearch", query="zzz")["matches"] == []
    assert "within workspace" in tools.error("codegenFileSearch", query="x", directory="../")
    sibling = own.workdir.with_name(own.workdir.name + "-secret")
    sibling.mkdir()
    text = tools.error("codegenFileSearch", query="x", directory=f"../{sibling.name}")
    assert "within workspace" in text
    assert "not found" in tools.error("codegenFileSearch", query="x", directory="none")
    for number in range(20):
        (own.workdir / f"file{number}").write_text("")
    assert len(tools.value("codegenFileSearch", query="file")["matches"]) == 10


def test_grep_searches_the_working_directory(make_server) -> None:
    own: Server = make_server()
    tools = Tools(own)
    (own.workdir / "a.py").write_text("def Hello():\n    pass\n")
    (own.workdir / "b.txt").write_text("hello\n")

    def names(**arguments: object) -> list[str]:
        text = tools.value("codegenGrepSearch", **arguments)["results"]
        records = [json.loads(line) for line in text.splitlines()]
        return sorted(r["data"]["path"]["text"] for r in records if r["type"] == "match")

    assert names(query="hel+o") == ["./a.py", "./b.txt"]
    assert names(query="hello", caseSensitive=True) == ["./b.txt"]
    assert names(query="hello", includePattern="*.py") == ["./a.py"]
    assert names(query="hello", excludePattern="*.py") == ["./b.txt"]
    assert names(query="nothing at all") == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"query": "("}, "unclosed group"),
        ({"query": "x" * 4000 + "("}, "unclosed group"),
        ({"query": "x\n" * 2000 + "("}, "unclosed group"),
        ({"query": "x", "includePattern": "{" * 3}, "unclosed alternate"),
        ({"query": "x", "includePattern": "a" * 9000 + "{"}, "unclosed alternate"),
    ],
)
def test_why_grep_refuses_a_pattern_is_said_whole_every_time(
    tools: Tools, work: Path, arguments: dict[str, str], reason: str
) -> None:
    for _ in range(8):
        text = tools.error("codegenGrepSearch", **arguments)
        assert "grep search failed: " in text
        assert reason in text
        assert len(text) < 1200


@pytest.mark.parametrize(
    "arguments",
    [
        {"query": "--pre=touch pwned"},
        {"query": "--pre", "includePattern": "touch"},
        {"query": "x", "includePattern": "--pre=touch"},
        {"query": "x", "excludePattern": "--hostname-bin=/bin/sh"},
        {"query": "-f/etc/passwd"},
        {"query": "--files"},
    ],
)
def test_no_argument_becomes_an_option_of_ripgrep(
    tools: Tools, work: Path, arguments: dict[str, str]
) -> None:
    (work / "x.txt").write_text("x\n")

    result = tools.call("codegenGrepSearch", **arguments)
    assert not (work / "pwned").exists()
    assert "root:" not in json.dumps(result)
    if not result.get("isError"):
        text = result["structuredContent"]["results"]
        assert all(json.loads(line)["type"] for line in text.splitlines())


def test_grep_results_are_bounded_and_whole_lines(make_server) -> None:
    own: Server = make_server()
    (own.workdir / "big.txt").write_text("needle in the hay\n" * 20_000)

    found = Tools(own).value("codegenGrepSearch", query="needle")
    assert found["truncated"] is True
    assert len(found["results"]) <= 1 << 20
    assert all(json.loads(line) for line in found["results"].splitlines())


@pytest.mark.parametrize(
    ("first", "last", "content"),
    [(1, 1, "1"), (2, 3, "2\n3"), (1, 4, "1\n2\n3\n"), (2, 1, "")],
)
def test_a_range_of_lines_is_read(
    tools: Tools, work: Path, first: int, last: int, content: str
) -> None:
    (work / "lines").write_text("1\n2\n3\n")

    assert tools.value(
        "codegenReadFileRange", targetFile="lines", startLineOneIndexed=first,
        endLineOneIndexedInclusive=last,
    ) == {"success": True, "content": content, "file": "lines"}  # fmt: skip


@pytest.mark.parametrize(("first", "last"), [(3, 1), (0, 1), (1, -5), (5, 1), (1, 5), (-1, -1)])
def test_an_impossible_range_is_an_error_and_the_server_lives(
    tools: Tools, work: Path, first: int, last: int
) -> None:
    (work / "lines").write_text("1\n2\n3\n")

    text = tools.error(
        "codegenReadFileRange", targetFile="lines", startLineOneIndexed=first,
        endLineOneIndexedInclusive=last,
    )  # fmt: skip
    assert text == "invalid line range"
    assert tools.value("fsGetWorkingDirectory")


def test_without_a_provider_the_code_tools_say_so(tools: Tools) -> None:
    assert {"codegenEditFile", "codegenRerank"}.isdisjoint(tools.listed())
    region = {"relativeWorkspacePath": "x", "startLine": 1, "endLine": None}
    for tool, arguments in (
        ("codegenCodebaseSearch", {"query": "x"}),
        ("codegenReapply", {"targetFile": "x"}),
        ("codegenParallelApply", {"editPlan": "x", "editRegions": [region]}),
    ):
        assert "codegen tools are not configured" in tools.error(tool, **arguments)


def test_with_a_provider_code_is_edited_and_ranked(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_LOCAL_CODEGEN": "1"})
    tools = Tools(own)
    assert {"codegenEditFile", "codegenRerank"} <= set(tools.listed())
    (own.workdir / "src").mkdir()
    code = own.workdir / "src/money.py"
    code.write_text("def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n")
    (own.workdir / "weather.txt").write_text("rain and sun\n")
    edit = "def add(a, b):\n    return b + a\n\n\ndef sub(a, b):\n    # ... existing code ...\n"

    done = tools.value(
        "codegenEditFile", targetFile="src/money.py", instructions="I swap them.", codeEdit=edit
    )
    assert (done["filePath"], done["changesApplied"]) == ("src/money.py", edit)
    assert "return b + a" in code.read_text()
    assert "def sub" in code.read_text()
    assert tools.value("codegenReapply", targetFile="src/money.py")["success"] is True
    assert "no edit" in tools.error("codegenReapply", targetFile="weather.txt")
    ranked = tools.value("codegenRerank", path=".", query="add money", scoreThreshold=0)
    assert ranked["files"][0]["path"] == "src/money.py"
    found = tools.value("codegenCodebaseSearch", query="add money", targetDirectories=["s*"])
    assert [item["path"] for item in found["results"]] == ["src/money.py"]
    assert found["results"][0]["startLine"] == 1
    region = {"relativeWorkspacePath": "src/money.py"}
    text = tools.error("codegenParallelApply", editPlan="swap", editRegions=[region])
    assert "codegenEditFile" in text


def test_what_is_said_to_be_no_directory_is_not_deleted_as_one(
    server: Server, tools: Tools, tmp_path: Path
) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    told = tools.error(
        "fsDeleteFileOrDirectory", path=str(tmp_path / "tree"), isDirectory=False, recursive=True
    )

    assert "is a directory" in told
    assert (tmp_path / "tree/deep").is_dir()
    tools.value("fsDeleteFileOrDirectory", path=str(tmp_path / "file"), isDirectory=False)
    tools.value("fsDeleteFileOrDirectory", path=str(tmp_path / "tree"), recursive=True)
    assert list(tmp_path.iterdir()) == []
