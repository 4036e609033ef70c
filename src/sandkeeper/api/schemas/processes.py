"""Wire structs of processes."""

import hashlib
import json
import signal
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

from sandkeeper.api.edge.request_body import LONG_BYTES
from sandkeeper.errors import BadInput
from sandkeeper.journal.output import Texts
from sandkeeper.linux.cgroups import Limits
from sandkeeper.processes.process import Process
from sandkeeper.processes.spec import FullProcessFields, LimitsFields

__all__ = [
    "LimitsRecord",
    "ProcessRecord",
    "ProcessRequest",
    "SignalRequest",
    "Usage",
    "fingerprint",
    "limits_of",
    "record_of",
]


class ProcessRequest(FullProcessFields):
    """The body of `POST /process`; `timeout` in seconds."""

    wait_for_completion: bool = False
    wait_for_ports: list[int] = field(default_factory=list)
    hold_output: bool = False
    limits: dict[str, Any] = field(default_factory=dict)


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
    argv: list[str] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    tag: str | UnsetType = UNSET


def fingerprint(body: bytes, wanted: msgspec.Struct) -> str:
    """Return the same text for bodies of the same values, whatever their order."""
    return hashlib.sha256(_canonical(body, wanted)).hexdigest()


def _canonical(body: bytes, wanted: msgspec.Struct) -> bytes:
    """Write a body so that the same values have the same bytes, whatever their order."""
    if len(body) > LONG_BYTES:  # as a tree of objects it could be twenty times as large
        return msgspec.json.encode(wanted, order="sorted")
    try:
        return json.dumps(msgspec.json.decode(body), sort_keys=True).encode()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return body


def limits_of(given: dict[str, Any]) -> LimitsFields | None:
    """Read the field `limits` of a request; raises BadInput."""
    if not given:
        return None
    fields = msgspec.structs.fields(LimitsFields)
    known = {field.encode_name.lower(): field.encode_name for field in fields}
    folded = {known.get(k.lower(), k): value for k, value in given.items()}
    try:
        return msgspec.convert(folded, LimitsFields)
    except msgspec.ValidationError as error:
        raise BadInput(f"invalid request body: limits: {error}") from None


def record_of(process: Process, texts: Texts) -> ProcessRecord:
    """Make the record of a process with the given texts."""
    meta, journal = process.meta, process.journal
    over = process.is_over
    return ProcessRecord(
        pid=meta.pid,
        name=meta.name,
        command=meta.command,
        status=process.status,
        started_at=_date(int(meta.started_at)),
        completed_at=_date(int(meta.completed_at)) if over else "",
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
        argv=meta.argv or UNSET,
        user=meta.user or UNSET,
        tag=meta.tag or UNSET,
    )


@lru_cache(256)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


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
