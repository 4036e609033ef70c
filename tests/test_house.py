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
