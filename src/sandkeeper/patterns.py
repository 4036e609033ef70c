"""Regular expressions that are compiled when they are first used.

Compiling one takes longer than most of them ever work, and a server has a hundred.
"""

import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AnyStr

__all__ = ["for_good", "pattern"]

_POSSESSIVE = sys.version_info >= (3, 11, 5)
"""Before, a possessive repeat of a group kept what its last, failed attempt had passed over
(CPython's issues 101955 and 106052); Debian 12 has such a Python."""


class _Pattern:
    def __init__(self, text: str | bytes, flags: int) -> None:
        self._given: Any = (text, flags)

    def __getattr__(self, name: str) -> "Any":
        found = getattr(re.compile(*self._given), name)
        self.__dict__[name] = found
        return found


def for_good(text: "AnyStr", times: "AnyStr") -> "AnyStr":
    """Return a group that is repeated as often as it can be, of which nothing is ever given back.

    `times` is `*` or `+`. What repeats a set of characters needs no group: `[a-z]*+`.
    """
    if isinstance(text, str):
        return f"(?:{text}){times}+" if _POSSESSIVE else f"(?>(?:{text}){times})"
    return (b"(?:%b)%b+" if _POSSESSIVE else b"(?>(?:%b)%b)") % (text, times)


def pattern(text: "AnyStr", flags: int = 0) -> "re.Pattern[AnyStr]":
    """Return what has the methods of `re.compile(text, flags)`, called at the first use of one.

    A text that is no pattern raises re.error then. For what a start does not use.
    """
    made: Any = _Pattern(text, flags)
    return made  # type: ignore[no-any-return]
