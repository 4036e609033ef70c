"""The emulator: bytes of a terminal in, the state of its screen.

The tokeniser works on bytes, so that `pending` is exact: an escape sequence or a character whose
end has not come waits for it, and whoever draws the screen elsewhere goes on in front of it.
Sequences that pyte's own parser would print or misread (DCS, private parameters, intermediates,
colons) are recognised and ignored here, where they do not concern the screen.
"""

import re
from collections.abc import Callable
from math import inf
from time import monotonic

from sandkeeper.terminals.screen import TrueScreen

__all__ = ["MODE_SEQUENCES", "Emulator"]

MOST_PENDING = 64 << 10
REPEATS_AT_ONCE = 64

_TOKEN = re.compile(
    rb"(?P<text>[^\x00-\x1f\x7f]+)"
    rb"|\x1b\[(?P<csi>[0-?]*)(?P<mid>[ -/]*)(?P<final>[@-~])"
    rb"|\x1b(?P<string>[\]PX^_])(?P<body>[^\x07\x18\x1a\x1b]*)(?:\x07|\x1b\\|(?=[\x18\x1a])|(?=\x1b[^\\]))"
    rb"|\x1b(?P<esc>[ -/]*[0-OQ-WYZ\\`-~])"
    rb"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f])"
)
_INCOMPLETE = re.compile(rb"\x1b(?:[ -/]*|\[[0-?]*[ -/]*|[\]PX^_][^\x07\x18\x1a\x1b]*\x1b?)\Z")
MODE_SEQUENCES = re.compile(
    rb"\x1b(?:c|\[!p|[=>]|[()][0-9A-Za-z]|\[\?[0-9;]{1,40}[hl]|\[[0-9;]{0,20}r"
    rb"|\]0?2?;[^\x07\x1b]{0,256}(?:\x07|\x1b\\))"
)
"""What lasts longer than the text around it; taken out of a stretch that is skipped."""


class Emulator:
    """One terminal's screen; the last `pending` bytes it was fed begin something unfinished."""

    def __init__(self, cols: int, rows: int) -> None:
        self.screen = TrueScreen(cols, rows)
        self._pending = b""
        self._last = ""
        self._lost_string = False
        self._repeats = 0
        self.is_busy = False
        screen = self.screen
        self._controls: dict[bytes, Callable[[], object]] = {
            b"\b": screen.backspace,
            b"\t": screen.tab,
            b"\n": screen.linefeed,
            b"\v": screen.linefeed,
            b"\f": screen.linefeed,
            b"\r": screen.carriage_return,
            b"\x0e": screen.shift_out,
            b"\x0f": screen.shift_in,
        }
        self._escapes: dict[bytes, Callable[[], object]] = {
            b"7": screen.save_cursor,
            b"8": screen.restore_cursor,
            b"D": self._next_line,
            b"E": lambda: self._next_line(first=True),
            b"M": screen.reverse_index,
            b"H": screen.set_tab_stop,
            b"c": screen.reset,
            b"=": lambda: setattr(screen, "keypad", True),
            b">": lambda: setattr(screen, "keypad", False),
            b"#8": screen.alignment_display,
        }
        self._sequences: dict[bytes, Callable[..., object]] = {
            b"@": screen.insert_characters,
            b"A": screen.cursor_up,
            b"B": screen.cursor_down,
            b"C": screen.cursor_forward,
            b"D": screen.cursor_back,
            b"E": screen.cursor_down1,
            b"F": screen.cursor_up1,
            b"G": screen.cursor_to_column,
            b"`": screen.cursor_to_column,
            b"a": screen.cursor_forward,
            b"e": screen.cursor_down,
            b"d": screen.cursor_to_line,
            b"L": screen.insert_lines,
            b"M": screen.delete_lines,
            b"P": screen.delete_characters,
            b"X": screen.erase_characters,
            b"S": lambda count=1: screen.scroll(count or 1),
            b"T": lambda count=1: screen.scroll(-(count or 1)),
            b"b": self._repeat,
            b"g": lambda how=0: screen.clear_tab_stop(how),
            b"J": lambda how=0: screen.erase_in_display(how),
            b"K": lambda how=0: screen.erase_in_line(how),
        }
        self._long_sequences: dict[bytes, Callable[..., object]] = {
            b"H": lambda *args: screen.cursor_position(*args[:2]),
            b"f": lambda *args: screen.cursor_position(*args[:2]),
            b"r": lambda *args: screen.set_margins(*(arg or None for arg in args[:2])),
            b"h": lambda *args: screen.set_mode(*[mode for mode in args if mode in {4, 20}]),
            b"l": lambda *args: screen.reset_mode(*[mode for mode in args if mode in {4, 20}]),
        }

    @property
    def pending(self) -> int:
        """Bytes of an unfinished sequence or character."""
        return len(self._pending)

    def resize(self, cols: int, rows: int) -> None:
        """Take a new size."""
        self.screen.resize(rows, cols)

    def skip(self) -> None:
        """Forget what is pending: bytes are left out here."""
        self._pending = b""
        self._lost_string = False
        self._repeats = 0
        self.is_busy = False

    def feed(self, data: bytes, seconds: float = inf) -> None:
        """Show bytes; whatever they are, nothing is raised.

        After `seconds` what is left is kept and `is_busy` is set: feed again, nothing will do.
        """
        until = monotonic() + seconds
        buffer = self._pending + data if self._pending else data
        start = self._end_of_string(buffer) if self._lost_string else 0
        self.is_busy = self._draw_repeats(until)
        while start < len(buffer) and not self.is_busy:
            end = self._token(buffer, start)
            if end == start:  # it is unfinished
                break
            start = end
            self.is_busy = self._draw_repeats(until) or (
                start < len(buffer) and monotonic() > until
            )
        if self.is_busy:
            self._pending = buffer[start:]
        else:
            self._keep(buffer[start:])

    def _token(self, buffer: bytes, start: int) -> int:
        """Act on what stands at `start`; returns the place behind it, `start` if it has no end."""
        found = _TOKEN.match(buffer, start)
        if found is None:
            # An escape may also begin nothing.
            return start if _INCOMPLETE.match(buffer, start) else start + 1
        if found.lastgroup == "text":
            return self._text(buffer, start, found.end(), len(buffer))
        self._last = self.screen.cluster
        self.screen.part()
        if (control := found["control"]) is not None:
            action = self._controls.get(control)
            if action is not None:
                action()
        else:
            self._sequence(found)
        return found.end()

    def _keep(self, rest: bytes) -> None:
        """Keep the rest for the next time; a string that is too long is dropped up to its end."""
        if len(rest) > MOST_PENDING:
            self._lost_string = True
            rest = b""
        self._pending = rest

    def _end_of_string(self, buffer: bytes) -> int:
        found = re.search(rb"[\x07\x18\x1a]|\x1b\\", buffer)
        if found is None:
            return len(buffer)
        self._lost_string = False
        return found.end()

    def _text(self, buffer: bytes, start: int, end: int, length: int) -> int:
        if end == length:
            end -= _unfinished(buffer[max(start, end - 3) : end])
        if end > start:
            text = buffer[start:end].decode("utf-8", "replace")
            self.screen.draw(text)
        return end

    def _sequence(self, found: "re.Match[bytes]") -> None:
        if (final := found["final"]) is not None:
            self._csi(found["csi"], found["mid"], final)
        elif (body := found["body"]) is not None:
            self._string(found["string"], body)
        elif (escape := found["esc"]) is not None:
            action = self._escapes.get(escape)
            if action is not None:
                action()
            elif len(escape) == 2 and escape[:1] in b"()":
                self.screen.define_charset(escape[1:].decode(), escape[:1].decode())

    def _csi(self, raw: bytes, mid: bytes, final: bytes) -> None:
        screen = self.screen
        if raw[:1] == b"?" and not mid and final in b"hl":
            screen.switch(_numbers(raw[1:]), final == b"h")
        elif mid:
            if mid == b" " and final == b"q":
                screen.cursor_style = (_numbers(raw) or [0])[0]
            elif mid == b"!" and final == b"p":
                self._soft_reset()
        elif raw[:1] in b"<=>?" and raw:
            return
        elif final == b"m":
            screen.select_graphic_rendition(*_colours(raw))
        elif final in b"su" and not raw:
            (screen.save_cursor if final == b"s" else screen.restore_cursor)()
        elif (short := self._sequences.get(final)) is not None:
            short(*_numbers(raw)[:1])
        elif (long := self._long_sequences.get(final)) is not None:
            long(*_numbers(raw))

    def _soft_reset(self) -> None:
        screen = self.screen
        screen.margins = None
        screen.switch([25, 7], True)
        screen.switch([1, 6], False)
        screen.reset_mode(4)
        screen.select_graphic_rendition(0)

    def _string(self, kind: bytes, body: bytes) -> None:
        number, _, text = body.partition(b";")
        if kind == b"]" and number in {b"0", b"2"}:
            self.screen.set_title(text[:1024].decode("utf-8", "replace"))

    def _next_line(self, *, first: bool = False) -> None:
        self.screen.column()
        self.screen.index()
        if first:
            self.screen.carriage_return()

    def _repeat(self, count: int = 1) -> None:
        """Have the cluster right before this drawn again, a line full of it at most."""
        if self._last:
            self._repeats = min(count or 1, self.screen.columns)

    def _draw_repeats(self, until: float) -> bool:
        """Draw what is to be repeated; says whether there is more when the time is over."""
        while self._repeats:
            count = min(self._repeats, REPEATS_AT_ONCE)
            self._repeats -= count
            for _ in range(count):
                self.screen.part()
                self.screen.draw(self._last)
            if self._repeats and monotonic() > until:
                return True
        return False


def _numbers(raw: bytes) -> list[int]:
    """Return the parameters of a control sequence; an empty one is 0."""
    if not raw:
        return []
    fields = raw.split(b";")[:32]
    return [_number(field) for field in fields]


def _number(field: bytes) -> int:
    """Return a parameter, 99,999 at most: Python refuses to read numbers of thousands of digits."""
    return min(int(field.lstrip(b"0")[:6] or b"0"), 99_999) if field.isdigit() else 0


def _colours(raw: bytes) -> list[int]:
    """Return SGR parameters, with colons (ITU T.416) in the older form."""
    if b":" not in raw:
        return _numbers(raw)
    flat: list[int] = []
    for group in raw.split(b";")[:32]:
        parts = _numbers(group.replace(b":", b";"))
        if b":" in group and parts[:1] in ([38], [48]):
            parts = [*parts[:2], *parts[-3:]] if parts[1:2] == [2] else parts[:3]
            flat += parts
        elif b":" in group and parts[:2] == [4, 0]:
            flat.append(24)
        else:
            flat += parts[:1]
    return flat


def _unfinished(tail: bytes) -> int:
    """Return how many bytes at the end begin a UTF-8 character that is not complete."""
    for back in range(1, min(3, len(tail)) + 1):
        byte = tail[-back]
        if byte & 0xC0 == 0x80:
            continue
        size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if size > back else 0
    return 0
