"""Git tools: an agent's way through a repository."""

from pathlib import Path

from tests.githttp import git
from tests.mcp_calls import Tools

ADA = {"name": "Ada", "email": "ada@example.com"}


def test_an_agent_clones_changes_and_pushes(tools: Tools, tmp_path: Path) -> None:
    bare, work = tmp_path / "origin.git", str(tmp_path / "work")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))

    assert tools.value("gitClone", url=str(bare), path=work)["branch"] == "main"
    (tmp_path / "work" / "a.txt").write_text("a\n")
    assert tools.value("gitStatus", path=work)["files"][0]["workTree"] == "untracked"
    assert tools.value("gitAdd", path=work, paths=["a.txt"]) == {"staged": 1}
    assert "+a" in tools.value("gitDiff", path=work, staged=True)["patch"]
    made = tools.value("gitCommit", path=work, message="First", author=ADA)
    assert tools.value("gitPush", path=work)["refs"][0]["status"] == "new"
    assert git(bare, "rev-parse", "main") == made["commit"]
    tools.value("gitCreateBranch", path=work, name="side", checkout=True)
    assert tools.value("gitCheckout", path=work, ref="main")["branch"] == "main"
    names = [one["name"] for one in tools.value("gitBranches", path=work)["branches"]]
    assert {"main", "side", "origin/main"} <= set(names)
    assert tools.value("gitDeleteBranch", path=work, name="side")["commit"] == made["commit"]
    assert tools.value("gitPull", path=work)["updated"] is False
    assert tools.value("gitFetch", path=work, timeout=30)["messages"] == []
    assert [one["subject"] for one in tools.value("gitLog", path=work)["commits"]] == ["First"]


def test_what_an_agent_gets_wrong_is_told(tools: Tools, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    place = str(tmp_path)

    told = tools.error("gitClone", url="https://ada:hidden-word@example.com/x.git")
    assert told.startswith("invalid url")
    assert "hidden-word" not in told
    assert "message is required" in tools.error("gitCommit", path=place)
    assert "nothing has been begun" in tools.error("gitAbort", path=place)
    (tmp_path / ".git/hooks/pre-commit").write_text("#!/bin/sh\nsleep 1000\n")
    (tmp_path / ".git/hooks/pre-commit").chmod(0o755)
    fields = {"message": "x", "author": ADA, "allowEmpty": True, "timeout": 0.5}
    assert "longer than 0.5 s" in tools.error("gitCommit", path=place, **fields)
