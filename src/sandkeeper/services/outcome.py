"""Why a process ended, in one word for its record."""

import signal
from collections.abc import Callable

from sandkeeper.core.child import ExitStatus
from sandkeeper.core.lifecycle import State

__all__ = ["reason_of"]


def reason_of(
    status: ExitStatus, state: State, *, timed_out: bool, out_of_memory: Callable[[], bool]
) -> str:
    """Return exited, stopped, killed, timeout, oom, signaled or unknown.

    `state` is that before the end; `out_of_memory` is asked only where it matters.
    """
    if status.code is None and status.signal is None:
        return "unknown"
    if status.code == 0:
        return "exited"
    if state is State.KILLING:
        return "timeout" if timed_out else "killed"
    if state is State.STOPPING:
        return "stopped"
    if status.signal is None:
        return "exited"
    return "oom" if status.signal == signal.SIGKILL and out_of_memory() else "signaled"
