"""Bundles as upgrades: what is taken for one, and what comes of it."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.upgrade.test_upgrade_sources import SUM, fetch
from tests.wheels import digest, make_small_wheel

from sandkeeper.errors import Forbidden, NotFound, Unprocessable
from sandkeeper.files.tar.zstd import packed
from sandkeeper.upgrade import index
from sandkeeper.upgrade.bundle import unpack_bundle, version_of_bundle
from sandkeeper.upgrade.source import parse_allow, pick

MACHINE = os.uname().machine
PYTHON = "libexec/python3.13"


def make_bundle(
    folder: Path,
    version: str,
    *,
    ending: str = "tar.zst",
    about: dict[str, Any] | None = None,
    files: dict[str, bytes] | None = None,
    named: str = "",
) -> Path:
    """Pack a bundle in which nothing runs."""
    told = {"name": "sandkeeper", "version": version, "machine": MACHINE, "python": PYTHON}
    content = {
        "sandkeeper/bundle.json": json.dumps(told | (about or {})).encode(),
        f"sandkeeper/{PYTHON}": b"#!/bin/sh\n",
        **(files or {}),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if ending == "tar.gz" else "w") as archive:
        top = tarfile.TarInfo("sandkeeper")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(top)
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    data = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (named or f"sandkeeper-{version}-linux-{MACHINE}.{ending}")
    path.write_bytes(data if ending == "tar.gz" else b"".join(packed(iter([data]), 3, checksum=1)))
    return path


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4")
@pytest.mark.parametrize("ending", ["tar.zst", "tar.gz"])
def test_a_bundle_is_fetched_and_unpacked_as_it_is(tmp_path: Path, ending: str) -> None:
    path = make_bundle(tmp_path / "shelf", "2.0", ending=ending)

    got = fetch(f"{path.parent}/*", tmp_path / "in", sha256=digest(path))
    python = unpack_bundle(got.path, tmp_path / "made")

    assert got.version == "2.0"
    assert python == tmp_path / "made" / PYTHON
    assert os.access(python, os.X_OK)
    assert json.loads((tmp_path / "made" / "bundle.json").read_text())["version"] == "2.0"


@pytest.mark.parametrize("bundled", [True, False])
def test_of_a_wheel_and_a_bundle_of_one_version_it_is_what_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: bool
) -> None:
    shelf = tmp_path / "shelf"
    bundle, wheel = make_bundle(shelf, "2.0"), make_small_wheel(shelf, "2.0")
    make_bundle(shelf, "1.0")
    monkeypatch.setattr(index, "runs_from_bundle", lambda: bundled)
    expected = bundle if bundled else wheel

    assert fetch(f"{shelf}/*", tmp_path / "in", sha256=digest(expected)).path.name == expected.name


def test_a_place_of_names_alone_is_asked_for_what_we_are() -> None:
    allowed, faults = parse_allow(["https://host/dist/", f"https://host/x.tar.gz#sha256={SUM}"])

    assert faults == []
    wanted = f"https://host/dist/sandkeeper-2.0-linux-{MACHINE}.tar.zst"
    assert pick(allowed, "v2.0", "https://host/dist/", bundled=True).place == wanted
    assert pick(allowed, "2.0", "https://host/dist/").place.endswith("-2.0-py3-none-any.whl")
    assert pick(allowed, "2.0", "https://host/x.tar.gz").place == "https://host/x.tar.gz"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"about": {"version": "3.0"}}, "its name does not tell its version, which is 3.0"),
        ({"about": {"name": "other"}}, "it is a bundle of other"),
        ({"about": {"machine": "pdp11"}}, "it is a bundle of sandkeeper for pdp11"),
        ({"about": {"version": "x y"}}, "it is not a bundle"),
        ({"about": {"python": 7}}, "it is not a bundle"),
    ],
)
def test_what_is_no_bundle_of_ours_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    path = make_bundle(tmp_path / "shelf", "2.0", **changes)

    with pytest.raises(Forbidden, match=why):
        fetch(str(path), tmp_path / "in", sha256=digest(path))


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
@pytest.mark.parametrize("ending", ["tar.zst", "tar.gz"])
def test_a_damaged_bundle_is_told_and_not_run(tmp_path: Path, damage: str, ending: str) -> None:
    noise = {"sandkeeper/noise": os.urandom(300_000)}
    path = make_bundle(tmp_path / "shelf", "2.0", ending=ending, files=noise)
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"no"}[damage])

    with pytest.raises((Forbidden, Unprocessable)) as raised:
        got = fetch(str(path), tmp_path / "in", sha256=digest(path))
        unpack_bundle(got.path, tmp_path / "made")
    assert str(raised.value).startswith(("it is not a bundle", "it cannot be unpacked"))


@pytest.mark.parametrize(
    "name", ["../out", "sandkeeper/../../out", "/out", "other/file", "sandkeeper/x/../../../out"]
)
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str) -> None:
    path = make_bundle(tmp_path / "shelf", "2.0", files={name: b"x"})

    with pytest.raises(Unprocessable, match="it cannot be unpacked"):
        unpack_bundle(path, tmp_path / "made" / "deep")
    assert [one.name for one in tmp_path.rglob("out")] == []


def test_an_interpreter_that_cannot_unpack_safely_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bundle(tmp_path / "shelf", "2.0")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)

    with pytest.raises(Unprocessable, match=r"Python 3\.11\.4 or later is needed"):
        unpack_bundle(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_bundle_of_another_machine_is_none_for_this_one(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "2.0", named="sandkeeper-2.0-linux-pdp11.tar.zst")

    assert version_of_bundle(path.name) is None
    assert version_of_bundle(f"sandkeeper-x..y-linux-{MACHINE}.tar.zst") is None
    with pytest.raises(NotFound, match="no package of sandkeeper"):
        fetch(f"{tmp_path}/*", tmp_path / "in", sha256=digest(path))
