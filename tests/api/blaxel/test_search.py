"""Searching over HTTP: by pattern, by fuzzy query, by content."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, children_of, until


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(scope="module")
def project(server: Server) -> Path:
    return tree(
        server.workdir / "project",
        {
            "main.go": "package main\n",
            "README.md": "# Read me\nTODO: write\n",
            "pkg/b.go": "func b() {}\n// todo later\n",
            "pkg/a.go": "func a() {}\n",
            "pkg/deep/c.go": "one\ntwo\nthree todo\nfour\nfive\n",
            "node_modules/x/index.go": "todo in a module\n",
            ".hidden/h.go": "todo hidden\n",
            "docs/guide.md": "no mark\n",
        },
    )


def get(server: Server, path: str, **params: Any) -> dict[str, Any]:
    reply = server.client.get(path, params=params)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    assert body["total"] == len(body["matches"])
    return body


def paths(body: dict[str, Any]) -> list[str]:
    return [match["path"] for match in body["matches"]]


FIND = "/filesystem-find/project"


def test_find_yields_files_in_lexical_pre_order(server: Server, project: Path) -> None:
    body = get(server, FIND)

    assert paths(body) == [
        "README.md",
        "docs/guide.md",
        "main.go",
        "pkg/a.go",
        "pkg/b.go",
        "pkg/deep/c.go",
    ]
    assert {match["type"] for match in body["matches"]} == {"file"}


def test_find_filters_by_patterns_limits_hidden_and_excluded(server: Server, project: Path) -> None:
    assert len(paths(get(server, FIND, patterns="*.go"))) == 4
    assert len(paths(get(server, FIND, patterns=" *.md , nothing"))) == 2
    assert paths(get(server, FIND, patterns="[a-b].go")) == ["pkg/a.go", "pkg/b.go"]
    assert paths(get(server, FIND, patterns="[a.go")) == []
    assert paths(get(server, FIND, maxResults=2)) == ["README.md", "docs/guide.md"]
    assert "node_modules/x/index.go" in paths(get(server, FIND, excludeDirs="docs"))
    assert "node_modules/x/index.go" in paths(get(server, FIND, excludeDirs=","))
    assert "node_modules/x/index.go" not in paths(get(server, FIND, excludeDirs=""))
    assert ".hidden/h.go" in paths(get(server, FIND, excludeHidden="false"))
    assert ".hidden/h.go" not in paths(get(server, FIND, excludeHidden="true"))


def test_find_of_directories_has_the_root_as_a_dot_and_ignores_patterns(
    server: Server, project: Path
) -> None:
    body = get(server, FIND, type="directory", patterns="*.go")

    assert paths(body) == [".", "docs", "pkg", "pkg/deep"]
    assert {match["type"] for match in body["matches"]} == {"directory"}


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"type": "link"}, "invalid search type: link"),
        ({"maxResults": "-1"}, "invalid maxResults: -1"),
        ({"maxResults": "many"}, "invalid maxResults: many"),
    ],
)
def test_find_refuses_wrong_parameters(
    server: Server, project: Path, params: dict[str, str], error: str
) -> None:
    reply = server.client.get(FIND, params=params)

    assert (reply.status_code, reply.json()) == (400, {"error": error})


def test_find_of_a_missing_root_is_the_callers_error(server: Server) -> None:
    for params in ({}, {"maxResults": "0"}, {"type": "directory"}):
        reply = server.client.get("/filesystem-find//no/such/dir", params=params)

        assert reply.status_code == 422
        assert reply.json()["error"].endswith("/no/such/dir: no such file or directory")


def test_a_root_with_an_excluded_or_hidden_name_is_searched(server: Server) -> None:
    tree(server.workdir / "dist", {"a.txt": "hit\n"})
    tree(server.workdir / ".secret", {"b.txt": ""})

    assert paths(get(server, "/filesystem-find/dist")) == ["a.txt"]
    assert paths(get(server, "/filesystem-find/.secret")) == ["b.txt"]
    assert paths(get(server, "/filesystem-content-search/dist", query="hit")) == ["a.txt"]


def test_links_are_files_and_are_not_followed(server: Server) -> None:
    root = tree(server.workdir / "links", {"real/x.txt": "needle\n"})
    (root / "loop").symlink_to(".")
    (root / "gone").symlink_to("nowhere")

    assert paths(get(server, "/filesystem-find/links")) == ["gone", "loop", "real/x.txt"]
    found = get(server, "/filesystem-content-search/links", query="needle")
    assert paths(found) == ["real/x.txt"]


def test_find_without_a_limit_returns_everything(server: Server) -> None:
    root = server.workdir / "wide"
    for folder in range(3):
        (root / f"d{folder}").mkdir(parents=True)
        for index in range(3000):
            (root / f"d{folder}" / f"f{index:04}").touch()

    every = paths(get(server, "/filesystem-find/wide", maxResults=0))
    assert every == [f"d{folder}/f{index:04}" for folder in range(3) for index in range(3000)]
    assert len(paths(get(server, "/filesystem-find/wide", maxResults=5000))) == 1000


def test_names_of_any_bytes_are_found(server: Server) -> None:
    root = server.workdir / "names"
    root.mkdir()
    for name in (b"new\nline", b"quote\"'", b"bad\xff.txt", "é.txt".encode(), b"x" * 255):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"needle\n")

    expected = ["bad\ufffd.txt", "new\nline", "quote\"'", "x" * 255, "é.txt"]
    assert paths(get(server, "/filesystem-find/names")) == expected
    assert paths(get(server, "/filesystem-content-search/names", query="needle")) == expected
    assert paths(get(server, "/filesystem-find/names", maxResults=0)) == expected
    fuzzy = paths(get(server, "/filesystem-search/names", query="txt"))
    assert sorted(fuzzy) == ["bad\ufffd.txt", "é.txt"]


def test_fuzzy_search_ranks_by_score(server: Server, project: Path) -> None:
    body = get(server, "/filesystem-search/project", query="go")

    assert paths(body)[0] == "main.go"
    scores = [match["score"] for match in body["matches"]]
    assert scores == sorted(scores, reverse=True)
    dirs = [match for match in body["matches"] if match["type"] == "directory"]
    assert [match["path"] for match in dirs] == []
    assert paths(get(server, "/filesystem-search/project", query="pkgc"))[0] == "pkg/deep/c.go"
    kinds = get(server, "/filesystem-search/project", query="deep")["matches"]
    assert kinds[0] == {"path": "pkg/deep", "score": kinds[0]["score"], "type": "directory"}


def test_fuzzy_search_honours_patterns_and_limits(server: Server, project: Path) -> None:
    url = "/filesystem-search/project"

    assert paths(get(server, url, query="d", patterns="*.md")) == ["docs/guide.md", "README.md"]
    assert len(paths(get(server, url, query="o", maxResults=1))) == 1
    assert paths(get(server, url, query="zzz")) == []
    assert get(server, "/filesystem-search/no-such", query="x")["matches"] == []
    assert server.client.get(url, params={"query": "x" * 300}).status_code == 400


def test_fuzzy_search_without_a_query_takes_the_path_for_it(server: Server, project: Path) -> None:
    for path in ("/filesystem-search/", "/filesystem-search//", "/filesystem-search/%2E"):
        reply = server.client.get(path)
        assert reply.status_code == 400
        assert reply.json() == {"error": "query parameter is required in path"}
    assert "project/main.go" in paths(get(server, "/filesystem-search/main"))
    assert get(server, "/filesystem-search/project")["total"] == 0


def content(server: Server, **params: Any) -> list[dict[str, Any]]:
    body = get(server, "/filesystem-content-search/project", **params)
    assert body["query"] == params["query"]
    matches: list[dict[str, Any]] = body["matches"]
    return matches


def test_content_search_tells_path_line_column_and_text_in_stable_order(
    server: Server, project: Path
) -> None:
    assert content(server, query="todo") == [
        {"path": ".hidden/h.go", "line": 1, "column": 1, "text": "todo hidden"},
        {"path": "README.md", "line": 2, "column": 1, "text": "TODO: write"},
        {"path": "pkg/b.go", "line": 2, "column": 4, "text": "// todo later"},
        {"path": "pkg/deep/c.go", "line": 3, "column": 7, "text": "three todo"},
    ]
    assert [m["path"] for m in content(server, query="TODO", caseSensitive="true")] == ["README.md"]
    assert content(server, query="nothing has this") == []


def test_content_search_filters_and_limits(server: Server, project: Path) -> None:
    def where(**params: Any) -> list[str]:
        return [match["path"] for match in content(server, query="todo", **params)]

    assert where(filePattern="*.md") == ["README.md"]
    assert where(filePattern="[a-b].go") == ["pkg/b.go"]
    assert where(filePattern="{b,c}.go") == []
    assert where(excludeDirs="pkg") == [".hidden/h.go", "README.md", "node_modules/x/index.go"]
    assert where(maxResults=2) == [".hidden/h.go", "README.md"]
    assert len(where(maxResults=0)) == 4
    assert where(recursive="false") == ["README.md"]
    assert len(where(excludeDirs="a\0b,c/d," + "x" * 300)) == 5
    many = ",".join(map(str, range(2000)))
    refused = server.client.get("/filesystem-find/project", params={"excludeDirs": many})
    assert refused.status_code == 400
    for params in ({"maxResults": "x"}, {"contextLines": "-1"}, {"recursive": "some"}):
        reply = server.client.get(
            "/filesystem-content-search/project", params={"query": "a", **params}
        )
        assert reply.status_code == 400


def test_content_search_gives_the_lines_around_a_match(server: Server, project: Path) -> None:
    found = content(server, query="todo", filePattern="c.go", contextLines=1)
    assert found[0]["context"] == "two\nthree todo\nfour"
    wide = content(server, query="todo", filePattern="c.go", contextLines=50)
    assert wide[0]["context"] == "one\ntwo\nthree todo\nfour\nfive"
    assert "context" not in content(server, query="todo", contextLines=0)[0]


def test_a_query_is_neither_an_option_nor_a_pattern(server: Server) -> None:
    tree(server.workdir / "literal", {"a": "x --version y\nf(.*)\n", "-b": "--version\n"})
    url = "/filesystem-content-search/literal"

    assert get(server, url, query="--version")["total"] == 2
    assert paths(get(server, url, query="(.*)")) == ["a"]
    for odd in ("a\nb", "a\0b", "--", "-e", "\ufffd"):
        assert get(server, url, query=odd)["total"] >= 0
    assert server.client.get(url).json() == {"error": "query parameter is required"}
    assert server.client.get(url, params={"query": "x" * 5000}).status_code == 400


def test_content_search_needs_a_directory(server: Server, project: Path) -> None:
    for path in ("//no/such", "/project/main.go"):
        reply = server.client.get(f"/filesystem-content-search{path}", params={"query": "x"})
        assert reply.status_code == 400, path


def test_content_search_of_a_doubled_slash_is_the_working_directory(
    server: Server, project: Path
) -> None:
    found = paths(get(server, "/filesystem-content-search//", query="# Read me"))

    assert found == ["project/README.md"]


def test_binary_files_pseudo_file_systems_and_special_files_are_passed_over(
    server: Server,
) -> None:
    root = server.workdir / "odd"
    root.mkdir()
    (root / "bin").write_bytes(b"needle\n" + b"a" * 200_000 + b"\0needle")
    (root / "nul").write_bytes(b"\0needle\n")
    os.mkfifo(root / "fifo")
    (root / "latin").write_bytes(b"caf\xe9 needle\r\n")

    found = get(server, "/filesystem-content-search/odd", query="needle")["matches"]
    assert found == [{"path": "latin", "line": 1, "column": 6, "text": "caf\ufffd needle\r"}]
    reply = server.client.get("/filesystem-content-search/%2Fproc", params={"query": "Linux"})
    assert reply.json()["matches"] == []


def test_a_very_long_line_is_cut_but_found(server: Server) -> None:
    root = server.workdir / "long"
    root.mkdir()
    (root / "bundle.js").write_bytes(b"first\n" + b'"\\a' * 1_000_000 + b" needle" * 50_000 + b"\n")

    (match,) = get(server, "/filesystem-content-search/long", query="needle")["matches"]
    assert (match["path"], match["line"], match["column"]) == ("bundle.js", 2, 3_000_002)
    assert match["text"] == ('"\\a' * 3000)[:8192]


def test_long_lines_are_cut_at_characters(server: Server) -> None:
    root = server.workdir / "cut"
    root.mkdir()
    for front in range(4):
        line = "x" * front + "needle" + "漢" * 40_000
        (root / f"{front}.txt").write_text(f"before {'é' * 9000}\n{line}\nafter\n")
    matches = get(server, "/filesystem-content-search/cut", query="needle", contextLines=1)[
        "matches"
    ]

    assert len(matches) == 4
    for match in matches:
        assert "\ufffd" not in match["text"] + match["context"]
        assert 8180 < len(match["text"].encode()) <= 8192


def test_a_common_text_in_many_files_is_cut_at_the_limit_in_order(server: Server) -> None:
    root = server.workdir / "common"
    for index in range(200):
        tree(root, {f"d{index % 10}/f{index:03}": "needle here\n" * 100})

    found = get(server, "/filesystem-content-search/common", query="needle", maxResults=250)
    expected = [f"d0/f{index:03}" for index in (0, 10, 20)]
    assert [match["path"] for match in found["matches"]] == [
        *(expected[0:1] * 100),
        *(expected[1:2] * 100),
        *(expected[2:3] * 50),
    ]
    assert (
        get(server, "/filesystem-content-search/common", query="e", maxResults=0)["total"] == 10_000
    )


def test_head_looks_nothing_up_and_a_missing_slash_is_redirected(server: Server) -> None:
    for route in ("filesystem-find", "filesystem-search", "filesystem-content-search"):
        assert server.client.head(f"/{route}//no/such").status_code == 200
        reply = server.client.get(f"/{route}?query=a", follow_redirects=False)
        assert (reply.status_code, reply.headers["location"]) == (301, f"/{route}/?query=a")


def test_a_client_that_goes_ends_its_search(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /filesystem-content-search/%2F?query=zzqzz&excludeDirs=, HTTP/1.1\r\n")
        sock.sendall(b"Host: localhost\r\n\r\n")
        until(lambda: children_of(server.pid, "rg"))

    until(lambda: not children_of(server.pid, "rg"))
