"""The law of `/filesystem-changes` with what real programs do to a tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import BASE_PYTHON, Server
from tests.watch.test_changes import check, copied

from sandkeeper.watch.changes import Difference

ROOT = Path(__file__).parents[2]

GIT = """
git init -q -b main repository && cd repository
git config user.name a && git config user.email a@example.org && git config gc.auto 0
mkdir -p src/old && seq 100 > src/old/numbers && seq 9 > both && git add . && git commit -qm 1
"""
GIT_STEPS = [
    "cd repository && git checkout -qb work && git mv src/old src/new && git commit -qm 2",
    "cd repository && seq 8 > both && rm -r src/new && mkdir src/new && seq 3 > src/new/x"
    " && git add -A && git commit -qm 3 && git checkout -q main && seq 7 > more && git add ."
    " && git commit -qm 4",
    "cd repository && git merge -q -m 5 work",
    "cd repository && git checkout -qb side main~1 && seq 5 > side && git add . && git commit -qm 6"
    " && git rebase -q main && git stash -q -u; git clean -fdxq; git gc -q",
]
VITE = [  # what a first start does with node_modules/.vite
    "mkdir -p .vite/deps_temp_1 && touch .vite/deps_temp_1/a.js .vite/deps_temp_1/package.json"
    " && mv .vite/deps_temp_1 .vite/deps",
    "mkdir .vite/deps_temp_2 && touch .vite/deps_temp_2/b.js && mv .vite/deps .vite/deps_old"
    " && mv .vite/deps_temp_2 .vite/deps && rm -r .vite/deps_old",
]
NPM = """
for version in 1 2; do
  mkdir -p made/$version/package/lib && cd made/$version/package
  echo "{\\"name\\": \\"small\\", \\"version\\": \\"$version.0.0\\"}" > package.json
  echo $version | tee index.js lib/both.js lib/only$version.js > only$version.js
  cd .. && tar czf ../../small-$version.tgz package && cd ../..
done
echo '{"name": "top", "version": "1.0.0"}' > package.json
"""
NPM_STEPS = [
    f"npm install --offline --no-audit --no-fund --loglevel=error --cache ../cache {what}"
    for what in ("./small-1.tgz", "./small-2.tgz")
]
PIP = (
    f'mkdir -p p && printf \'[project]\\nname = "p"\\nversion = "1"\' > p/pyproject.toml'
    f" && {sys.executable} -m venv --without-pip --symlinks venv"
)
PIP_INSTALL = (
    f"PYTHON={BASE_PYTHON} {ROOT}/scripts/pip venv/bin/python"
    " install -q --no-index --no-deps --force-reinstall"
)
PYTEST = [
    "mkdir tests && echo 'def test_a(tmp_path): (tmp_path / \"x\").touch()' > tests/test_a.py",
    *(
        f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {sys.executable} -m pytest -q --rootdir ."
        f" --basetemp base {more} tests"
        for more in ("", "--cache-clear")
    ),
]
PROGRAMS = {
    "git": (GIT, GIT_STEPS),
    "npm": (NPM, NPM_STEPS),
    "pip": (PIP, [f"{PIP_INSTALL} ./*-1-*.whl", f"{PIP_INSTALL} ./*-2-*.whl"]),
    "pytest": ("true", PYTEST),
    "vite": ("true", VITE),
}


def wheel(folder: Path, version: int) -> None:
    """Make a wheel of which the versions hold different files."""
    made = folder / f"made{version}"
    info = made / f"small-{version}.dist-info"
    info.mkdir(parents=True)
    (made / "small").mkdir()
    for name in ("__init__.py", f"only{version}.py"):
        (made / "small" / name).write_text(f"v = {version}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: small\nVersion: {version}\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    names = ["small/__init__.py", f"small/only{version}.py", *(f"{info.name}/{n}" for n in LISTED)]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    packed = shutil.make_archive(str(made), "zip", made)
    os.rename(packed, folder / f"small-{version}-py3-none-any.whl")


LISTED = ("METADATA", "WHEEL", "RECORD")


def run(command: str, folder: Path) -> None:
    subprocess.run(["sh", "-ec", command], cwd=folder, check=True, timeout=120)


@pytest.mark.parametrize("name", PROGRAMS)
def test_applied_to_a_copy_the_answer_makes_it_equal_the_tree(
    server: Server, tmp_path: Path, name: str
) -> None:
    if name in {"git", "npm"} and shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    top = tmp_path / "top"
    top.mkdir()
    prepare, steps = PROGRAMS[name]
    if name == "pip":
        wheel(top, 1)
        wheel(top, 2)
    run(prepare, top)

    def ask(since: str) -> dict[str, object]:
        reply = server.client.get(f"/filesystem-changes/{top}", params={"since": since})
        found: dict[str, object] = reply.raise_for_status().json()
        return found

    taken = [(str(ask("")["cursor"]), copied(top))]
    for step in steps:
        run(step, top)
        now = copied(top)
        for cursor, then in taken:
            found = ask(cursor)
            assert found["reset"] is False
            kinds = ("created", "changed", "deleted")
            lists = [[os.fsencode(path) for path in found[kind]] for kind in kinds]  # type: ignore[attr-defined]
            check(Difference("", False, *lists), then, now)
        taken.append((str(found["cursor"]), now))
