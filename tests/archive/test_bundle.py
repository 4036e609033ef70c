"""The tar of known length: any part of it, made as often as needed, is always the same bytes."""

import io
import os
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from tests.harness import until

from sandkeeper.archive.bundle import Bundle, Plan
from sandkeeper.archive.recorded import BadBaseline, Baseline, record
from sandkeeper.archive.snapshot import LeftOut, TreeChange, compare, look, similar


def nothing() -> None:
    return


def planned(root: Path) -> Plan:
    plan = Plan(tempfile.TemporaryFile())  # noqa: SIM115 - the test closes it
    for entry in look(str(root), LeftOut([]), nothing):
        plan.add(TreeChange("added", entry.path, entry))
    return plan


def bundle(root: Path, plan: Plan, changed: list[str] | None = None) -> Bundle:
    told = changed if changed is not None else []
    return Bundle(str(root), plan, {"first": b"1", "second": b"2" * 513}, 7, told.append)


def whole(made: Bundle) -> bytes:
    return b"".join(made.blocks(0, made.size, nothing))


def test_every_range_is_a_slice_of_the_whole(tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in range(1300):
        size = chance.choice([0, 1, 511, 512, 513, 3000])
        (tmp_path / f"{number:04}").write_bytes(chance.randbytes(size))
    (tmp_path / "big").write_bytes(chance.randbytes(3_000_001))
    (tmp_path / "link").symlink_to("big")
    (tmp_path / ("n" * 200)).mkdir()
    with open(tmp_path / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"data" * 3001)
        file.truncate(3 << 20)
    plan = planned(tmp_path)
    made = bundle(tmp_path, plan)
    all_of_it = whole(made)

    assert len(all_of_it) == made.size
    for _ in range(40):
        start = chance.randrange(made.size)
        length = chance.randrange(made.size - start + 1)
        got = b"".join(made.blocks(start, length, nothing))
        assert got == all_of_it[start : start + length], (start, length)
    with tarfile.open(fileobj=io.BytesIO(all_of_it)) as archive:
        names = archive.getnames()
        holes = archive.extractfile("holes")
        assert holes is not None
        assert holes.read() == (tmp_path / "holes").read_bytes()
    assert len(all_of_it) < 6 << 20
    assert names[:2] == ["first", "second"]
    assert len(names) == 2 + 1304
    plan.file.close()


def test_files_that_change_meanwhile_keep_their_announced_length(tmp_path: Path) -> None:
    for name in ("cut", "grown", "gone", "same"):
        (tmp_path / name).write_bytes(b"x" * 3000)
    plan = planned(tmp_path)
    told: list[str] = []
    made = bundle(tmp_path, plan, told)
    os.truncate(tmp_path / "cut", 100)
    with open(tmp_path / "grown", "ab") as file:
        file.write(b"y" * 5000)
    (tmp_path / "gone").unlink()

    data = whole(made)

    assert len(data) == made.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        contents = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
        }
    assert contents["cut"] == b"x" * 100 + bytes(2900)
    assert contents["grown"] == b"x" * 3000 == contents["same"]
    assert contents["gone"] == bytes(3000)
    assert told == ["cut", "gone"]
    plan.file.close()


def test_only_names_that_are_in_the_tar_become_hard_links(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("x")
    for name in ("in/b", "outside"):
        os.link(tmp_path / "in/a", tmp_path / name)
    plan = planned(tmp_path / "in")

    with tarfile.open(fileobj=io.BytesIO(whole(bundle(tmp_path / "in", plan)))) as archive:
        assert (archive.getmember("a").isreg(), archive.getmember("b").linkname) == (True, "a")
    plan.file.close()


def changes(present: Path, pristine: Path, left_out: LeftOut) -> list[tuple[str, str]]:
    found = compare(
        look(str(present), left_out, nothing),
        look(str(pristine), left_out, nothing),
        left_out,
        lambda old, new: similar(old.facts, new.facts),
    )
    return [(change.kind, change.path) for change in found]


def test_two_trees_are_compared_in_one_order_whatever_their_names(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for top in (old, new):
        # "a!" sorts before "a/b" as a string, and after it in a walk.
        for name in ("a/b/c", "a!", "a-b/c", "kind"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("x")
            os.utime(top / name, (5, 5))
    (old / "was/a/tree").mkdir(parents=True)
    (old / "skipped/x").mkdir(parents=True)
    (new / "kind").unlink()
    (new / "kind").mkdir()
    (new / "kind/inside").write_text("")
    (new / "a/b/c").chmod(0o600)
    (new / "a/b/new").write_text("")
    (new / "link").symlink_to("a")

    assert changes(new, old, LeftOut(["skipped"])) == [
        ("modified", "a/b/c"),
        ("added", "a/b/new"),
        ("modified", "kind"),
        ("added", "kind/inside"),
        ("added", "link"),
        ("deleted", "was"),
    ]
    back = changes(old, new, LeftOut(["skipped"]))
    assert ("modified", "kind") in back
    assert ("deleted", "kind/inside") not in back


def test_a_baseline_tells_what_was_there_and_when_it_is_broken(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    (root / "d").mkdir(parents=True)
    (root / os.fsdecode(b"raw\xff")).write_text("x")
    (root / "out").write_text("")
    # The kernel's clock for files stands still for some milliseconds at a time.
    probe = tmp_path / "probe"
    until(lambda: probe.touch() or probe.stat().st_mtime_ns > (root / "out").stat().st_ctime_ns)

    assert record(str(root), state, LeftOut(["out"])) == 2

    baseline = Baseline(state)
    assert [entry.path for entry in baseline.entries()] == ["d", os.fsdecode(b"raw\xff")]
    assert (baseline.root, baseline.left_out, baseline.on_this_disk) == (str(root), ["out"], True)
    anchor = state / "anchor"
    before = anchor.stat().st_ctime_ns
    until(lambda: anchor.touch() or anchor.stat().st_ctime_ns > before)
    assert not Baseline(state).on_this_disk
    data = (state / "baseline").read_bytes()
    for broken in (b"", b"nonsense", data[: len(data) // 2], data[:-4]):
        (state / "baseline").write_bytes(broken)
        with pytest.raises(BadBaseline):
            list(Baseline(state).entries())
