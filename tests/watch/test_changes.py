"""What changed since a cursor, against copies of the tree; the log's and the names' bounds."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.watch.storm import exchange

from sandkeeper.linux.inotify import Inotify, Mask, Notice, notices
from sandkeeper.watch.changes import ChangeLog, Difference, TouchedPaths
from sandkeeper.watch.names import NameStore
from sandkeeper.watch.tree import WatchTree

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40)
DIRECTORIES = ["a", "b", "a/c", "b/c", "../out/a"]
FILES = ["f", "a/f", "b/f", "a/c/f", "b/c/g", "../out/a/g"]
PLACES = st.sampled_from([*DIRECTORIES, *FILES])

Copy = dict[str, tuple[str, str]]


def copied(root: Path) -> Copy:
    """Return what is below a root: kinds, and contents or targets."""
    copy: Copy = {}
    for where, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = Path(where, name)
            if path.is_symlink():
                found = ("link", str(path.readlink()))
            elif path.is_dir():
                found = ("directory", "")
            else:
                found = ("file", path.read_text("latin-1"))
            copy[str(path.relative_to(root))] = found
    return copy


def check(answer: Difference, then: Copy, now: Copy) -> None:
    """Check the law: applied to the copy, the answer makes it equal the tree."""
    created, changed, deleted = (
        set(map(os.fsdecode, paths)) for paths in (answer.created, answer.changed, answer.deleted)
    )
    assert created == now.keys() - then.keys()
    assert deleted == then.keys() - now.keys()
    assert changed <= now.keys() & then.keys()
    applied = {path: found for path, found in then.items() if path not in deleted}
    applied |= {path: now[path] for path in created | changed}
    assert applied == now


class Recorded:
    """A record of a folder whose notices are looked at when the test says so."""

    def __init__(self, root: Path, store: NameStore) -> None:
        self.root = root
        self.inotify = Inotify()
        self.record = TouchedPaths(os.fsencode(root), store)
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens before and after each of the tree's looks at the folder."""
        self.tree = WatchTree(
            self,
            os.fsencode(root),
            recursive=True,
            ignored=(),
            audience=self.record,
            between=lambda: None,
            aside=self.aside,
        )
        self.tree.arm()
        self.queued: list[Notice] = []

    def add(self, path: bytes, mask: int) -> int:
        """Watch a directory for the tree."""
        with self.aside():
            return self.inotify.add(path, mask)

    def remove(self, watch: int) -> None:
        """Stop a watch for the tree."""
        self.inotify.remove(watch)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Have the folder change around a look."""
        self.meanwhile()
        yield
        self.meanwhile()

    def follow(self, most: int | None = None) -> None:
        """Look at some notices, or at all."""
        while data := self.inotify.read():
            self.queued += notices(data)
        some, self.queued = self.queued[:most], self.queued[most:] if most is not None else []
        for notice in some:
            self.tree.handle(notice)
        self.tree.settle()

    def lose(self) -> None:
        """Have the kernel drop all notices."""
        while self.inotify.read():
            pass
        self.queued = [Notice(-1, Mask.OVERFLOW, 0, b"")]

    def cursor(self) -> int:
        """Return a cursor for now."""
        self.follow()
        return self.record.log.cursor()

    def since(self, cursor: int) -> Difference:
        """Return what happened since."""
        self.follow()
        return self.record.log.since(cursor)


class Law(RuleBasedStateMachine):
    """Anything that changes a tree, cursors at any moment, and answers for any of them."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "out").mkdir()
        self.root = folder / "root"
        self.root.mkdir()
        for place in DIRECTORIES:
            (self.root / place).mkdir()
        for place in FILES:
            (self.root / place).write_text(place, encoding="ascii")
        self.recorded = Recorded(self.root, NameStore())
        self._stack.callback(self.recorded.inotify.close)
        self.lost = 0
        self.count = 0
        self.taken = [self.cursor()]

    def teardown(self) -> None:
        with self._stack:
            for cursor in self.taken:
                self.since(cursor)

    @rule(place=PLACES)
    def mkdir(self, place: str) -> None:
        with suppress(OSError):
            (self.root / place).mkdir()

    @rule(place=PLACES, mode=st.sampled_from("wax"))
    def write(self, place: str, mode: str) -> None:
        self.count += 1
        with suppress(OSError), self.opened(place, mode) as file:
            file.write(f"{self.count},")

    @rule(place=PLACES)
    def write_to_what_was_removed(self, place: str) -> None:
        with suppress(OSError), self.opened(place, "a") as file:
            (self.root / place).unlink()
            file.write("lost")

    def opened(self, place: str, mode: str) -> IO[str]:
        path = self.root / place
        if path.exists() and path.stat().st_nlink > 1:
            raise OSError("the kernel would tell it of one of its names only")
        return path.open(mode, encoding="ascii")

    @rule(first=PLACES, second=PLACES)
    def rename(self, first: str, second: str) -> None:
        with suppress(OSError):
            os.rename(self.root / first, self.root / second)

    @rule(first=PLACES, second=PLACES)
    def exchange(self, first: str, second: str) -> None:
        exchange(f"{self.root}/{first}", f"{self.root}/{second}")

    @rule(place=PLACES, other=PLACES)
    def symlink(self, place: str, other: str) -> None:
        with suppress(OSError):
            (self.root / place).symlink_to(other)

    @rule(place=PLACES, other=PLACES)
    def link(self, place: str, other: str) -> None:
        with suppress(OSError):
            (self.root / place).hardlink_to(self.root / other)

    @rule(place=PLACES)
    def remove(self, place: str) -> None:
        path = self.root / place
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    @rule(count=st.integers(1, 4))
    def follow_some(self, count: int) -> None:
        self.recorded.follow(count)

    @rule()
    def lose(self) -> None:
        self.recorded.lose()
        self.recorded.follow()
        self.lost = self.recorded.cursor()

    @rule()
    def take_cursor(self) -> None:
        self.taken.append(self.cursor())

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        self.since(data.draw(st.sampled_from(self.taken)))

    def cursor(self) -> tuple[int, Copy]:
        return self.recorded.cursor(), copied(self.root)

    def since(self, cursor: tuple[int, Copy]) -> None:
        number, then = cursor
        answer = self.recorded.since(number)
        assert answer.reset == (number < self.lost)
        if not answer.reset:
            check(answer, then, copied(self.root))


TestLaw = Law.TestCase
TestLaw.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@settings(deadline=None)
@given(STEPS, STEPS, st.sets(st.sampled_from("abc")))
def test_an_answer_is_the_difference_of_two_snapshots(
    before: list[tuple[str, bool]], after: list[tuple[str, bool]], existing: set[str]
) -> None:
    log = ChangeLog()

    def play(steps: list[tuple[str, bool]]) -> set[str]:
        touched = set()
        for name, deletes in steps:
            if deletes and name not in existing:
                continue
            log.record(name.encode(), existed=name in existing, exists=not deletes)
            existing.discard(name) if deletes else existing.add(name)
            touched.add(name)
        return touched

    play(before)
    cursor, at_cursor = log.cursor(), set(existing)
    touched = play(after)
    answer = log.since(cursor)

    assert not answer.reset
    assert answer.created == sorted(name.encode() for name in existing - at_cursor)
    assert answer.deleted == sorted(name.encode() for name in at_cursor - existing)
    stayed = touched & existing & at_cursor
    assert answer.changed == sorted(name.encode() for name in stayed)


def test_a_full_log_resets_only_cursors_whose_changes_are_gone() -> None:
    log = ChangeLog(limit=3)
    first = log.cursor()
    log.record(b"a", existed=False, exists=True)
    second = log.cursor()
    for name in (b"b", b"c"):
        log.record(name, existed=False, exists=True)
    assert log.since(first).created == [b"a", b"b", b"c"]

    log.record(b"d", existed=False, exists=True)
    assert log.since(first).reset
    assert log.since(second).created == [b"b", b"c", b"d"]


def test_a_file_written_for_ever_takes_one_place() -> None:
    log = ChangeLog(limit=3)
    first = log.cursor()
    for _ in range(1000):
        log.record(b"log", existed=True, exists=True)
        log.cursor()

    assert log.since(first).changed == [b"log"]


def test_a_file_that_comes_and_goes_between_cursors_is_remembered_for_the_last_of_them() -> None:
    log = ChangeLog()
    cursors = []
    for index in range(1000):
        cursors.append(log.cursor())
        log.record(b"lock", existed=bool(index % 2), exists=not index % 2)

    assert log.since(cursors[0]).reset
    assert log.since(cursors[-1]).deleted == [b"lock"]
    answers = [log.since(cursor) for cursor in cursors[-60:]]
    assert {answer.reset for answer in answers} == {False}
    assert [bool(answer.deleted) for answer in answers] == [index % 2 == 1 for index in range(60)]


def test_after_forgetting_no_earlier_cursor_is_good() -> None:
    log = ChangeLog()
    log.record(b"a", existed=False, exists=True)
    cursor = log.cursor()
    log.forget()

    assert log.since(cursor).reset
    assert not log.since(log.cursor()).reset
    assert log.since(log.cursor() + 1).reset


def test_names_that_do_not_fit_cost_a_reset_never_a_wrong_answer(tmp_path: Path) -> None:
    random_ = random.Random(7)
    for directory in ("small", "large"):
        (tmp_path / directory).mkdir()
    for index in range(200):
        (tmp_path / "large" / f"{index:0200}").touch()
    (tmp_path / "small" / "f").touch()
    store = NameStore(10_000)
    recorded = Recorded(tmp_path, store)
    try:
        cursor, then = recorded.cursor(), copied(tmp_path)
        (tmp_path / "small").rename(tmp_path / "moved")
        (tmp_path / "large" / "fresh").touch()
        gone = random_.choice(sorted(os.listdir(tmp_path / "large")))
        (tmp_path / "large" / gone).unlink()
        check(recorded.since(cursor), then, copied(tmp_path))
        assert 0 < store.held <= 10_000

        (tmp_path / "large").rename(tmp_path / "elsewhere")
        assert recorded.since(cursor).reset
        cursor, then = recorded.cursor(), copied(tmp_path)
        shutil.rmtree(tmp_path / "elsewhere")
        check(recorded.since(cursor), then, copied(tmp_path))
    finally:
        recorded.inotify.close()
        recorded.record.close()
    assert store.held == 0


def test_what_a_rename_replaces_is_told_also_where_no_names_are_known(tmp_path: Path) -> None:
    for name in ("f", "g", "t", "u"):
        (tmp_path / name).write_text(name)
    recorded = Recorded(tmp_path, NameStore(0))
    with closing(recorded.inotify):
        cursor, then = recorded.cursor(), copied(tmp_path)
        (tmp_path / "t").rename(tmp_path / "f")
        (tmp_path / "u").rename(tmp_path / "g")
        check(recorded.since(cursor), then, copied(tmp_path))
        (tmp_path / "g").unlink()
        check(recorded.since(cursor), then, copied(tmp_path))


def test_a_directory_that_is_found_ahead_of_its_notices_has_no_name_until_they_come(
    tmp_path: Path,
) -> None:
    """What is read again shows the present, and the notices behind it tell of the past."""
    root = tmp_path / "root"
    for place in ("a/c/d", "b", "e"):
        (root / place).mkdir(parents=True)
    (root / "e/h").write_text("before")
    recorded = Recorded(root, NameStore())
    with closing(recorded.inotify):
        cursor, then = recorded.cursor(), copied(root)
        (root / "a/c").rename(root / "b/c")  # read again where it now stands, with what is in it
        (root / "b/c/d").rmdir()
        with (root / "e/h").open("a") as file:
            file.write("more")
        (root / "e/h").unlink()
        (root / "e").rename(root / "b/c/d")
        check(recorded.since(cursor), then, copied(root))
        (root / "b/c/d/i").write_text("i")
        check(recorded.since(cursor), then, copied(root))
