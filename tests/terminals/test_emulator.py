"""The emulator: true screens from bytes in any pieces, and screens that can be drawn again."""

from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import cases

from sandkeeper.terminals.emulator import Emulator
from sandkeeper.terminals.render import flowing_text, history_text, redraw, text_lines

PIECES = [
    *(
        "plain",
        "é",
        "漢字",
        "🙂",
        "e\u0301",
        "\r\n",
        "\n",
        "\r",
        "\b",
        "\t",
        "\x07",
        "\x0e",
        "\x0f",
    ),
    *("\x1b[31m", "\x1b[1;38;5;200m", "\x1b[38:2::1:2:3m", "\x1b[4:3m", "\x1b[0m", "\x1b[m"),
    *("\x1b[5;10H", "\x1b[2J", "\x1b[K", "\x1b[1K", "\x1b[3L", "\x1b[2M", "\x1b[4P", "\x1b[3@"),
    *("\x1b[2;6r", "\x1b[r", "\x1b[2S", "\x1b[3T", "\x1bM", "\x1bD", "\x1b7", "\x1b8", "\x1b[5X"),
    *("\x1b[?1049h", "\x1b[?1049l", "\x1b[?47h", "\x1b[?25l", "\x1b[?25h", "\x1b[?2004h", "\x1bc"),
    *("\x1b[?6h", "\x1b[?6l", "\x1b[?7l", "\x1b[?7h", "\x1b[4h", "\x1b[4l", "\x1b(0", "\x1b(B"),
    *("\x1b]0;title\x07", "\x1b]8;;http://a\x1b\\", "\x1bP+q544e\x1b\\", "\x1b[>4;2m", "\x1b[?1$p"),
    *("\x1b[99999999999b", "\x1b[999;999H", "\x1b[!p", "\x1b[ q", "\x1b[", "\x1b", "\x1b]", "\x9b"),
]


def screen_of(emulator: Emulator):
    screen = emulator.screen
    return text_lines(screen), (screen.cursor.x, screen.cursor.y), screen.title, screen.alternate


@settings(max_examples=cases(60), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.data())
def test_the_screen_does_not_depend_on_how_the_bytes_were_cut(pieces, data) -> None:
    whole = "".join(pieces).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    at_once, in_parts = Emulator(20, 8), Emulator(20, 8)

    at_once.feed(whole)
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        in_parts.feed(whole[start:end])

    assert screen_of(in_parts) == screen_of(at_once)
    assert in_parts.pending == at_once.pending


@settings(max_examples=cases(60), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_a_screen_drawn_again_is_the_same_screen(pieces) -> None:
    first, again = Emulator(20, 8), Emulator(20, 8)
    first.feed("".join(pieces).encode())

    again.feed(redraw(first.screen, 1 << 20).encode())

    assert screen_of(again)[0] == screen_of(first)[0]
    assert again.screen.alternate == first.screen.alternate
    assert again.screen.margins == first.screen.margins
    assert again.screen.cursor.hidden == first.screen.cursor.hidden
    assert again.screen.mode == first.screen.mode


@settings(max_examples=cases(40), deadline=None)
@given(st.binary(max_size=400), st.integers(1, 70_000), st.integers(1, 70_000))
def test_no_bytes_and_no_sizes_are_too_strange(data: bytes, cols: int, rows: int) -> None:
    emulator = Emulator(80, 24)
    emulator.feed(data)
    emulator.resize(cols, rows)
    emulator.feed(data + b"\x1b\\\x07")

    assert len(text_lines(emulator.screen)) == emulator.screen.lines


def test_the_alternate_screen_gives_the_primary_one_back() -> None:
    emulator = Emulator(20, 5)
    emulator.feed(b"first\r\nsecond\x1b[?1049h\x1b[H\x1b[2Jeditor")

    assert text_lines(emulator.screen)[0] == "editor"
    drawn = Emulator(20, 5)
    drawn.feed(redraw(emulator.screen, 0).encode())
    for one in (emulator, drawn):
        one.feed(b"\x1b[?1049l!")
        assert text_lines(one.screen)[:2] == ["first", "second!"]


def test_lines_that_scroll_off_are_history_and_wrapped_ones_are_joined_again() -> None:
    emulator = Emulator(10, 3)
    emulator.feed(b"x" * 25 + b"\r\n" + b"".join(b"%d\r\n" % n for n in range(5)))

    assert history_text(emulator.screen, 9) == ["x" * 10, "x" * 10, "x" * 5, "0", "1", "2"]
    assert "x" * 25 in redraw(emulator.screen, 1000)


def test_a_text_is_found_over_the_end_of_a_line_that_wraps() -> None:
    emulator = Emulator(10, 5)
    emulator.feed("12345678 SERVER READY 漢字漢字\r\nnext\r\n".encode())

    text = flowing_text(emulator.screen)
    assert "SERVER READY 漢字漢字\nnext\n" in text
    emulator.feed(b"\x1b[Hxxx\x1b[K")  # the first line is another now, and ends
    assert flowing_text(emulator.screen).startswith("xxx\n")


def test_an_endless_string_costs_no_memory_and_is_not_shown() -> None:
    emulator = Emulator(80, 24)
    emulator.feed(b"\x1bP")
    for _ in range(50):
        emulator.feed(b"q" * 10_000)

    assert emulator.pending <= 64 << 10
    emulator.feed(b"\x1b\\shown")
    assert text_lines(emulator.screen)[0] == "shown"


@pytest.mark.parametrize("queries", ["\x1b[6n", "\x1b[c", "\x1b]11;?\x07"])
def test_a_redrawn_screen_asks_the_client_nothing(queries: str) -> None:
    emulator = Emulator(80, 24)
    emulator.feed(f"a{queries}b".encode())

    assert queries not in redraw(emulator.screen, 1000)


WIDE = "漢".encode()
COSTLY = {
    "a character of which a line is repeated": WIDE + b"\x1b[9999b",
    "marks without end on one cell": b"e" + "\u0301".encode() * 600,
    "marks repeated": "\u0301".encode() + b"\x1b[9999b",
    "scrolling up by more than there is": b"\x1b[9999S",
    "scrolling down by more than there is": b"\x1b[9999T",
    "a screen full of E": b"\x1b#8",
    "a coloured screen erased": b"\x1b[41m\x1b[2J",
    "reversed and back": b"\x1b[?5h\x1b[?5l",
}


@pytest.mark.parametrize(("cols", "rows"), [(80, 24), (131, 1000), (10_000, 13)])
@pytest.mark.parametrize("what", COSTLY)
def test_no_sequence_takes_long_and_the_rest_is_kept_for_later(
    what: str, cols: int, rows: int
) -> None:
    emulator = Emulator(cols, rows)
    emulator.feed(b"\x1b#8\x1b[%d;1H" % rows)
    for _ in range(3):
        began = thread_time()
        emulator.feed(COSTLY[what], 0.001)

        assert thread_time() - began < 1


def test_what_is_shown_in_slices_is_what_is_shown_at_once() -> None:
    data = b"".join(COSTLY.values()) + b"\x1b[2;3Hab\x1b[5b" + WIDE[:2]
    whole, sliced = Emulator(20, 5), Emulator(20, 5)
    whole.feed(data)
    sliced.feed(data, 0)
    assert sliced.is_busy
    while sliced.is_busy:
        sliced.feed(b"", 0)

    assert screen_of(sliced) == screen_of(whole)
    assert sliced.pending == whole.pending == 2


def test_a_cell_holds_a_few_marks_only() -> None:
    emulator = Emulator(5, 2)
    for _ in range(100):
        emulator.feed(b"e" * (emulator.screen.cursor.x == 0) + "\u0301".encode() * 100)

    assert len(text_lines(emulator.screen)[0]) < 40


def test_numbers_of_any_length_are_read() -> None:
    emulator = Emulator(10, 3)
    emulator.feed(b"ab\x1b[" + b"9" * 6000 + b"D\x1b[" + b"0" * 6000 + b"2Cc")

    assert text_lines(emulator.screen)[0] == "abc"


def test_a_scrollback_of_long_lines_is_bounded_by_its_cells() -> None:
    emulator = Emulator(10_000, 3)
    for _ in range(200):
        emulator.feed(b"\x1b[41m\x1b[K\r\n")

    assert 10 <= len(emulator.screen.history) <= 30
    emulator.feed(b"\x1b[3J")
    assert not emulator.screen.history
