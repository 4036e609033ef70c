"""Searches and watches see what the workload's user may see, and no more."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness import Server, needs_root
from tests.watching import Watching


@pytest.fixture
def server_of_nobody(make_server: Callable[..., Server], tmp_path: Path) -> Server:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    server = make_server(args=["--user", "nobody"])
    (server.workdir / "open").mkdir()
    (server.workdir / "open" / "seen.txt").write_text("needle\n")
    (server.workdir / "closed").mkdir(mode=0o700)
    (server.workdir / "closed" / "secret.txt").write_text("needle\n")
    (server.workdir / "open" / "locked.txt").write_text("needle\n")
    (server.workdir / "open" / "locked.txt").chmod(0o600)
    return server


@needs_root
def test_searches_act_for_the_user(server_of_nobody: Server) -> None:
    def found(url: str, **params: str) -> list[str]:
        reply = server_of_nobody.client.get(url, params=params)
        return [match["path"] for match in reply.json()["matches"]]

    assert found("/filesystem-find/") == ["open/locked.txt", "open/seen.txt"]
    assert found("/filesystem-search/", query="txt") == ["open/seen.txt", "open/locked.txt"]
    assert found("/filesystem-content-search/", query="needle", contextLines="1") == [
        "open/seen.txt"
    ]
    assert server_of_nobody.client.get("/filesystem-find/closed").status_code == 422


@needs_root
def test_watches_act_for_the_user(server_of_nobody: Server) -> None:
    server = server_of_nobody
    cursor = server.client.get("/filesystem-changes/").json()["cursor"]
    with Watching(server, "./**") as watching:
        (server.workdir / "closed" / "hidden").touch()
        (server.workdir / "open" / "shown").touch()
        watching.until("CREATE", server.workdir / "open" / "shown")
    assert not [path for _, path in watching.told() if "hidden" in path]
    answer = server.client.get("/filesystem-changes/", params={"since": cursor}).json()
    assert answer["created"] == ["open/shown"]
    assert server.client.get("/watch/filesystem/closed").status_code == 422
