"""Wire structs of processes."""

import signal
from email.utils import formatdate

import msgspec

from sandkeeper.services.output import Texts
from sandkeeper.services.process import Process

__all__ = ["ProcessRecord", "ProcessRequest", "SignalRequest", "Usage", "record_of"]


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
    )


def _signal_name(number: int | None) -> str:
    if number is None:
        return ""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
