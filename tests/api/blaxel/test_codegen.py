"""Fast apply and reranking: honest providers, lying ones, and none."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, until


class FakeProvider:
    """A provider on a real socket; `answer` is called with (handler, payload) for every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: Any = None
        self.release = threading.Event()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.requests.append((self.path, self.headers["Authorization"], payload))
                try:
                    provider.answer(self, payload)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


def reply(handler: BaseHTTPRequestHandler, body: Any, status: int = 200) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def merged(handler: BaseHTTPRequestHandler, payload: dict[str, Any]) -> None:
    reply(handler, {"mergedCode": payload["initial_code"] + payload["edit_snippet"]})


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    made = FakeProvider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def relace(tmp_path_factory, provider: FakeProvider) -> Iterator[Server]:
    env = {
        "RELACE_API_KEY": "rk",
        "RELACE_BASE_URL": provider.url + "/",
        "MORPH_API_KEY": "mk",
    }
    with Server(tmp_path_factory.mktemp("relace"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def morph(tmp_path_factory, provider: FakeProvider) -> Iterator[Server]:
    env = {"MORPH_API_KEY": "mk", "SANDKEEPER_MORPH_BASE_URL": provider.url + "/v1"}
    with Server(tmp_path_factory.mktemp("morph"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Iterator[Server]:
    env = {"SANDKEEPER_LOCAL_CODEGEN": "1"}
    with Server(tmp_path_factory.mktemp("local"), env=env) as running:
        yield running


def apply(server: Server, path: str, edit: str = "+", **more: Any) -> httpx.Response:
    return server.client.put(f"/codegen/fastapply/{path}", json={"codeEdit": edit, **more})


def rerank(server: Server, path: str, **query: Any) -> httpx.Response:
    return server.client.get(f"/codegen/reranking/{path}", params={"query": "q", **query})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".sandkeeper-tmp-*")]


def test_without_a_provider_both_routes_say_so_with_the_contracts_words(server: Server) -> None:
    for answer in (
        apply(server, "x"),
        rerank(server, ""),
        server.client.put("/codegen/fastapply/x"),
    ):
        assert answer.status_code == 400
        assert "codegen tools are not configured" in answer.json()["error"]
    assert server.client.head("/codegen/reranking/x").status_code == 200


def test_relace_merges_and_the_file_keeps_its_mode(relace: Server, provider: FakeProvider) -> None:
    provider.answer = merged
    file = relace.workdir / "run.sh"
    file.write_text("old\n")
    file.chmod(0o755)

    answer = apply(relace, "run.sh", "new\n", model="auto")

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["success"], body["path"], body["provider"]) == (True, "run.sh", "relace")
    assert (body["originalContent"], body["updatedContent"]) == ("old\n", "old\nnew\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("old\nnew\n", 0o755)
    path, key, payload = provider.requests[-1]
    assert (path, key) == ("/v1/code/apply", "Bearer rk")
    assert payload["model"] == "relace-apply-3"
    assert payload["stream"] is False


def test_a_missing_file_is_created_with_its_parents(relace: Server, provider: FakeProvider) -> None:
    provider.answer = merged

    answer = apply(
        relace, "%2F".join(["", *relace.workdir.parts[1:], "deep", "er", "new.txt"]), "x"
    )

    assert answer.status_code == 200
    file = relace.workdir / "deep/er/new.txt"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("x", 0o644)
    assert answer.json()["path"] == str(file)


def test_a_link_stays_a_link_and_its_target_changes(relace: Server, provider: FakeProvider) -> None:
    provider.answer = merged
    (relace.workdir / "real.txt").write_text("a")
    (relace.workdir / "link.txt").symlink_to("real.txt")

    assert apply(relace, "link.txt", "b").status_code == 200
    assert (relace.workdir / "link.txt").is_symlink()
    assert (relace.workdir / "real.txt").read_text() == "ab"


def test_morph_speaks_its_own_protocol(morph: Server, provider: FakeProvider) -> None:
    provider.answer = lambda handler, payload: reply(
        handler, {"choices": [{"message": {"content": "from morph"}}]}
    )
    (morph.workdir / "m.txt").write_text("orig")

    answer = apply(morph, "m.txt", "edit")

    assert (answer.status_code, answer.json()["provider"]) == (200, "morphllm")
    path, key, payload = provider.requests[-1]
    assert (path, key, payload["model"]) == ("/v1/chat/completions", "Bearer mk", "auto")
    assert payload["messages"][0]["content"] == "<code>orig</code>\n<update>edit</update>"


def test_the_request_is_checked_in_the_contracts_order(
    relace: Server, provider: FakeProvider
) -> None:
    (relace.workdir / "folder").mkdir(exist_ok=True)

    assert relace.client.put("/codegen/fastapply/folder").status_code == 400
    assert apply(relace, "folder").json()["error"] == "path is a directory, not a file"
    assert apply(relace, "x", "").status_code == 400
    assert relace.client.get("/codegen/reranking/").status_code == 400
    assert rerank(relace, "", scoreThreshold="high").status_code == 400
    assert rerank(relace, "", tokenLimit="1.5").status_code == 400
    assert rerank(relace, "no-such-folder").json()["error"] == "path is not a directory"
    assert rerank(relace, "", filePattern="(").status_code == 422


def test_a_fifo_or_binary_file_is_refused_and_nobody_waits(
    relace: Server, provider: FakeProvider
) -> None:
    os.mkfifo(relace.workdir / "fifo")
    (relace.workdir / "binary").write_bytes(b"\xff\xfe\x00")

    assert apply(relace, "fifo").status_code == 422
    assert apply(relace, "binary").status_code == 422


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"mergedCode": 5}', b'{"mergedCode": ""}', b"\xff", b""]
)
def test_a_provider_that_lies_is_a_422_and_the_file_stays(
    relace: Server, provider: FakeProvider, body: bytes
) -> None:
    provider.answer = lambda handler, payload: reply(handler, body)
    (relace.workdir / "f.txt").write_text("kept")

    assert apply(relace, "f.txt").status_code == 422
    assert (relace.workdir / "f.txt").read_text() == "kept"
    assert leftovers(relace.workdir) == []


def test_a_refusal_is_told_with_its_status_and_a_short_text(
    relace: Server, morph: Server, provider: FakeProvider
) -> None:
    provider.answer = lambda handler, payload: reply(handler, b"quota " * 1000, 429)

    text = apply(relace, "f.txt").json()["error"]
    assert text.startswith("relace API request failed with status 429: quota quota")
    assert len(text) < 600
    text = apply(morph, "f.txt").json()["error"]
    assert text.startswith("morph API request failed with status 429: quota")


def test_a_provider_that_hangs_is_given_up(make_server, provider: FakeProvider) -> None:
    provider.answer = lambda handler, payload: provider.release.wait()
    env = {"MORPH_API_KEY": "mk", "SANDKEEPER_MORPH_BASE_URL": provider.url + "/v1"}
    hasty: Server = make_server(env={**env, "SANDKEEPER_CODEGEN_TIMEOUT": "1"})

    answer = apply(hasty, "f.txt")

    assert answer.status_code == 422
    assert "no answer in 1 s" in answer.json()["error"]


def test_a_gigabyte_is_not_read_to_its_end(relace: Server, provider: FakeProvider) -> None:
    sent = 0

    def flood(handler: BaseHTTPRequestHandler, _payload: Any) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(1024):
            handler.wfile.write(bytes(1 << 20))
            sent += 1 << 20

    provider.answer = flood
    answer = apply(relace, "f.txt")

    assert answer.status_code == 422
    assert sent < 1 << 28
    with open(f"/proc/{relace.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 300 << 10


def test_nobody_listening_is_a_422(make_server) -> None:
    for address in ("http://127.0.0.1:1", "no url at all"):
        own = make_server(env={"RELACE_API_KEY": "k", "RELACE_BASE_URL": address})
        reply = own.client.put("/codegen/fastapply/f", json={"codeEdit": "x"})
        assert reply.status_code == 422


def test_a_file_that_changes_meanwhile_is_not_overwritten(
    relace: Server, provider: FakeProvider
) -> None:
    file = relace.workdir / "race.txt"
    file.write_text("first")

    def change(handler: BaseHTTPRequestHandler, payload: dict[str, Any]) -> None:
        file.write_text("written by somebody else")
        merged(handler, payload)

    provider.answer = change
    answer = apply(relace, "race.txt")

    assert answer.status_code == 422
    assert "changed while the edit was computed" in answer.json()["error"]
    assert file.read_text() == "written by somebody else"
    assert leftovers(relace.workdir) == []


def test_a_caller_that_leaves_stops_the_work(relace: Server, provider: FakeProvider) -> None:
    started, left = threading.Event(), threading.Event()

    def wait(handler: BaseHTTPRequestHandler, _payload: Any) -> None:
        started.set()
        handler.connection.settimeout(100)
        if handler.connection.recv(1) == b"":
            left.set()

    provider.answer = wait
    file = relace.workdir / "left.txt"
    file.write_text("kept")

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=relace.url, timeout=100, trust_env=False) as client:
            call = asyncio.create_task(
                client.put("/codegen/fastapply/left.txt", json={"codeEdit": "x"})
            )
            await asyncio.to_thread(started.wait, 60)
            call.cancel()

    asyncio.run(leave())
    assert left.wait(40)  # the server gives such a call 60 s
    assert file.read_text() == "kept"


def test_reranking_sends_only_what_is_worth_it_and_keeps_the_providers_order(
    relace: Server, provider: FakeProvider
) -> None:
    root = relace.workdir / "project"
    for name in (
        *("src/a.py", "src/b.py", "src/deep/c.py", "README.md", ".env", ".ssh/id_rsa"),
        *("node_modules/x/deep/index.js", ".git/objects/ab/cd", "vendor/lib/v.py"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    (root / "src/image.py").write_bytes(b"\x89PNG\x00\x00")
    os.mkfifo(root / "src/fifo.py")
    (root / "src/link.py").symlink_to("/etc/passwd")
    provider.answer = lambda handler, payload: reply(
        handler,
        {
            "results": [
                {"filename": "project/src/deep/c.py", "score": 0.7},
                {"filename": "project/src/a.py", "score": 0.9},
                {"filename": "project/src/b.py", "score": 0.1},
                {"filename": "/etc/passwd", "score": 1},
                {"filename": "project/src/a.py", "score": 0.8},
                {"filename": "project/README.md", "score": "much"},
                7,
            ]
        },
    )

    body = rerank(relace, "project").json()

    _, _, payload = provider.requests[-1]
    assert [item["filename"] for item in payload["codebase"]] == [
        *("project/README.md", "project/src/a.py", "project/src/b.py", "project/src/deep/c.py"),
    ]
    assert payload["token_limit"] == 30000
    assert body["message"] == "Found 2 relevant files"
    assert [(item["path"], item["score"]) for item in body["files"]] == [
        ("project/src/deep/c.py", 0.7),
        ("project/src/a.py", 0.9),
    ]
    assert body["files"][1]["content"] == "text of src/a.py"


def test_the_pattern_matches_path_or_name_unanchored(
    relace: Server, provider: FakeProvider
) -> None:
    root = relace.workdir / "pattern"
    root.mkdir()
    for name in ("one.py", "two.js"):
        (root / name).write_text("x")
    provider.answer = lambda handler, payload: reply(handler, {"results": []})

    body = rerank(relace, "pattern", filePattern=r"^one|\.css$").json()

    assert body == {"success": True, "files": [], "message": "Found 0 relevant files"}
    assert [item["filename"] for item in provider.requests[-1][2]["codebase"]] == ["pattern/one.py"]
    before = len(provider.requests)
    body = rerank(relace, "pattern", filePattern="nothing").json()
    assert body["message"] == "No files found matching criteria"
    assert body["files"] == []
    assert len(provider.requests) == before


def test_a_pattern_that_would_backtrack_for_ever_is_answered(relace: Server) -> None:
    (relace.workdir / "evil").mkdir()
    (relace.workdir / "evil" / ("a" * 100)).write_text("x")

    assert rerank(relace, "evil", filePattern="(a*)*(a*)*b").status_code == 200


def test_morph_ranks_by_position_and_the_token_limit_holds(
    morph: Server, provider: FakeProvider
) -> None:
    for name in ("a", "b", "c"):
        (morph.workdir / "rank").mkdir(exist_ok=True)
        (morph.workdir / "rank" / name).write_text(name * 400)
    provider.answer = lambda handler, payload: reply(
        handler,
        {
            "results": [
                {"index": 2, "relevance_score": 0.9},
                {"index": 1, "relevance_score": 0.8},
                {"index": 99, "relevance_score": 1.0},
                {"index": -1, "relevance_score": 1.0},
            ]
        },
    )

    assert [item["path"] for item in rerank(morph, "rank").json()["files"]] == ["rank/c", "rank/b"]
    files = rerank(morph, "rank", tokenLimit=100).json()["files"]
    assert [item["path"] for item in files] == ["rank/c"]


def test_the_local_provider_ranks_without_any_key(local: Server) -> None:
    root = local.workdir / "code"
    root.mkdir()
    (root / "db.py").write_text("def connectDatabase():\n    return connection_pool\n" * 3)
    (root / "ui.py").write_text("def draw_button(colour):\n    return colour\n" * 3)

    body = rerank(local, "code", query="database connection").json()

    assert [(item["path"], item["score"]) for item in body["files"]] == [("code/db.py", 1.0)]
    assert rerank(local, "code", query="zzz").json()["files"] == []


def test_the_local_provider_merges_or_refuses(local: Server) -> None:
    file = local.workdir / "app.py"
    file.write_text("import os\n\nx = 1\ny = 2\n")

    answer = apply(local, "app.py", "# ... existing code ...\nx = 5\ny = 2\n")
    assert answer.status_code == 200
    assert answer.json()["provider"] == "local"
    assert file.read_text() == "import os\n\nx = 1\nx = 5\ny = 2\n"
    refused = apply(local, "app.py", "z = 3\n")
    assert (refused.status_code, "existing code" in refused.json()["error"]) == (422, True)


def test_the_published_client_edits_and_ranks(local: Server, monkeypatch) -> None:
    monkeypatch.setenv("BL_API_KEY", "dummy")
    monkeypatch.setenv("BL_WORKSPACE", "dummy")
    from blaxel.core.client.models import Metadata, Sandbox, SandboxSpec
    from blaxel.core.sandbox.default.sandbox import SandboxInstance

    file = local.workdir / "sdk.txt"
    file.write_text("one\ntwo\n")

    async def use() -> Any:
        sandbox = SandboxInstance(
            Sandbox(metadata=Metadata(name="local"), spec=SandboxSpec()), force_url=local.url
        )
        edit = "one\nand a half\n# ... existing code ...\n"
        done = await sandbox.codegen.fastapply(str(file), edit)
        ranked = await sandbox.codegen.reranking(str(local.workdir), "half", file_pattern="sdk")
        return done, ranked

    done, ranked = asyncio.run(use())
    assert done.success
    assert file.read_text() == "one\nand a half\ntwo\n"
    assert [item.path for item in ranked.files] == [str(file)]


def test_nothing_is_imported_before_it_is_needed(make_server) -> None:
    own: Server = make_server(cold=True)

    def mapped() -> str:
        return Path(f"/proc/{own.pid}/maps").read_text()

    until(lambda: own.client.get("/health").status_code == 200)
    assert "numpy" not in mapped()
    assert "_re2" not in mapped()
