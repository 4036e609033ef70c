"""What `make bundle-test` needs: the bundle, roots without Python, a bundle of the next version."""

import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bundle")]

import archives  # noqa: E402 - of the folders above
from machines import NAME, ROOT, Machine, copy_libraries  # noqa: E402


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The archive of the bundle that scripts/bundle has made."""
    return ROOT / "dist" / f"{NAME}.tar.zst"


@pytest.fixture(scope="session")
def roots() -> Path:
    """Where roots of Debian are, made by scripts/bundle-test."""
    return Path(os.environ["SANDKEEPER_TEST_ROOTS"])


@pytest.fixture
def make_machine(tmp_path: Path, roots: Path, bundle: Path) -> Iterator[Callable[..., Machine]]:
    """Make machines of a Debian suite, or `empty` ones that have nothing but a C library."""
    with ExitStack() as stack:

        def make(suite: str, place: str = "/opt") -> Machine:
            root = tmp_path / suite
            root.mkdir()
            if suite == "empty":
                copy_libraries(roots / "bullseye.tar", root)
            else:
                subprocess.run(["tar", "-C", root, "-xf", roots / f"{suite}.tar"], check=True)
            return Machine(root, bundle, stack, place)

        yield make


@pytest.fixture
def next_bundle(tmp_path: Path, bundle: Path) -> Path:
    """A bundle of another version, as the next release would be, with its checksum beside it."""
    version = "99.1"
    tree = tmp_path / "next"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "--zstd", "-xf", bundle], check=True)
    tree /= "sandkeeper"
    about = json.loads((tree / "bundle.json").read_text())
    old, about["version"] = about["version"], version
    (tree / "bundle.json").write_text(json.dumps(about))
    (site,) = tree.glob("lib/python*/site-packages")
    package = site / "sandkeeper" / "__init__.py"
    package.write_text(package.read_text().replace(old, version))
    shutil.rmtree(package.parent / "__pycache__")
    (tree / "libexec/start.pack").unlink()  # has the old version's code; a start does without
    info = site / f"sandkeeper-{old}.dist-info"
    metadata = info / "METADATA"
    metadata.write_text(metadata.read_text().replace(f"Version: {old}", f"Version: {version}"))
    info.rename(site / f"sandkeeper-{version}.dist-info")
    data = archives.pack(tree, "sandkeeper", 1_700_000_000, first=("bundle.json",))
    path = tmp_path / f"sandkeeper-{version}-linux-{platform.machine()}.tar.gz"
    path.write_bytes(gzip.compress(data, 1, mtime=0))
    archives.note_checksum(path)
    return path
