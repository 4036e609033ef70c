"""Why a process ended, and whether it is tried again."""

from collections.abc import Callable

from sandkeeper.journal.events import Outcome
from sandkeeper.linux.children.child import ExitStatus
from sandkeeper.processes.lifecycle import State, wire_status
from sandkeeper.processes.record import RunMeta

__all__ = ["exit_reason", "may_restart", "outcome", "retry_notice"]


def outcome(meta: RunMeta) -> Outcome:
    """Return how a process ended, as far as it has."""
    status = wire_status(State(meta.state))
    return Outcome(status, meta.exit_code, meta.exit_signal, meta.exit_reason)


def exit_reason(
    status: ExitStatus, state: State, *, timed_out: bool, ran_out: Callable[[ExitStatus], bool]
) -> str:
    """Return the `exitReason` of a process that was in `state` when it ended.

    What somebody asked for comes before what the kernel did; `ran_out` is asked last whether
    memory was the cause.
    """
    if status.code is None and status.signal is None:
        return "unknown"
    if status.code == 0:
        return "exited"
    if state is State.KILLING:
        return "timeout" if timed_out else "killed"
    if state is State.STOPPING:
        return "stopped"
    if ran_out(status):
        return "oom"
    return "exited" if status.signal is None else "signaled"


def may_restart(meta: RunMeta) -> bool:
    """Say whether the restart policy allows another attempt."""
    return meta.restart_on_failure and (
        meta.max_restarts < 0 or meta.restart_count < meta.max_restarts
    )


def retry_notice(meta: RunMeta, standing: int) -> str:
    """Return what to say before the next attempt; empty when the output says it already.

    `standing` are the bytes of notices in the journal. A server that is killed between the notice
    and the record of it, or the other way round, leaves the two apart; the count tells which.
    """
    most = "unlimited" if meta.max_restarts < 0 else str(meta.max_restarts)
    text = (
        f"\n[Process failed with exit code {meta.exit_code}. "
        f"Attempting restart {meta.restart_count + 1}/{most}...]\n"
    )
    meta.noticed += len(text)
    return "" if standing >= meta.noticed else text
