"""Screens drawn again: the same screen, cell by cell; and the screen that xterm.js shows."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandkeeper.terminals.clusters import is_lead
from sandkeeper.terminals.emulator import Emulator
from sandkeeper.terminals.render import history_text, redraw, text_lines
from sandkeeper.terminals.screen import TrueScreen

COLS, ROWS = 20, 8
ROOT = Path(__file__).parents[2]
CLUSTERS = {
    "हिन्दी": ["हि", "", "न्दी", ""],
    "\u1112\u1161\u11ab\u1100\u116e\u11a8": ["\u1112\u1161\u11ab", "", "\u1100\u116e\u11a8", ""],
    "👨‍👩‍👧!": ["👨‍👩‍👧", "", "!"],
    "می‌خواهم": ["م", "ی‌", "خ", "و", "ا", "ه", "م"],
    "❤️☁︎": ["❤️", "", "☁︎"],
    "🇩🇪🇫🇷": ["🇩🇪", "", "🇫🇷", ""],
    "1️⃣👍🏽": ["1️⃣", "", "👍🏽", ""],
    "e\u0301\u0323é": ["e\u0301\u0323", "é"],
    "กำก็": ["กำ", "", "ก็"],
    "a\u200bb\u00adc": ["a\u200b", "b", "\u00ad", "c"],
    "\u200fسلام": ["\u200fس", "ل", "ا", "م"],
}
TEXTS = ["plain", "é", "漢字", "🙂", "e\u0301", "\u0301", "\u200f", "\ufe0f", "\u200d", "x" * 19]
TEXTS += [*CLUSTERS, "🇩", "\u1112", "x"]
CONTROLS = ["\r\n", "\n", "\r", "\b", "\t", "\x0e", "\x0f", "\x1bM", "\x1bD", "\x1bE"]
MOVES = ["\x1b[5;10H", "\x1b[8;19H", "\x1b[3;20H", "\x1b[4A", "\x1b[2B", "\x1b[3C", "\x1b[2D"]
MOVES += ["\x1b[G", "\x1b[19G", "\x1b[20G", "\x1b[3d", "\x1b7", "\x1b8", "\x1bH", "\x1b[g"]
CHANGES = ["\x1b[2J", "\x1b[J", "\x1b[1J", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[3L", "\x1b[2M"]
CHANGES += ["\x1b[4P", "\x1b[P", "\x1b[3@", "\x1b[@", "\x1b[5X", "\x1b[X", "\x1b[2S", "\x1b[3T"]
REPEATS = ["\x1b[b", "\x1b[7b", "\x1b[99999999999b"]
MODES = ["\x1b[2;6r", "\x1b[r", "\x1b[?7l", "\x1b[?7h", "\x1b[4h", "\x1b[4l", "\x1b(0", "\x1b(B"]
MODES += ["\x1b)0", "\x1b[?6h", "\x1b[?6l", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1bc"]
STYLES = ["\x1b[31m", "\x1b[1;38;5;200m", "\x1b[44m", "\x1b[4;3m", "\x1b[m"]
PIECES = [*TEXTS, *CONTROLS, *MOVES, *CHANGES, *REPEATS, *MODES, *STYLES]
SIZES = st.tuples(st.integers(2, 24), st.integers(1, 10))


def cells(screen: TrueScreen, y: int) -> list[tuple]:
    """Return a row's cells; in one that holds a mark without a base all marks are left out."""
    row = screen.buffer.get(y)
    if row is None:
        return [screen.default_char] * screen.columns
    shown = [row[x] for x in range(screen.columns)]
    if any(is_lead(cell.data) for cell in shown):
        return [cell._replace(data=cell.data and cell.data.strip(MARKS)[:1]) for cell in shown]
    return shown


MARKS = "\u0301\u0323\u200f\ufe0f\u200d\u200b"


def state(screen: TrueScreen) -> dict:
    return {
        "text": ["".join(line.split()) for line in text_lines(screen)],
        "cells": [cells(screen, y) for y in range(screen.lines)],
        "cursor": (screen.cursor.x, screen.cursor.y, screen.cursor.attrs, screen.cursor.hidden),
        "margins": screen.margins,
        "mode": screen.mode,
        "charsets": (screen.g0_charset, screen.g1_charset, screen.charset),
        "tabs": screen.tabstops,
        "alternate": screen.alternate,
        "saved": screen.saved(screen.alternate),
    }


def drawn_again(emulator: Emulator) -> Emulator:
    again = Emulator(emulator.screen.columns, emulator.screen.lines)
    again.feed(redraw(emulator.screen, 1 << 20).encode())
    return again


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), SIZES), max_size=40))
@example(["漢字", "\x1b[99999999999b", "\x1b[2;6r", "plain"])
@example(["\u0301", "\x1b[4h", "plain"])
def test_a_screen_drawn_again_is_the_same_screen_to_the_cell(pieces: list) -> None:
    first = Emulator(COLS, ROWS)
    for piece in pieces:
        if isinstance(piece, tuple):
            first.resize(*piece)
        else:
            first.feed(piece.encode())

    assert state(drawn_again(first).screen) == state(first.screen)


@pytest.mark.parametrize("text", CLUSTERS)
def test_a_cell_holds_a_cluster_and_nothing_is_normalised(text: str) -> None:
    emulator = Emulator(40, 3)
    emulator.feed(text.encode())
    screen = emulator.screen

    shown = [screen.buffer[0][x].data for x in range(len(CLUSTERS[text]))]
    assert shown == CLUSTERS[text]
    assert screen.cursor.x == len(shown)
    assert text_lines(screen)[0] == text_lines(drawn_again(emulator).screen)[0] == text
    assert text in redraw(screen, 0)


@pytest.mark.parametrize("text", CLUSTERS)
def test_a_cluster_may_come_byte_by_byte(text: str) -> None:
    emulator = Emulator(40, 3)
    for byte in text.encode():
        emulator.feed(bytes([byte]))

    assert text_lines(emulator.screen)[0] == text


@pytest.mark.parametrize("text", ["ab漢", "a🇩🇪", "ab❤️", "abc\u1112\u1161\u11ab"])
def test_what_has_no_room_at_the_edge_begins_the_next_line_whole(text: str) -> None:
    emulator = Emulator(3, 3)
    emulator.feed(text.encode())

    assert "".join(text_lines(emulator.screen)) == text
    assert state(drawn_again(emulator).screen) == state(emulator.screen)


def test_a_mark_after_a_sequence_goes_to_the_cell_before_the_cursor() -> None:
    emulator = Emulator(10, 2)
    emulator.feed("e\x1b[31m\u0301x".encode())

    assert text_lines(emulator.screen)[0] == "e\u0301x"


@pytest.fixture(scope="module")
def xterm() -> Iterator[Callable[..., dict]]:
    """xterm.js without a page, and with the clusters of ours."""
    subprocess.run([ROOT / "scripts/npm", ROOT / "tests/terminals/xterm"], check=True, timeout=300)
    script = ROOT / "tests/terminals/xterm/screen.cjs"
    path = f"{os.environ.get('PATH', '')}:{ROOT / '.venv/bin'}"
    command = ["node", str(script), str(ROOT / "src/sandkeeper/web/clusters.js")]
    node = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert node.stdin is not None
    assert node.stdout is not None

    def shown(cols: int, rows: int, *texts: str) -> dict:
        node.stdin.write(json.dumps({"cols": cols, "rows": rows, "texts": texts}) + "\n")
        node.stdin.flush()
        return json.loads(node.stdout.readline())

    yield shown
    node.stdin.close()
    node.wait(30)
    node.stdout.close()


def ours(screen: TrueScreen) -> dict:
    rows = [screen.buffer.get(y) for y in range(screen.lines)]
    lines = [
        [row[x].data for x in range(screen.columns)] if row else [" "] * screen.columns
        for row in rows
    ]
    cursor = [min(screen.cursor.x, screen.columns - 1), screen.cursor.y]
    return {"lines": lines, "cursor": cursor, "alternate": screen.alternate}


# Left out is where xterm.js is not like an xterm: marks with nothing before them have a cell
# without a width, a wide character at the edge keeps half of itself without DECAWM, relative moves
# count the margin twice in origin mode, a saved cursor scrolls with the text and knows one
# character set of two, and erasing up to a full last line throws.
NOT_AS_XTERM = {"\x1b[?7l", "\x1b[?6h", "\x0e", "\x1b)0", "\x1b7", "\x1b8", "\x1b[1J"}
NOT_AS_XTERM |= {"\x1b[?1049h", "\x1b[?1049l"}
NOT_AS_XTERM |= {*REPEATS, *filter(is_lead, PIECES)}
AS_XTERM = ["\x1b[?47h", "\x1b[?47l", *(piece for piece in PIECES if piece not in NOT_AS_XTERM)]


LINES = st.text(st.sampled_from("ab 漢"), max_size=90).map(lambda text: text.rstrip() + "\r\n")
WIDTHS = st.tuples(st.integers(3, 40), st.integers(2, 12))


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINES, max_size=14), sizes=st.lists(WIDTHS, min_size=1, max_size=4))
@example(lines=["a" * 50 + "\r\n"], sizes=[(10, 8), (40, 8)])
@example(lines=["a" * 90 + "\r\n"] * 14, sizes=[(40, 12)])
def test_lines_of_text_wrap_anew_in_another_size_as_in_xterm_js(
    xterm: Callable[..., dict], lines: list[str], sizes: list[tuple[int, int]]
) -> None:
    emulator = Emulator(COLS, ROWS)
    emulator.feed("".join(lines).encode())
    for size in sizes:
        emulator.resize(*size)

    assert ours(emulator.screen) == xterm(COLS, ROWS, *lines, *sizes)


def test_text_that_scrolled_off_wraps_anew_and_comes_back() -> None:
    emulator = Emulator(10, 3)
    emulator.feed(b"".join(bytes([97 + n]) * 25 + b"\r\n" for n in range(3)) + b"$ ")

    emulator.resize(30, 3)
    assert text_lines(emulator.screen) == ["b" * 25, "c" * 25, "$"]
    assert history_text(emulator.screen, 9) == ["a" * 25]
    emulator.resize(30, 4)
    assert text_lines(emulator.screen) == ["a" * 25, "b" * 25, "c" * 25, "$"]
    emulator.resize(5, 2)
    assert text_lines(emulator.screen) == ["c" * 5, "$"]
    assert history_text(emulator.screen, 6) == ["b" * 5] * 2 + ["c" * 5] * 4
    emulator.resize(25, 4)
    assert text_lines(emulator.screen) == ["a" * 25, "b" * 25, "c" * 25, "$"]


def test_the_line_of_the_cursor_is_its_programs_to_draw_again() -> None:
    emulator = Emulator(10, 4)
    emulator.feed(b"out\r\n$ " + b"x" * 15)

    emulator.resize(20, 4)
    assert text_lines(emulator.screen) == ["out", "$ xxxxxxxx", "xxxxxxx", ""]
    emulator.feed(b"\x1b[A\r\x1b[J$ " + b"x" * 15)  # as a shell does
    assert text_lines(emulator.screen) == ["out", "$ " + "x" * 15, "", ""]


def test_the_screen_behind_an_editor_wraps_anew_too() -> None:
    emulator = Emulator(10, 4)
    emulator.feed(b"x" * 15 + b"\r\n$ vi\x1b[?1049h\x1b[H" + b"e" * 30)

    emulator.resize(20, 4)
    assert text_lines(emulator.screen) == ["e" * 10] * 3 + [""]
    emulator.feed(b"\x1b[?1049l!")
    assert text_lines(emulator.screen) == ["x" * 15, "$ vi!", "", ""]


def test_a_line_without_an_end_is_wrapped_in_bounded_pieces() -> None:
    emulator = Emulator(100, 10)
    emulator.feed(b"z" * 150_000 + b"\r\n")

    emulator.resize(50, 10)

    assert text_lines(emulator.screen)[:9] == ["z" * 50] * 9
    assert sum(map(len, history_text(emulator.screen, 3000))) >= 100_000


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(AS_XTERM), max_size=40))
def test_a_screen_is_what_xterm_js_shows_and_so_is_its_redraw(
    xterm: Callable[..., dict], pieces: list[str]
) -> None:
    emulator = Emulator(COLS, ROWS)
    for piece in pieces:
        emulator.feed(piece.encode())

    assert ours(emulator.screen) == xterm(COLS, ROWS, *pieces)
    assert xterm(COLS, ROWS, redraw(emulator.screen, 1 << 20)) == ours(emulator.screen)
