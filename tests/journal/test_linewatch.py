"""Waiting for lines: many waiters, one pass, the same lines as each alone would have found."""

import asyncio
from random import choices
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import cases

from sandkeeper.errors import Unavailable
from sandkeeper.journal import linewatch, matching
from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.linewatch import LineBoard, Pattern, _Pass
from sandkeeper.journal.matching import Question
from sandkeeper.journal.segment import STDERR, STDOUT

GREPS = ["ab", "a+b", "^b", "b$", r"\Ab", "a.*b", "(?i)AB", "x", "(?-m)^a", "a\nb", "é", ".", "^$"]


def chunks(pieces: list[tuple[int, bytes]]) -> list[Chunk]:
    made, offset = [], 0
    for stream, data in pieces:
        made.append(Chunk(stream, offset, 0, data))
        offset += len(data)
    return made


def naive(pieces: list[tuple[int, bytes]], pattern: Pattern) -> bytes | None:
    """Find the first line, unfinished ones after each chunk, without any short cut."""
    rests = {STDOUT: b"", STDERR: b""}
    for stream, data in pieces:
        *whole, rests[stream] = (rests[stream] + data).split(b"\n")
        if stream in pattern.streams:
            for line in [*whole, *([rests[stream]] if rests[stream] else [])]:
                if pattern.matches(line):
                    return line
    return None


@settings(max_examples=cases(300), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([STDOUT, STDERR]),
            st.text("abA\né", min_size=1, max_size=12).map(str.encode),
        ),
        max_size=8,
    ),
    st.lists(
        st.builds(
            Question,
            stream=st.sampled_from(["", "stdout", "stderr"]),
            grep=st.sampled_from(GREPS),
            literal=st.booleans(),
            ignore_case=st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_each_pattern_of_a_pass_finds_what_it_alone_would(
    pieces: list[tuple[int, bytes]], questions: list[Question]
) -> None:
    one = _Pass(0)
    waiting: dict[object, Any] = {}
    patterns = {pattern.key: pattern for pattern in map(Pattern.of, questions)}
    for pattern in patterns.values():
        waiting[pattern.key] = SimpleNamespace(done=lambda: False)
        one.add(pattern, waiting[pattern.key])
    found: dict[object, bytes] = {}
    for chunk in chunks(pieces):
        for hit in one.look([chunk]):
            if hit is not None and hit[0].pattern.key not in found:
                found[hit[0].pattern.key] = hit[1].text.encode()

    assert found == {
        key: line
        for key, pattern in patterns.items()
        if (line := naive(pieces, pattern)) is not None
    }


class Growing:
    """A journal in memory, as far as a follower looks at one."""

    def __init__(self, data: bytes, block: int = 7) -> None:
        self.data = data
        self.block = block
        self.more = asyncio.Event()
        self.over = False
        self.reads = 0


class FollowGrowing:
    """Stands for `Follow` over a `Growing`: blocks of its size."""

    def __init__(self, journal: Growing, offset: int, **_: object) -> None:
        self.journal, self.offset = journal, offset

    async def next(self, _timeout: float) -> list[Chunk] | None:
        while self.offset >= len(self.journal.data):
            if self.journal.over:
                return None
            self.journal.more.clear()
            await self.journal.more.wait()
        self.journal.reads += 1
        data = self.journal.data[self.offset : self.offset + self.journal.block]
        chunk = Chunk(STDOUT, self.offset, 0, data)
        self.offset += len(data)
        return [chunk]

    def close(self) -> None:
        pass


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linewatch, "Follow", FollowGrowing)


def wait(board: LineBoard, journal: Any, grep: str, offset: int = 0) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(board.first(journal, Pattern.of(Question(grep=grep)), offset))


def test_waiters_that_begin_at_one_place_share_one_pass(growing: None) -> None:
    async def run() -> None:
        board, journal = LineBoard(), Growing(b"")
        waits = [wait(board, journal, f"line {number} ") for number in range(100)]
        await asyncio.sleep(0)
        assert len(board._passes[journal]) == 1
        journal.data = b"".join(b"line %d \n" % number for number in range(100))
        journal.over = True
        journal.more.set()
        found = await asyncio.gather(*waits)
        assert [one.text for one in found] == [f"line {number} " for number in range(100)]
        assert journal.reads <= len(journal.data) // 7 + 1
        assert not board._passes
        await board.close()

    asyncio.run(run())


def test_a_pass_that_has_caught_up_joins_the_other(growing: None) -> None:
    async def run() -> None:
        board, journal = LineBoard(), Growing(b"one\n" * 100)
        late = [wait(board, journal, "new", offset) for offset in (0, 4, 200, 400)]
        await asyncio.sleep(0)
        assert len(board._passes[journal]) == 4
        while len(board._passes[journal]) > 1:
            await asyncio.sleep(0)
        journal.data += b"a new\n"
        journal.more.set()
        assert {found.end for found in await asyncio.gather(*late)} == {406}
        await board.close()

    asyncio.run(run())


def test_the_end_of_the_output_and_a_cancelled_wait_leave_no_pass(growing: None) -> None:
    async def run() -> None:
        board, journal = LineBoard(), Growing(b"x\n")
        gone, stays = wait(board, journal, "never"), wait(board, journal, "nothing")
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert len(board._passes) == 1
        journal.over = True
        journal.more.set()
        assert await stays is None
        alone = wait(board, Growing(b""), "never")
        await asyncio.sleep(0.01)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert not board._passes
        await board.close()

    asyncio.run(run())


def test_patterns_have_a_bound_together_and_one_for_all_who_ask_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linewatch, "MEMORY_MOST", Pattern._held + 3 * linewatch.SMALL_BYTES)
    kept = [Pattern.of(Question(grep=f"kept {number}")) for number in range(4)]

    assert Pattern.of(Question(grep="kept 2")) is kept[2]
    with pytest.raises(Unavailable):
        Pattern.of(Question(grep="one more"))
    del kept
    assert Pattern.of(Question(grep="one more")).matches(b"with one more")


def test_a_pattern_too_large_for_little_memory_is_given_more() -> None:
    large = Pattern.of(Question(grep=r"^[\pL\pN]{3,40}$", literal=False))

    assert large.memory == linewatch.PATTERN_BYTES
    assert large.matches("wörter".encode())
    assert not large.matches(b"a-b")


def pattern(grep: str) -> Pattern:
    return Pattern.of(Question(grep=grep, literal=False))


def test_a_pattern_that_takes_seconds_for_a_line_keeps_no_other_waiter(growing: None) -> None:
    """Lines of 60,000 bytes, of each of which it may take a second and a half."""

    async def run() -> None:
        lines = (bytes(choices(b"ab", k=60_000)) + b"\n" for _ in range(20))
        board, journal = LineBoard(), Growing(b"".join(lines) + b"ready\n", 64 << 10)
        hostile = pattern(r"[^\x00]{0,900}[ab]{0,900}c")
        slow = asyncio.ensure_future(board.first(journal, hostile, 0))
        await asyncio.sleep(0)
        others = [board.first(journal, pattern(f"^rea.y|{number}"), 0) for number in range(20)]
        for found in await asyncio.gather(*others):
            assert found is not None
            assert found.text == "ready"
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await board.close()

    asyncio.run(run())


def test_a_pattern_that_took_long_goes_on_by_itself_and_misses_nothing(
    growing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linewatch, "SLOW_SECONDS", 0)
    monkeypatch.setattr(linewatch, "SLOW_SECONDS_A_LINE", 0)

    async def run() -> None:
        board, journal = LineBoard(), Growing(b"b\nthe ab line\nmore\n")  # cut behind "the a"
        journal.over = True
        slow, quick = pattern("a.?b|^ab"), pattern("never|no")
        waits = [board.first(journal, one, 0) for one in (slow, quick)]
        found, nothing = await asyncio.gather(*waits)
        assert slow.is_slow
        assert found is not None
        assert (found.text, found.end) == ("the ab line", 14)
        assert nothing is None
        await board.close()

    asyncio.run(run())


NEEDLE = b"SERVER READY"


@settings(max_examples=200, deadline=None)
@given(
    before=st.integers(0, 60),
    behind=st.integers(0, 30),
    sizes=st.lists(st.integers(1, 24), min_size=1, max_size=12),
    between=st.booleans(),
    grep=st.sampled_from(["SERVER READY", "(?i)server ready", r"R READ.$", r"aS\w+ ", r"^a*S"]),
)
def test_a_match_is_found_wherever_in_a_line_it_lies(
    before: int, behind: int, sizes: list[int], between: bool, grep: str
) -> None:
    """With lines of which 16 bytes are held, in place of 64 KiB."""
    line = b"a" * before + NEEDLE + b"b" * behind
    pieces: list[tuple[int, bytes]] = []
    rest = line + b"\n"
    for size in [*sizes, len(rest)]:
        pieces += [(STDOUT, rest[:size])] if rest[:size] else []
        pieces += [(STDERR, b"SERVER")] if between else []
        rest = rest[size:]
    question = Question(grep=grep, literal=grep == "SERVER READY")
    pattern = Pattern.of(question)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "LINE_BYTES", 16)
        patch.setattr(matching, "EXCERPT_CHARACTERS", 16)
        one = _Pass(0)
        one.add(pattern, SimpleNamespace(done=lambda: False))  # type: ignore[arg-type]
        found = [hit[1] for chunk in chunks(pieces) for hit in one.look([chunk]) if hit]

    # An open line may end here: `$` is there for it, and so is a part of what comes.
    wholes = [data for stream, data in pieces if stream == STDOUT]
    states = [b"".join(wholes[:count]).rstrip(b"\n") for count in range(1, len(wholes) + 1)]
    matches = [match for state in states if (match := pattern.matches(state))]
    if any(match.end - match.start <= 12 for match in matches):
        assert found
        assert len(found[0].text) <= 16
        if grep == "SERVER READY":
            assert grep in found[0].text
    if not matches:
        assert not found
