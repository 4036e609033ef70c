"""Commands that are typed at a terminal, for the audit log; never what was not shown.

A password is not echoed, so an audit that follows the echo cannot hold one:

- the kernel echoes: the line is logged as it was typed;
- it does not, in canonical mode: a password is being asked for, nothing is logged;
- neither (a line editor or a full-screen program): the line is logged if the terminal showed it.
"""

import msgspec

from sandkeeper.patterns import pattern

__all__ = ["Typed", "TypedLine", "shown_text"]

MOST_CHARACTERS = 4096
HEAD_CHARACTERS, TAIL_CHARACTERS = 16384, 4096
"""Of a large paste only both ends are looked at: this runs on the event loop."""

_SEQUENCE = pattern(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|O.|[ -/]*[0-Z\\^-~])"
)
_KEY = pattern(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|O.|[^\[\]O])")


class TypedLine(msgspec.Struct, frozen=True):
    """A submitted line; with `unseen` it counts only if the terminal showed it since `offset`."""

    text: str
    unseen: bool
    offset: int


class Typed:
    """Collects lines from what is typed; one for each terminal."""

    def __init__(self) -> None:
        self._line: list[str] = []
        self._secret = False
        self._unseen = False
        self._offset = 0
        self._rest = ""

    def feed(self, text: str, *, echo: bool, canonical: bool, offset: int) -> list[TypedLine]:
        """Take typed text and return the lines it completes.

        `offset` is where the terminal's output stands now.
        """
        done: list[TypedLine] = []
        if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
            text = text[:HEAD_CHARACTERS] + "\r" + text[-TAIL_CHARACTERS:]
        text = self._without_keys(self._rest + text)
        for char in text:
            if not self._line:
                self._secret = self._unseen = False
                self._offset = offset
            if char in "\r\n":
                line = "".join(self._line).strip()
                if line and not self._secret:
                    done.append(TypedLine(line, self._unseen, self._offset))
                self._line.clear()
                continue
            self._secret = self._secret or (canonical and not echo)
            self._unseen = self._unseen or not echo
            self._edit(char)
        return done[:100]

    def _without_keys(self, text: str) -> str:
        """Take cursor keys, pastes' brackets and other sequences out; keep an unfinished one."""
        text = _KEY.sub("", text)
        start = text.rfind("\x1b")
        self._rest = text[start:][:64] if start >= 0 else ""
        return text[:start] if start >= 0 else text

    def _edit(self, char: str) -> None:
        if char in "\x7f\b":
            if self._line:
                self._line.pop()
        elif char in "\x03\x15":  # Ctrl-C and Ctrl-U
            self._line.clear()
        elif char == "\x17":  # Ctrl-W
            words = "".join(self._line).rstrip()
            self._line = list(words[: words.rfind(" ") + 1])
        elif char.isprintable() and len(self._line) < MOST_CHARACTERS:
            self._line.append(char)


def shown_text(output: str) -> str:
    """Return output as it reads after its backspaces and without its escape sequences."""
    shown: list[str] = []
    for char in _SEQUENCE.sub("", output):
        if char == "\b":
            if shown:
                shown.pop()
        elif char.isprintable():
            shown.append(char)
    return "".join(shown)
