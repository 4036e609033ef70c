"""Variables as settings are read from them: what makes no sense is gathered and told at once."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from sandkeeper.numerals import GO_INT, decimal, natural
from sandkeeper.patterns import pattern

__all__ = ["BadSettings", "Kind", "Variables", "truthy"]

T = TypeVar("T")

OURS, CONTRACT = "SANDKEEPER_", "SANDBOX_"
LATER = frozenset(
    OURS + name for name in ("MORPH_BASE_URL", "WEED_FILER", "RCLONE_REMOTE", "RCLONE_ARGS", "URL")
)
"""Ours that are read when they are needed, for a reload may bring them, or by the client verbs."""
TEST = OURS + "TEST_"

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"", "0", "f", "F", "false", "False", "FALSE"})
_SEPARATORS = pattern(r"[,\s]+")


def truthy(value: str) -> bool:
    """Say whether Go's strconv.ParseBool would call the trimmed `value` true."""
    return value.strip() in _TRUE


class Kind(msgspec.Struct, frozen=True):
    """How a variable is read: `word` is text, number, seconds, choice, flag, folder or list."""

    word: str
    default: float | None = None
    allowed: tuple[str, ...] = ()


class BadSettings(ValueError):
    """Settings that make no sense; `faults` has a line for each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class Variables(Mapping[str, str]):
    """Variables by name, with readers that take a default where nothing or nothing sensible is set.

    What was set without sense is in `faults`, as lines that name variable, value and what is
    allowed; in `doubts` where the contract says that the default takes its place. An empty variable
    is one that is not set, and space around a value does not count. `kinds` tells which were read,
    and how.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.kinds: dict[str, Kind] = {}
        self.faults: list[str] = []
        self.doubts: list[str] = []

    def __getitem__(self, name: str) -> str:
        if name not in self.kinds:
            self.kinds[name] = Kind("text")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def fault(self, name: str, allowed: str) -> None:
        """Note that what a variable holds makes no sense."""
        told = f"{name}={self._values.get(name, '')!r} is {allowed}"
        if name.startswith(CONTRACT):
            self.doubts.append(f"{told}; the default is used")
        else:
            self.faults.append(told)

    def number(self, name: str, default: int, least: int = 0, most: int = GO_INT - 1) -> int:
        """Return a whole number between two bounds."""
        self.kinds[name] = Kind("number", default)
        text = self.text(name)
        if not text:
            return default
        value = natural(text.removeprefix("+"), GO_INT)
        if value is None or not least <= value <= most:
            bound = f"from {least} on" if most == GO_INT - 1 else f"from {least} to {most}"
            self.fault(name, f"no whole number {bound}")
            return default
        return value

    def seconds(self, name: str, default: float) -> float:
        """Return a time that may have a fraction."""
        self.kinds[name] = Kind("seconds", default)
        text = self.text(name)
        value = decimal(text) if text else default
        if value is None or not 0 <= value < float("inf"):
            self.fault(name, "no number of seconds")
            return default
        return value

    def choice(self, name: str, allowed: Iterable[str], default: str = "") -> str:
        """Return one of several words, in lower case."""
        word = self.text(name).lower()
        words = tuple(allowed)
        self.kinds[name] = Kind("choice", None, words)
        if word and word not in words:
            self.fault(name, f"none of: {', '.join(words)}")
            return default
        return word or default

    def flag(self, name: str) -> bool:
        """Say whether something is on, in the words of Go's strconv.ParseBool; off without."""
        self.kinds[name] = Kind("flag")
        word = self.text(name)
        if word not in _TRUE | _FALSE:
            self.fault(name, "neither true nor false")
        return word in _TRUE

    def folder(self, name: str) -> str:
        """Return a folder that is there; empty without one."""
        self.kinds[name] = Kind("folder")
        path = self.get(name, "")
        if path and not os.path.isdir(path):
            self.fault(name, "no folder")
            return ""
        return path

    def words(self, name: str) -> list[str]:
        """Return what a variable lists, by commas or spaces."""
        return [word for word in _SEPARATORS.split(self.get(name, "")) if word]

    def each(self, name: str, made_of: Callable[[str], T]) -> tuple[T, ...]:
        """Return what `made_of` makes of each listed word; it raises ValueError for a bad one."""
        made: list[T] = []
        for word in self.words(name):
            try:
                made.append(made_of(word))
            except ValueError as error:
                self.faults.append(str(error))
        return tuple(made)

    def sound(self, read: Callable[[], T], default: T) -> T:
        """Return what `read` returns; the ValueError it raises is a fault that names itself."""
        try:
            return read()
        except ValueError as error:
            self.faults.append(str(error))
        return default

    def text(self, name: str) -> str:
        """Return a value without the space around it."""
        return self.get(name, "").strip()

    def unknown(self) -> list[str]:
        """Return lines for those of our own that nobody reads: their names are misspelt."""
        known = self.kinds.keys() | LATER
        return sorted(
            f"{name} is no setting"
            for name in self._values
            if name.startswith(OURS) and not name.startswith(TEST) and name not in known
        )
