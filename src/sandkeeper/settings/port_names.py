"""Host names that stand for ports of the sandbox: `3000.localhost`, `3000-abc.example.com`.

A pattern is a host name in which `{port}` stands for the number, `{id}` for any part of a label
and `*` for any labels. A name that fits one belongs to that port and to nothing else.
"""

import re
from collections.abc import Iterable

import msgspec

from sandkeeper.linux.addresses import is_loopback
from sandkeeper.numerals import PORTS
from sandkeeper.patterns import pattern

__all__ = [
    "BLAXEL_CODE_PORT",
    "CODE_PORTS",
    "E2B_CODE_PORT",
    "E2B_PORT",
    "PortName",
    "PortNames",
]

E2B_PORT = 49983
"""Where E2B's clients look for the server of a sandbox: whoever asks for this port means us."""

E2B_CODE_PORT, BLAXEL_CODE_PORT = 49999, 8888
CODE_PORTS = frozenset({E2B_CODE_PORT, BLAXEL_CODE_PORT})
"""Where clients look for the code interpreter of a sandbox."""

DEFAULT = "{port}.localhost"
NONE = "none"
KNOWN = 256
"""So many values of Host are remembered: the same few come with every request."""
LONGEST = 300
"""Bytes of a host name (RFC 1035: 253) with a port and to spare."""
_PATTERN = pattern(r"(?:[a-z0-9_-]|\{port\}|\{id\}|\*|\.)+")
_PARTS = {"{port}": "([1-9][0-9]{0,4})", "{id}": "[a-z0-9_-]+", "*": "[a-z0-9_.-]+"}


class PortName(msgspec.Struct, frozen=True):
    """A host name (without dot at the end or `:port`) that stands for a port.

    `base` is what a sandbox's names for ports have in common: the name with `*` for the number.
    `is_open`: somebody else's name may fit the pattern as well, so it needs another's word.
    """

    port: int
    host: str
    base: str
    is_open: bool


class PortNames:
    """The patterns of one server; raises ValueError, naming the setting, for what is none.

    `ours` are numbers that stand for this server itself: so clients of another wire call the server
    inside a sandbox (E2B's: `49983-abc.example.com`).
    """

    def __init__(
        self, patterns: Iterable[str], setting: str, ours: frozenset[int] = frozenset()
    ) -> None:
        self.patterns = tuple(patterns)
        self._ours = ours
        self._compiled = [
            (re.compile(_expression(one, setting)), "*" in one) for one in self.patterns
        ]
        self.known: dict[bytes, PortName | None] = {}
        """What was found before: whoever counts nanoseconds looks here first."""

    @classmethod
    def read(
        cls, words: list[str], setting: str, ours: frozenset[int] = frozenset()
    ) -> "PortNames":
        """Make them of a setting's words: none given is the usual pattern, `none` is no name."""
        if [one.lower() for one in words] == [NONE]:
            return cls((), setting)
        return cls([one.lower().removesuffix(".") for one in words] or [DEFAULT], setting, ours)

    def find(self, authority: bytes) -> PortName | None:
        """Return what a value of Host names; None for every other name, also for what is none."""
        if authority not in self.known:
            if len(authority) > LONGEST:
                return None
            if len(self.known) >= KNOWN:
                self.known.clear()
            self.known[authority] = self._look_up(authority)
        return self.known[authority]

    def _look_up(self, authority: bytes) -> PortName | None:
        host = authority.decode("latin-1").lower().partition(":")[0].removesuffix(".")
        if host.rpartition(".")[2].isdigit():
            return None  # an address, to browsers, and no name (URL Standard, section 3.5)
        for expression, is_open in self._compiled:
            found = expression.fullmatch(host)
            if found is not None and int(found[1]) in PORTS and int(found[1]) not in self._ours:
                base = host[: found.start(1)] + "*" + host[found.end(1) :]
                return PortName(int(found[1]), host, base, is_open)
        return None

    def name(self, port: int, called: str) -> str:
        """Return the host name of a port for somebody who calls this server `called`; "": none.

        With `{id}` or `*` that must be a port's name too, or the part of it behind `{port}.`.
        """
        known = self.find(called.encode("latin-1", "replace"))
        if known is not None:
            return known.base.replace("*", str(port), 1)
        for form in self.patterns:
            made = form.replace("{port}", str(port))
            local = made.endswith(".localhost") and not _is_local(called)
            if not local and "{id}" not in made and "*" not in made:
                return made
        below = f"{port}.{called}"
        return below if self.find(below.encode("latin-1", "replace")) is not None else ""


def _is_local(called: str) -> bool:
    """Say whether whoever calls us so is on a machine for which `*.localhost` is this one."""
    return called.endswith(".localhost") or is_loopback(called)


def _expression(pattern: str, setting: str) -> str:
    if not _PATTERN.fullmatch(pattern) or pattern.count("{port}") != 1:
        raise ValueError(
            f"{setting}: {pattern!r} is no pattern of host names, which is like {{port}}.localhost"
        )
    parts = re.split(r"(\{port\}|\{id\}|\*)", pattern)
    return "".join(_PARTS.get(part, re.escape(part)) for part in parts)
