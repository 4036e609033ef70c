"""What a person sees of the scripts that set things up, when it goes well and when it does not."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
WEB = Path("src/sandkeeper/web")


def step(log: Path, script: str) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "step", log, "fetching it", "bash", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo Collecting x; echo 'WARNING: Retrying … Temporary failure in name resolution';"
            "echo 'ERROR: No matching distribution found for x'; exit 1",
            "the package index cannot be reached (no network?)",
        ),
        ("echo npm error code ENOTFOUND >&2; exit 1", "the package index cannot be reached"),
        ("echo 'ERROR: hashes do not match'; echo; exit 3", "ERROR: hashes do not match"),
        ("exit 124", "it took too long"),
    ],
)
def test_what_fails_is_one_sentence_and_the_rest_is_kept(
    tmp_path: Path, script: str, why: str
) -> None:
    done = step(tmp_path / "log", script)
    progress, sentence = done.stderr.splitlines()

    assert done.returncode != 0
    assert done.stdout == ""
    assert progress.startswith("sandkeeper: fetching it … ")
    assert sentence.startswith(f"sandkeeper: fetching it failed: {why}")
    assert str(tmp_path / "log") in sentence
    assert script.split(";")[0].removeprefix("echo ")[:8] in (tmp_path / "log").read_text()


def test_what_works_says_what_it_does_and_nothing_else(tmp_path: Path) -> None:
    done = step(tmp_path / "log", "echo noise; echo more >&2")

    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"(sandkeeper: fetching it … \d+ s\n)+", done.stderr)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone, as far as what is built comes from it."""
    target = tmp_path / "clone"
    ours = ("src", "console", "scripts", "pyproject.toml", "README.md", "LICENSE")
    ignored = shutil.ignore_patterns("vendor", "__pycache__", "node_modules", ".installing")
    for name in (*ours, "requirements-node.txt"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy2(source, target / name)
    return target


def test_pages_that_cannot_be_built_are_told_and_only_the_server_goes_without(
    checkout: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "npm").write_text("#!/bin/sh\necho npm error code EAI_AGAIN >&2\nexit 1\n")
    (broken / "npm").chmod(0o755)
    environment = {**os.environ, "PATH": f"{broken}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    for options, status in (([], 1), (["--soft"], 0)):
        done = subprocess.run(
            [checkout / "scripts/web", *options],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == status
        assert "the package index cannot be reached" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("sandkeeper: so there is no console")


@pytest.fixture
def small(checkout: Path) -> Path:
    """A fresh clone of which the console is a line, for what is already fetched here to build."""
    shutil.rmtree(checkout / "console" / "src")
    (checkout / "console" / "src").mkdir()
    (checkout / "console" / "src" / "main.tsx").write_text('document.title = "sandkeeper";\n')
    fetched = ROOT / "console" / "node_modules"
    if fetched.is_dir():
        (checkout / "console" / "node_modules").symlink_to(fetched)
    return checkout


def test_a_wheel_of_a_fresh_clone_has_the_pages(small: Path, tmp_path: Path) -> None:
    command = [SCRIPTS / "pip", sys.executable, "wheel", "--no-deps", "-w", tmp_path, small]
    # What builds it is used once, and need not be compiled.
    env = {**os.environ, "PIP_NO_COMPILE": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=200, env=env)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    built = ("terminal.html", "vendor/xterm.js", "vendor/console/index.html")
    assert {f"sandkeeper/web/{name}" for name in built} <= names
