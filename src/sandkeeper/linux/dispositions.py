"""Signals this process was started to ignore: by nohup(1), or by a shell for its background.

What is ignored stays ignored over exec (signal(7)), so every child would be deaf to them too:
`trap … HUP` of a shell has no effect then. What has a handler is reset to its default by exec.
"""

import signal
from types import FrameType

__all__ = ["ignore_again", "listen_to_ignored"]

# subprocess resets these itself; Python ignores them for its own sake.
_PYTHONS = {signal.SIGPIPE, signal.SIGXFSZ}
_ignored: set[signal.Signals] = set()


def listen_to_ignored() -> None:
    """Go on ignoring them, in a way that children do not inherit. For the main thread.

    An ignored SIGCHLD gets its default: otherwise no exit status could be had (wait(2)).
    """
    for number in signal.valid_signals():
        if not isinstance(number, signal.Signals) or number in _PYTHONS:
            continue
        if signal.getsignal(number) is signal.SIG_IGN:
            if number is signal.SIGCHLD:
                signal.signal(number, signal.SIG_DFL)
                continue
            _ignored.add(number)
            signal.signal(number, _pass)


def ignore_again() -> list[int]:
    """Undo it before this process becomes another program; returns their numbers.

    For the main thread.
    """
    for number in _ignored:
        signal.signal(number, signal.SIG_IGN)
    return sorted(_ignored)


def _pass(_number: int, _frame: FrameType | None) -> None:
    pass
