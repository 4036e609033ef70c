"""The record of a run: what it is, how it stands, how long it may take, why it ended, what next."""

import time
from collections.abc import Callable

import msgspec

from sandkeeper.journal.events import Outcome
from sandkeeper.linux.children.child import ExitStatus
from sandkeeper.linux.clocks import WORK, bounded_age, uptime
from sandkeeper.linux.paths.statefiles import LAST_SECOND, Damaged, decoded, is_moment
from sandkeeper.processes.lifecycle import State, wire_status
from sandkeeper.processes.spec import ProcessSpec
from sandkeeper.tracecontext import Trace

__all__ = [
    "RunMeta",
    "ended_uptime",
    "exit_reason",
    "may_restart",
    "outcome",
    "read_record",
    "retry_notice",
    "time_limit",
]


class RunMeta(ProcessSpec, kw_only=True, omit_defaults=True):
    """What a line of `meta.jsonl` keeps; times in seconds since the epoch, sizes in bytes.

    `timeout` 0 is no limit. `leader`, `leader_start` and `boot` prove the process of the present
    attempt; `exit_code` is the wire's (-1 for a signal), `exit_signal` the signal's number,
    `noticed` the bytes of restart notices that were said. `groups` are the folders of its control
    groups, `enforced` tells what keeps each limit (linux.cgroups), `oom_kills` counts what the
    kernel had killed for memory in them before the present attempt. `end_offset` is where its
    output ends, once nobody can write to it any more. Those named `uptime` are by clocks
    that nobody sets (linux.clocks): when the time limit is due, by `WORK`, and when it completed,
    by `uptime`, in the boot `completed_boot`. `uncertain` tells that it ended while nobody held
    its pipes, so that its last words may be missing. `trace` is its place in a trace and
    `first_started_at` when that began, where it has one.
    """

    id: str
    name: str
    version: int = 1
    pid: str = ""
    timeout: int | float = 0
    deadline: float = 0.0
    state: str = "running"
    started_at: float = 0.0
    completed_at: float = 0.0
    restart_count: int = 0
    noticed: int = 0
    exit_code: int | None = None
    exit_signal: int | None = None
    exit_reason: str = ""
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    exit_offset: int | None = None
    sealed: bool = False
    leader: int = 0
    leader_start: int = 0
    boot: str = ""
    groups: dict[str, str] = msgspec.field(default_factory=dict)
    enforced: dict[str, str] = msgspec.field(default_factory=dict)
    oom_kills: int = 0
    uncertain: bool = False
    idempotency_key: str = ""
    idempotency_body: str = ""
    end_offset: int | None = None
    due_uptime: float = 0.0
    completed_uptime: float = 0.0
    completed_boot: str = ""
    trace: Trace | None = None
    first_started_at: float = 0.0

    def trace_fields(self) -> dict[str, str]:
        """Return what lines of the log say of its place in a trace."""
        return {} if self.trace is None else self.trace.fields()

    def take(self, status: ExitStatus) -> None:
        """Note how an attempt ended, and what all of them have cost."""
        if status.cpu_seconds is not None:
            self.cpu_seconds = (self.cpu_seconds or 0.0) + status.cpu_seconds
        if status.peak_rss_bytes is not None:
            self.peak_rss_bytes = max(self.peak_rss_bytes or 0, status.peak_rss_bytes)
        self.exit_code = -1 if status.code is None else status.code
        self.exit_signal = status.signal


def read_record(line: bytes, run_id: str) -> RunMeta:
    """Return what a line says of the run; raises Damaged, or ValueError for a later version's."""
    try:
        meta = decoded(line, RunMeta)
    except Damaged:
        if _version(line) != 1:
            raise ValueError("its record is not one of ours") from None
        raise
    if meta.version != 1:
        raise ValueError(f"its record is of version {meta.version}")
    meta.id = run_id
    _check(meta)
    return meta


def _version(line: bytes) -> object:
    try:
        return decoded(line, dict).get("version", 1)
    except Damaged:
        return 1


def _check(meta: RunMeta) -> None:
    """Raise Damaged for values that we never wrote, and that would harm whoever uses them."""
    moments = (meta.started_at, meta.completed_at, meta.deadline, meta.first_started_at)
    counts = (meta.timeout, meta.restart_count, meta.noticed, meta.leader_start, meta.oom_kills)
    sizes = (meta.exit_offset or 0, meta.end_offset or 0, meta.peak_rss_bytes or 0)
    sound = (
        meta.state in set(State)
        and all(map(is_moment, (*moments, meta.due_uptime)))
        and abs(meta.completed_uptime) <= LAST_SECOND
        and all(0 <= count < 1 << 62 for count in (*counts, *sizes))
        and 0 <= meta.leader < 1 << 31
        and -(1 << 31) <= (meta.exit_code or 0) < 1 << 31
        and 0 <= (meta.exit_signal or 0) < 128
        and meta.pid.isascii()
        and (meta.trace is None or meta.trace.is_sound)
    )
    if not sound:
        raise Damaged("a value of it cannot be true")
    try:
        msgspec.json.encode(meta)
    except UnicodeEncodeError:
        raise Damaged("a text of it is no text") from None


def time_limit(meta: RunMeta, *, again: bool) -> float:
    """Return when, by `WORK`, a run has taken its time, and note it in `meta`.

    One that goes on (`again`) has been running since, whatever the wall clock did. Times in which
    the sandbox stood still do not count.
    """
    if not again or not meta.due_uptime:
        until = meta.started_at + meta.timeout if meta.keep_alive else meta.deadline
        meta.due_uptime = WORK.now() + max(0.0, min(until - time.time(), meta.timeout))
    return meta.due_uptime


def ended_uptime(meta: RunMeta, boot: str, most: float) -> float:
    """Return when a run ended, as an uptime of this boot; before it, it may be negative."""
    now = uptime()
    if boot and meta.completed_boot == boot and 0 < meta.completed_uptime <= now:
        return meta.completed_uptime
    return now - bounded_age(meta.completed_at, most)


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
