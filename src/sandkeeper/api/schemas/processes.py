"""Wire structs of processes."""

import signal
from email.utils import formatdate
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandkeeper.errors import BadInput
from sandkeeper.journal.output import Texts
from sandkeeper.linux.cgroups import Limits
from sandkeeper.processes.process import Process

__all__ = [
    "LimitsFields",
    "LimitsRecord",
    "ProcessRecord",
    "ProcessRequest",
    "SignalRequest",
    "Usage",
    "limits_of",
    "record_of",
]

MEMORY_LEAST = 1 << 20
PIDS_MOST = 1 << 22  # PID_MAX_LIMIT of the kernel


class ProcessRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /process`; `timeout` in seconds."""

    command: str = ""
    name: str = ""
    working_dir: str = ""
    env: dict[str, str] = {}
    wait_for_completion: bool = False
    timeout: int | None = None
    wait_for_ports: list[int] = []
    restart_on_failure: bool = False
    max_restarts: int = 0
    keep_alive: bool = False
    stdin: bool = False
    limits: dict[str, Any] = {}


class LimitsFields(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a process and all it starts may use together; null is no limit.

    An unknown field is an error: a limit must not be believed in that is not there.
    """

    memory_bytes: (
        Annotated[int, Meta(ge=MEMORY_LEAST, le=1 << 60, description="Bytes of memory")] | None
    ) = None
    pids: (
        Annotated[int, Meta(ge=1, le=PIDS_MOST, description="Processes and threads at once")] | None
    ) = None
    cpus: (
        Annotated[float, Meta(ge=0.01, le=8192, description="Processors, 0.5 is half of one")]
        | None
    ) = None
    open_files: (
        Annotated[int, Meta(ge=16, le=1 << 30, description="Open files of each process")] | None
    ) = None

    def limits(self) -> Limits | None:
        """Return what is limited, None when nothing is."""
        made = Limits(self.memory_bytes, self.pids, self.cpus, self.open_files)
        return None if made == Limits() else made


class LimitsRecord(msgspec.Struct, rename="camel"):
    """The limits of a process; `enforcedBy` has an entry for each: `cgroup2`, `cgroup1`, `rlimit`,
    or `none` where this machine cannot keep it.
    """

    memory_bytes: int | None
    pids: int | None
    cpus: float | None
    open_files: int | None
    enforced_by: dict[str, str]


class SignalRequest(msgspec.Struct):
    """The body of `POST /process/{identifier}/signal`: a name (`SIGHUP`, `hup`) or a number."""

    signal: str | int = ""


class Usage(msgspec.Struct, rename="camel"):
    """What a process has cost; null while it runs or where nobody could measure."""

    cpu_seconds: float | None
    peak_rss_bytes: int | None


class ProcessRecord(msgspec.Struct, rename="camel"):
    """A process as clients see it; from `stdin` on additive to the contract.

    Times are `Mon, 02 Jan 2006 15:04:05 GMT`, sizes bytes. `exitCode` is 0 while it runs and -1
    after a signal (then `exitSignal` names it) or when the code is unknown (`exitReason`).
    `outputUncertain`: it ended while neither a server nor a keeper held its pipes, so that what it
    wrote last may be missing, by a number of bytes that nobody knows.
    """

    pid: str
    name: str
    command: str
    status: str
    started_at: str
    completed_at: str
    exit_code: int
    working_dir: str
    logs: str
    stdout: str
    stderr: str
    restart_on_failure: bool
    max_restarts: int
    restart_count: int
    keep_alive: bool
    stdin: bool
    id: str
    exit_reason: str
    exit_signal: str
    usage: Usage
    stdout_bytes: int
    stderr_bytes: int
    lost_bytes: int
    output_uncertain: bool
    limits: LimitsRecord | UnsetType = UNSET


def limits_of(given: dict[str, Any]) -> Limits | None:
    """Read the field `limits` of a request; raises BadInput."""
    if not given:
        return None
    known = {field.encode_name.lower(): field.encode_name for field in _limit_fields()}
    folded = {known.get(k.lower(), k): value for k, value in given.items()}
    try:
        return msgspec.convert(folded, LimitsFields).limits()
    except msgspec.ValidationError as error:
        raise BadInput(f"invalid request body: limits: {error}") from None


def _limit_fields() -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(LimitsFields)


def record_of(process: Process, texts: Texts) -> ProcessRecord:
    """Make the record of a process with the given texts."""
    meta, journal = process.meta, process.journal
    over = process.is_over
    return ProcessRecord(
        pid=meta.pid,
        name=meta.name,
        command=meta.command,
        status=process.status,
        started_at=formatdate(meta.started_at, usegmt=True),
        completed_at=formatdate(meta.completed_at, usegmt=True) if over else "",
        exit_code=(meta.exit_code or 0) if over else 0,
        working_dir=meta.working_dir,
        logs=texts.logs,
        stdout=texts.stdout,
        stderr=texts.stderr,
        restart_on_failure=meta.restart_on_failure,
        max_restarts=meta.max_restarts,
        restart_count=meta.restart_count,
        keep_alive=meta.keep_alive,
        stdin=meta.stdin,
        id=meta.id,
        exit_reason=meta.exit_reason if over else "",
        exit_signal=_signal_name(meta.exit_signal) if over else "",
        usage=Usage(meta.cpu_seconds, meta.peak_rss_bytes),
        stdout_bytes=journal.totals[0],
        stderr_bytes=journal.totals[1],
        lost_bytes=journal.lost,
        output_uncertain=meta.uncertain,
        limits=UNSET if meta.limits is None else _limits_record(meta.limits, meta.enforced),
    )


def _limits_record(limits: Limits, enforced: dict[str, str]) -> LimitsRecord:
    names = {
        "memoryBytes": ("memory", limits.memory_bytes),
        "pids": ("pids", limits.pids),
        "cpus": ("cpu", limits.cpus),
        "openFiles": ("openFiles", limits.open_files),
    }
    by = {
        name: enforced.get(ours, "none")
        for name, (ours, value) in names.items()
        if value is not None
    }
    return LimitsRecord(limits.memory_bytes, limits.pids, limits.cpus, limits.open_files, by)


def _signal_name(number: int | None) -> str:
    if number is None:
        return ""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
