"""The log of changes against plain snapshots, and its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.watch.changes import ChangeLog

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40)


@given(STEPS, STEPS, st.sets(st.sampled_from("abc")))
def test_an_answer_is_the_difference_of_two_snapshots(
    before: list[tuple[str, bool]], after: list[tuple[str, bool]], existing: set[str]
) -> None:
    log = ChangeLog()

    def play(steps: list[tuple[str, bool]]) -> set[str]:
        touched = set()
        for name, deletes in steps:
            path = name.encode()
            if deletes and name in existing:
                existing.discard(name)
                log.record(path, "deleted")
            elif not deletes:
                log.record(path, "changed" if name in existing else "created")
                existing.add(name)
            else:
                continue
            touched.add(name)
        return touched

    play(before)
    cursor, at_cursor = log.number, set(existing)
    touched = play(after)
    answer = log.since(cursor)

    assert not answer.reset
    # What came and went too often to be remembered counts as having existed.
    at_cursor |= {name for name in touched if log.is_vague(name.encode(), cursor)}
    assert answer.created == sorted(name.encode() for name in existing - at_cursor)
    assert answer.deleted == sorted(name.encode() for name in at_cursor - existing)
    stayed = touched & existing & at_cursor
    assert answer.changed == sorted(name.encode() for name in stayed)


def test_a_full_log_resets_only_cursors_whose_changes_are_gone() -> None:
    log = ChangeLog(limit=3)
    for name in (b"a", b"b", b"c"):
        log.record(name, "created")
    assert log.since(0).created == [b"a", b"b", b"c"]

    log.record(b"d", "created")
    assert log.since(0).reset
    assert log.since(1).created == [b"b", b"c", b"d"]


def test_a_file_written_for_ever_takes_one_place() -> None:
    log = ChangeLog(limit=3)
    for _ in range(1000):
        log.record(b"log", "changed")

    assert log.since(0).changed == [b"log"]


def test_after_forgetting_no_earlier_cursor_is_good() -> None:
    log = ChangeLog()
    log.record(b"a", "created")
    cursor = log.number
    log.forget()

    assert log.since(cursor).reset
    assert not log.since(log.number).reset
    assert log.since(log.number + 1).reset
