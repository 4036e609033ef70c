"""Regular expressions that are compiled when they are first used.

Compiling one takes longer than most of them ever work, and a server has a hundred.
"""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AnyStr

__all__ = ["pattern"]


class _Pattern:
    def __init__(self, text: str | bytes, flags: int) -> None:
        self._given: Any = (text, flags)

    def __getattr__(self, name: str) -> "Any":
        found = getattr(re.compile(*self._given), name)
        self.__dict__[name] = found
        return found


def pattern(text: "AnyStr", flags: int = 0) -> "re.Pattern[AnyStr]":
    """Return what has the methods of `re.compile(text, flags)`, called at the first use of one.

    A text that is no pattern raises re.error then. For what a start does not use.
    """
    made: Any = _Pattern(text, flags)
    return made  # type: ignore[no-any-return]
