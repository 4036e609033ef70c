"""The server with a profiler in it: SIGUSR1 begins, SIGUSR2 ends and writes to $PROFILE_TO.

Counted is the time of the event loop's thread by the thread's own clock, so that what it waits for,
and what others do meanwhile, is no part of it.
"""

import cProfile
import os
import signal
import time

from sandkeeper.cli import main

profile = cProfile.Profile(time.thread_time)


def begin(*_args: object) -> None:
    """Begin."""
    profile.enable()


def end(*_args: object) -> None:
    """Stop, write and begin anew the next time."""
    profile.disable()
    path = os.environ["PROFILE_TO"]
    profile.dump_stats(path + ".new")
    profile.clear()
    os.rename(path + ".new", path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    raise SystemExit(main())
