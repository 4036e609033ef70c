"""Rules of the house that no linter knows."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_no_source_file_has_more_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "src").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }

    assert long == {}


def test_the_changelog_knows_the_version() -> None:
    from sandkeeper import __version__

    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"[{__version__}]" in text or "[Unreleased]" in text


def test_what_acts_for_the_workload_takes_its_os_from_where_paths_are_resolved_for_it() -> None:
    """`core.useros`: a path must not lead through the server's own entry in /proc."""
    acting = {
        *(f"api/http/{name}.py" for name in ("files", "files_more")),
        *(f"api/mcp/{name}.py" for name in ("code", "files")),
        *(
            f"core/{name}.py"
            for name in (
                *("entering", "removal", "renaming", "replace", "tars", "temporaries", "untar"),
                *("walk", "walking", "watchtree"),
            )
        ),
        *(
            f"services/{name}.py"
            for name in (
                *("archives", "attributes", "codegen", "codesearch", "codewalk", "copies"),
                *("files", "grep", "trees", "uploads", "watching"),
            )
        ),
    }
    source = ROOT / "src" / "sandkeeper"
    plain = {
        name
        for name in acting
        if "from sandkeeper.core import useros as os\n" not in (source / name).read_text()
        or "\nimport os\n" in (source / name).read_text()
    }

    assert plain == set()
