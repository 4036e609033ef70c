"""Git as a service: against bare repositories on disk and `git http-backend`."""

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.githttp import GitHttp, git, git_http
from tests.harness import Server, alive, needs_root, resident, until

ADA = {"name": "Ada", "email": "ada@example.com"}
WHO = {"X-Git-Username": "ada", "X-Git-Password": "correct-horse"}
NDJSON = {"Accept": "application/x-ndjson"}


class Repo:
    """A bare repository with one commit, and a clone of it made by the server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.bare = folder / "origin.git"
        seed = folder / "seed"
        seed.mkdir()
        git(seed, "init", "-q", "-b", "main")
        (seed / "a.txt").write_text("one\ntwo\nthree\n")
        git(seed, "add", ".")
        git(seed, "commit", "-q", "-m", "first")
        git(folder, "clone", "-q", "--bare", str(seed), str(self.bare))
        self.seed = seed
        git(seed, "remote", "add", "origin", str(self.bare))
        self.work = folder / "work"
        self.post("clone", url=str(self.bare), path=str(self.work))

    def get(self, action: str, **query: Any) -> httpx.Response:
        return self.server.client.get(f"/git/{action}", params={"path": str(self.work), **query})

    def told(self, action: str, **query: Any) -> dict[str, Any]:
        reply = self.get(action, **query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def send(self, action: str, **fields: Any) -> httpx.Response:
        return self.server.client.post(f"/git/{action}", json={"path": str(self.work), **fields})

    def post(self, action: str, **fields: Any) -> dict[str, Any]:
        reply = self.send(action, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def commit(self, name: str, text: str) -> dict[str, Any]:
        (self.work / name).write_text(text)
        self.post("add", paths=[name])
        return self.post("commit", message=f"change {name}", author=ADA)

    def others_commit(self, name: str, text: str) -> None:
        """Have somebody else push a commit."""
        (self.seed / name).write_text(text)
        git(self.seed, "add", name)
        git(self.seed, "commit", "-q", "-m", "theirs")
        git(self.seed, "push", "-q", "origin", "main")

    def hook(self, name: str, script: str) -> None:
        path = self.work / ".git" / "hooks" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"GIT_PASSWORD_OF_ADA": "by-variable", "GIT_CONFIG_NOSYSTEM": "1"}
    with Server(tmp_path_factory.mktemp("server"), env=env) as running:
        yield running


@pytest.fixture
def repo(server: Server, tmp_path: Path) -> Repo:
    return Repo(server, tmp_path)


@pytest.fixture
def web(repo: Repo) -> Iterator[GitHttp]:
    git(repo.bare, "config", "http.receivepack", "true")
    with git_http(repo.bare.parent) as serving:
        yield serving


def refused(reply: httpx.Response, status: int, code: str) -> str:
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert told["code"] == code, told
    return str(told["error"])


def processes_with(text: str) -> list[int]:
    """Return the processes whose words or variables have a text in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for name in ("cmdline", "environ"):
                try:
                    if text.encode() in (entry / name).read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
    return found


def test_a_day_with_a_repository(repo: Repo) -> None:
    assert repo.told("status")["clean"] is True

    made = repo.post("branch", name="feature/x", checkout=True)
    (repo.work / "new.txt").write_text("new\n")
    (repo.work / "a.txt").write_text("one\n2\nthree\n")
    status = repo.told("status")
    assert status["branch"] == "feature/x"
    assert status["commit"] == made["commit"]
    assert status["files"] == [
        {"path": "a.txt", "workTree": "modified"},
        {"path": "new.txt", "workTree": "untracked"},
    ]

    assert repo.post("add", all=True) == {"staged": 2}
    diff = repo.told("diff", staged="true")
    assert [(one["path"], one["status"], one["additions"]) for one in diff["files"]] == [
        ("a.txt", "modified", 1),
        ("new.txt", "added", 1),
    ]
    assert (diff["additions"], diff["deletions"]) == (2, 1)
    assert "-two\n+2\n" in diff["patch"]
    done = repo.post("commit", message="Second\n\nWith words", author=ADA)
    assert done["branch"] == "feature/x"
    assert done["subject"] == "Second"

    newest, first = repo.told("log")["commits"]
    assert newest["commit"] == done["commit"]
    assert newest["message"] == "Second\n\nWith words"
    assert newest["parents"] == [first["commit"]]
    assert (newest["author"]["name"], newest["committer"]["email"]) == ("Ada", "ada@example.com")

    pushed = repo.post("push", remote="origin", branch="feature/x", setUpstream=True)
    (ref,) = pushed["refs"]
    assert (ref["target"], ref["status"]) == ("refs/heads/feature/x", "new")
    assert git(repo.bare, "rev-parse", "feature/x") == done["commit"]

    branches = {one["name"]: one for one in repo.told("branch")["branches"]}
    assert branches["feature/x"]["current"] is True
    assert branches["feature/x"]["upstream"] == "origin/feature/x"
    assert branches["origin/main"]["remote"] is True

    assert repo.post("checkout", ref="main")["branch"] == "main"
    repo.others_commit("b.txt", "theirs\n")
    before = repo.told("status")["commit"]
    pulled = repo.post("pull")
    assert pulled["updated"] is True
    assert pulled["before"] == before
    assert (repo.work / "b.txt").read_text() == "theirs\n"
    refused(
        repo.server.client.delete("/git/branch", params={"path": str(repo.work), "name": "main"}),
        409,
        "CURRENT_BRANCH",
    )
    gone = repo.server.client.delete(
        "/git/branch", params={"path": str(repo.work), "name": "feature/x", "force": "true"}
    )
    assert gone.json() == {"name": "feature/x", "commit": done["commit"]}
    detached = repo.post("checkout", ref=done["commit"])
    assert detached == {"branch": "", "commit": done["commit"]}


def test_names_of_any_bytes_come_and_go(repo: Repo) -> None:
    names = [b"new\nline", b'quo"te\ttab', b"caf\xe9", "snow ☃".encode(), b":(top)*", b"-option"]
    for name in names:
        Path(os.fsdecode(bytes(repo.work) + b"/" + name)).write_bytes(b"x\n")

    listed = repo.told("status")["files"]
    told = [
        base64.b64decode(one["pathBase64"]) if "pathBase64" in one else one["path"].encode()
        for one in listed
    ]
    assert sorted(told) == sorted(names)
    (odd,) = [one for one in listed if "pathBase64" in one]
    assert odd["path"] == "caf�"

    texts = [name.decode() for name in names if name != b"caf\xe9"]
    added = repo.post("add", paths=texts, pathsBase64=[odd["pathBase64"]])
    assert added == {"staged": len(names)}
    assert len(repo.told("diff", staged="true")["files"]) == len(names)
    assert len(repo.told("diff", staged="true", paths=":(top)*")["files"]) == 1
    repo.post("commit", message="names", author=ADA)
    tree = git(repo.work, "ls-tree", "-z", "--name-only", "HEAD").split("\0")
    assert {os.fsencode(name) for name in tree if name} == {*names, b"a.txt"}
    assert len(repo.told("log", paths="new\nline")["commits"]) == 1


def test_a_rename_tells_both_names(repo: Repo) -> None:
    repo.commit("long.txt", "".join(f"{n}\n" for n in range(100)))
    (repo.work / "long.txt").rename(repo.work / "moved here.txt")
    repo.post("add", all=True)

    (one,) = repo.told("status")["files"]
    assert one == {"path": "moved here.txt", "oldPath": "long.txt", "index": "renamed"}
    (changed,) = repo.told("diff", staged="true")["files"]
    assert (changed["status"], changed["oldPath"]) == ("renamed", "long.txt")
    assert changed["additions"] == 0


def test_conflicts_are_told_by_name_and_can_be_given_up(repo: Repo) -> None:
    repo.others_commit("a.txt", "theirs\n")
    ours = repo.commit("a.txt", "ours\n")

    reply = repo.send("pull", author=ADA)
    refused(reply, 409, "CONFLICT")
    assert reply.json()["conflicts"] == ["a.txt"]
    status = repo.told("status")
    assert (status["state"], status["conflicts"], status["ahead"]) == ("merge", 1, 1)
    assert status["files"] == [{"path": "a.txt", "conflict": "both modified"}]
    refused(repo.send("commit", message="too early", author=ADA), 409, "UNFINISHED")

    assert repo.post("abort")["state"] == "merge"
    status = repo.told("status")
    assert (status["state"], status["clean"], status["commit"]) == ("", True, ours["commit"])
    refused(repo.send("abort"), 409, "NOTHING")
    refused(repo.send("push"), 409, "REJECTED")
    refused(repo.send("pull", ffOnly=True), 409, "DIVERGED")


@pytest.mark.parametrize(
    ("action", "fields", "status", "code"),
    [
        ("commit", {"message": "x", "author": ADA}, 409, "NOTHING"),
        ("checkout", {"ref": "nowhere"}, 404, "NO_SUCH_REF"),
        ("branch", {"name": "main"}, 409, "ALREADY_EXISTS"),
        ("add", {"paths": ["missing"]}, 404, "NO_SUCH_REF"),
        ("fetch", {"remote": "nobody"}, 404, "REMOTE_NOT_FOUND"),
        ("clone", {"url": "/nowhere/at/all", "path": "c"}, 404, "REMOTE_NOT_FOUND"),
        ("clone", {"url": "http://127.0.0.1:1/x.git", "path": "c"}, 422, "UNREACHABLE"),
    ],
)
def test_what_cannot_be_done_is_told_by_a_word(
    repo: Repo, action: str, fields: dict[str, Any], status: int, code: str
) -> None:
    refused(repo.send(action, **fields), status, code)


def test_a_folder_that_is_no_repository_or_is_not_there(repo: Repo) -> None:
    refused(repo.get("status", path=str(repo.work.parent)), 404, "NOT_A_REPOSITORY")
    refused(repo.get("status", path=str(repo.work / "nowhere")), 404, "NO_FOLDER")
    refused(repo.send("clone", url=str(repo.bare)), 409, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("action", "fields", "name"),
    [
        ("clone", {"url": "--upload-pack=touch /tmp/x"}, "url"),
        ("clone", {"url": ""}, "url"),
        ("clone", {"url": "https://ada:secret@example.com/x.git"}, "url"),
        ("clone", {"url": "http::https://ada:secret@example.com/x.git"}, "url"),
        ("clone", {"url": "https://ghp_token@example.com/x.git"}, "url"),
        ("clone", {"url": "https://example.com/x.git?access_token=abc"}, "url"),
        ("clone", {"url": "ssh://ada:secret@example.com/x.git"}, "url"),
        ("fetch", {"remote": "https://ada:secret@example.com/x.git"}, "remote"),
        ("push", {"remote": "--exec=x", "branch": "main"}, "remote"),
        ("pull", {"remote": "origin", "branch": "-x"}, "branch"),
        ("checkout", {"ref": "-x"}, "ref"),
        ("branch", {"name": "a..b"}, "name"),
        ("branch", {"name": "HEAD"}, "name"),
        ("commit", {"message": ""}, "message"),
        ("commit", {"message": "x", "author": {"name": "A", "email": "a<b"}}, "author"),
        ("add", {}, "paths"),
        ("add", {"pathsBase64": ["?"]}, "pathsBase64"),
        ("add", {"paths": ["../x"]}, "outside"),
        ("abort", {"timeout": 0}, "timeout"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_the_field(
    repo: Repo, action: str, fields: dict[str, Any], name: str
) -> None:
    reply = repo.send(action, **fields)

    assert reply.status_code == 400, reply.text
    assert name in reply.json()["error"]
    assert "secret" not in reply.text
    assert "ghp_" not in reply.text


def test_a_password_is_told_to_the_remote_and_to_nobody_else(
    repo: Repo, web: GitHttp, tmp_path: Path
) -> None:
    client, target = repo.server.client, tmp_path / "by-http"
    web.gate.clear()
    body = {"url": f"{web.url}/origin.git", "path": str(target)}
    replies: list[httpx.Response] = []
    cloning = threading.Thread(
        target=lambda: replies.append(client.post("/git/clone", json=body, headers=WHO))
    )
    cloning.start()
    assert web.arrived.wait(60)
    seen = [pid for pid in processes_with("correct-horse") if pid != repo.server.pid]
    web.gate.set()
    cloning.join()

    assert seen == []
    assert replies[0].status_code == 200, replies[0].text
    assert replies[0].json()["path"] == str(target)
    assert "correct-horse" not in (target / ".git/config").read_text()
    assert b"correct-horse" not in repo.server.log_path.read_bytes()
    assert list(repo.server.home.glob(".git-credentials")) == []

    (target / "c.txt").write_text("c\n")
    at = {"path": str(target)}
    assert client.post("/git/add", json={**at, "all": True}).status_code == 200
    commit = client.post("/git/commit", json={**at, "message": "c", "author": ADA})
    pushed = client.post("/git/push", json=at, headers=WHO)
    assert pushed.status_code == 200, pushed.text
    assert git(repo.bare, "rev-parse", "main") == commit.json()["commit"]


def test_a_password_may_come_from_a_variable_of_the_sandbox(repo: Repo, tmp_path: Path) -> None:
    named = {"username": "ada", "passwordVariable": "GIT_PASSWORD_OF_ADA"}
    with git_http(repo.bare.parent, password="by-variable") as web:
        git(repo.work, "remote", "set-url", "origin", f"{web.url}/origin.git")
        assert repo.send("fetch", credentials=named).status_code == 200
        refused(repo.send("fetch"), 403, "AUTHENTICATION_FAILED")


@pytest.mark.parametrize("headers", [{}, {**WHO, "X-Git-Password": "wrong-horse"}])
def test_who_is_not_let_in_is_told_at_once(
    repo: Repo, web: GitHttp, tmp_path: Path, headers: dict[str, str]
) -> None:
    body = {"url": f"{web.url}/origin.git", "path": str(tmp_path / "no")}
    began = time.monotonic()
    reply = repo.server.client.post("/git/clone", json=body, headers=headers)

    refused(reply, 403, "AUTHENTICATION_FAILED")
    assert "wrong-horse" not in reply.text
    assert time.monotonic() - began < 50
    assert not (tmp_path / "no").exists()


def test_a_submodule_elsewhere_is_not_told_the_password(
    repo: Repo, web: GitHttp, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "clone", "-q", "--bare", str(repo.bare), "sub.git")
    with git_http(other, password="another") as elsewhere:
        (repo.seed / ".gitmodules").write_text(
            f'[submodule "sub"]\n\tpath = sub\n\turl = {elsewhere.url}/sub.git\n'
        )
        commit = git(repo.seed, "rev-parse", "HEAD")
        git(repo.seed, "update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
        git(repo.seed, "add", ".gitmodules")
        git(repo.seed, "commit", "-q", "-m", "sub")
        git(repo.seed, "push", "-q", "origin", "main")
        body = {
            "url": f"{web.url}/origin.git",
            "path": str(tmp_path / "with-sub"),
            "recurseSubmodules": True,
        }
        reply = repo.server.client.post("/git/clone", json=body, headers=WHO)

        refused(reply, 403, "AUTHENTICATION_FAILED")
        assert set(web.asked) == {"ada:correct-horse"}
        assert elsewhere.asked == []


def test_an_address_that_holds_a_password_is_not_used(repo: Repo) -> None:
    git(repo.work, "remote", "set-url", "origin", "http://ada:hidden-word@127.0.0.1:1/x.git")

    for action in ("fetch", "pull", "push"):
        told = refused(repo.send(action), 422, "SECRET_IN_ADDRESS")
        assert "hidden-word" not in told


def test_variables_of_the_server_alone_are_no_password(repo: Repo, web: GitHttp) -> None:
    for name in ("SANDKEEPER_TOKEN", "NOT_THERE"):
        reply = repo.send(
            "clone", url=f"{web.url}/origin.git", credentials={"passwordVariable": name}
        )
        assert reply.status_code == 400
        assert name in reply.json()["error"]


def hook_pid(repo: Repo) -> int:
    path = repo.work / "hook.pid"
    return int(until(lambda: path.exists() and path.read_text().strip()))


HANGS = "trap '' TERM; echo $$ > hook.pid; while :; do sleep 1000; done"


def test_a_hook_that_hangs_ends_when_the_time_is_up(repo: Repo) -> None:
    repo.hook("pre-commit", HANGS)
    (repo.work / "a.txt").write_text("changed\n")
    repo.post("add", all=True)

    reply = repo.send("commit", message="x", author=ADA, timeout=3)

    refused(reply, 422, "TIMED_OUT")
    path = repo.work / "hook.pid"  # a busy machine may not have come to the hook by then
    said = path.read_text().strip() if path.exists() else ""
    assert not said or not alive(int(said))
    assert not (repo.work / ".git/index.lock").exists()
    skipped = repo.send("commit", message="x", author=ADA, skipHooks=True)
    assert skipped.status_code == 200


def test_an_operation_is_listed_and_can_be_cancelled(repo: Repo) -> None:
    repo.hook("pre-commit", HANGS)
    (repo.work / "a.txt").write_text("changed\n")
    repo.post("add", all=True)
    replies: list[httpx.Response] = []
    body = {"path": str(repo.work), "message": "x", "author": ADA}
    committing = threading.Thread(
        target=lambda: replies.append(repo.server.client.post("/git/commit", json=body))
    )
    committing.start()
    pid = hook_pid(repo)

    (one,) = repo.server.client.get("/git/operations").json()["operations"]
    assert (one["action"], one["path"]) == ("commit", str(repo.work))
    assert repo.server.client.delete(f"/git/operations/{one['id']}").status_code == 200
    committing.join()

    refused(replies[0], 409, "CANCELLED")
    assert not alive(pid)
    assert repo.server.client.get("/git/operations").json() == {"operations": []}
    assert repo.server.client.delete(f"/git/operations/{one['id']}").status_code == 404


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
def test_who_goes_away_ends_the_operation(repo: Repo, accept: str) -> None:
    repo.hook("pre-commit", HANGS)
    (repo.work / "a.txt").write_text("changed\n")
    repo.post("add", all=True)
    body = json.dumps({"path": str(repo.work), "message": "x", "author": ADA}).encode()
    with socket.create_connection(("127.0.0.1", repo.server.port)) as sock:
        head = f"POST /git/commit HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
        sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        pid = hook_pid(repo)

    until(lambda: not alive(pid))
    until(lambda: repo.server.client.get("/git/operations").json() == {"operations": []})


def test_what_a_hook_leaves_running_is_not_waited_for(repo: Repo) -> None:
    repo.hook("post-commit", "sleep 1000 & echo $! > hook.pid; echo said > /dev/stderr")
    (repo.work / "a.txt").write_text("changed\n")
    repo.post("add", paths=["a.txt"])

    assert repo.post("commit", message="x", author=ADA)["subject"] == "x"
    pid = hook_pid(repo)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_hook_that_floods_holds_up_nobody(repo: Repo) -> None:
    repo.hook("pre-commit", "yes 'password=x https://a:b@example.com/' >&2")
    body = {"path": str(repo.work), "message": "x", "author": ADA, "allowEmpty": True}
    client = repo.server.client
    with client.stream("POST", "/git/commit", json={**body, "timeout": 2}, headers=NDJSON) as reply:
        took: list[float] = []
        size, last = 0, ""
        for line in reply.iter_lines():
            size, last = size + len(line), line or last
            began = time.monotonic()
            assert client.get("/health").status_code == 200
            took.append(time.monotonic() - began)
            if size > 5_000:
                break
    assert sorted(took)[len(took) // 2] < 2
    assert max(took) < 20  # where the machine itself stands still
    told = refused(repo.send("commit", **{**body, "timeout": 1}), 422, "TIMED_OUT")
    assert "a:b@" not in told
    assert "a:b@" not in last


def test_a_clone_tells_its_progress_and_ends_with_its_result(
    repo: Repo, web: GitHttp, tmp_path: Path
) -> None:
    body = {"url": f"{web.url}/origin.git", "path": str(tmp_path / "streamed")}
    client = repo.server.client
    reply = client.post("/git/clone", json=body, headers={**WHO, **NDJSON})
    records = [json.loads(line) for line in reply.text.splitlines()]

    assert reply.headers["content-type"] == "application/x-ndjson"
    assert {"progress", "message"} <= {one["type"] for one in records[:-1]}
    phases = {one["phase"] for one in records if one["type"] == "progress"}
    assert "Receiving objects" in phases
    assert records[-1]["type"] == "result"
    assert records[-1]["data"]["branch"] == "main"

    again = client.post("/git/clone", json=body, headers={**WHO, "Accept": "text/event-stream"})
    assert again.headers["content-type"] == "text/event-stream"
    *_, last = [part for part in again.text.split("\n\n") if part]
    name, data = last.split("\n")
    assert name == "event: error"
    told = json.loads(data.removeprefix("data: "))
    assert (told["status"], told["code"]) == (409, "ALREADY_EXISTS")


def test_a_patch_of_any_size_is_a_stream(repo: Repo) -> None:
    line = b"0123456789abcdef" * 64 + b"\n"
    lines = 60_000
    with open(repo.work / "large.txt", "wb") as file:
        for _ in range(lines):
            file.write(line)
    repo.post("add", all=True)
    before = resident(repo.server.pid)
    size, most = 0, 0
    query = {"path": str(repo.work), "staged": "true"}
    accept = {"Accept": "text/x-diff"}
    with repo.server.client.stream("GET", "/git/diff", params=query, headers=accept) as reply:
        assert reply.status_code == 200
        for piece in reply.iter_raw():
            size += len(piece)
            most = max(most, resident(repo.server.pid))

    assert size > lines * (len(line) + 1)
    assert most - before < 40 << 20
    told = repo.told("diff", staged="true", maxBytes=5000)
    assert told["patchTruncated"] is True
    assert len(told["patch"]) <= 5000
    assert told["additions"] == lines


def test_a_list_is_cut_where_it_is_asked_to_be(repo: Repo) -> None:
    for number in range(30):
        (repo.work / f"f{number:02}").touch()

    told = repo.told("status", limit=10)
    assert (len(told["files"]), told["truncated"], told["clean"]) == (10, True, False)
    assert len(repo.told("log", limit=0)["commits"]) == 0


def test_an_empty_repository_has_a_status_and_no_commits(repo: Repo, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q", "-b", "trunk")

    told = repo.told("status", path=str(empty))
    assert (told["branch"], told["commit"], told["clean"]) == ("trunk", "", True)
    assert repo.told("branch", path=str(empty)) == {
        "current": "trunk",
        "branches": [],
        "truncated": False,
    }
    refused(repo.get("log", path=str(empty)), 404, "NO_SUCH_REF")
    bare = repo.told("log", path=str(repo.bare))
    assert len(bare["commits"]) == 1


def test_a_clone_can_be_shallow_and_stand_on_a_commit(repo: Repo, tmp_path: Path) -> None:
    first = repo.told("status")["commit"]
    repo.others_commit("b.txt", "b\n")
    url = f"file://{repo.bare}"

    shallow = repo.post("clone", url=url, path=str(tmp_path / "s"), depth=1, branch="main")
    assert git(tmp_path / "s", "rev-list", "--count", "HEAD") == "1"
    assert shallow["branch"] == "main"
    at = repo.post("clone", url=url, path=str(tmp_path / "c"), commit=first)
    assert at == {"branch": "", "commit": first, "path": str(tmp_path / "c")}


@needs_root
def test_git_acts_as_the_workload(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    env = {"SANDKEEPER_USERS": "root", "SANDKEEPER_WORKLOAD_MAY": "users"}
    with Server(tmp_path / "server", args=["--user", "61151"], env=env) as server:
        for place in (server.workdir, server.home):
            os.chown(place, 61151, 61151)
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        git(closed, "init", "-q")
        server.run(
            "git init -q -b main made && git -C made commit -q --allow-empty -m x",
            workingDir=str(server.workdir),
            env={
                "GIT_AUTHOR_NAME": "a",
                "GIT_AUTHOR_EMAIL": "a@b",
                "GIT_COMMITTER_NAME": "a",
                "GIT_COMMITTER_EMAIL": "a@b",
            },
        )
        client = server.client
        cloned = client.post("/git/clone", json={"url": str(server.workdir / "made"), "path": "w"})
        assert cloned.status_code == 200, cloned.text
        assert (server.workdir / "w/.git/HEAD").stat().st_uid == 61151
        hooked = server.workdir / "w/.git/hooks/pre-commit"
        hooked.write_text("#!/bin/sh\nid -u; echo seen > /dev/stderr; exit 1\n")
        hooked.chmod(0o755)
        os.chown(hooked, 61151, 61151)
        body = {"path": "w", "message": "x", "author": ADA, "allowEmpty": True}
        reply = client.post("/git/commit", json=body)
        told = refused(reply, 422, "GIT_FAILED")
        assert "61151" in told
        assert "seen" in told
        assert client.get("/git/status", params={"path": str(closed)}).status_code == 422
        named = {"path": str(closed), "user": "root"}
        assert client.get("/git/status", params=named).json()["clean"] is True


def test_a_sandbox_without_git_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/sh").symlink_to("/bin/sh")
    with Server(tmp_path / "server", env={"PATH": str(tmp_path / "empty")}) as server:
        body = {"url": "http://127.0.0.1:1/x.git", "path": "x"}
        for headers in ({}, WHO):
            reply = server.client.post("/git/clone", json=body, headers=headers)
            assert reply.status_code == 501, reply.text
            assert "git is not installed" in reply.json()["error"]
