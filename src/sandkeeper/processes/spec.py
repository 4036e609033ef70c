"""A process as data: what somebody wants run. Every other form of it is made from this one.

`ProcessSpec` is what the registry takes, and what a run's record begins with (processes.record).
`ProcessFields` is the same as texts of JSON spell it: bodies, arguments of tools, archives.
"""

import shlex
from functools import cache
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from sandkeeper.linux.cgroups import Limits

__all__ = ["FullProcessFields", "LimitsFields", "ProcessFields", "ProcessSpec", "SavedProcess"]

MEMORY_LEAST = 1 << 20
PIDS_MOST = 1 << 22  # PID_MAX_LIMIT of the kernel


class ProcessSpec(msgspec.Struct):
    """A process somebody wants; `timeout` in seconds, None where none was given.

    With `argv` that program is run and no shell; `command` is then how a shell would spell it.
    Unless `inherit_env`, its variables are those of `env` alone. `user` is a name of `linux.users`,
    empty for the workload's own; `tag` is for its clients to find it by, any number may share one.
    `hold_output` has its output wait for a reader (`journal.source`).
    """

    command: str
    name: str = ""
    working_dir: str = ""
    env: dict[str, str] = {}
    timeout: int | float | None = None
    keep_alive: bool = False
    restart_on_failure: bool = False
    max_restarts: int = 0
    stdin: bool = False
    limits: Limits | None = None
    argv: list[str] = []
    inherit_env: bool = True
    user: str = ""
    tag: str = ""
    hold_output: bool = False

    def again(self) -> "ProcessSpec":
        """Return the same as something that somebody wants, whatever this one has become since.

        Whoever has read this one's output does not read the next one's, so that waits for nobody.
        """
        names = {*ProcessSpec.__struct_fields__} - {"hold_output"}
        return ProcessSpec(**{name: getattr(self, name) for name in names})


class LimitsFields(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
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


class ProcessFields(msgspec.Struct, rename="camel"):
    """What all texts of JSON say of a process; each adds `limits` as strictly as it reads them."""

    command: str = ""
    name: Annotated[str, Meta(description="Unique among running processes")] = ""
    working_dir: Annotated[str, Meta(description="Folder to run in, `/` by default")] = ""
    env: Annotated[dict[str, str], Meta(description="Variables on top of the server's")] = {}
    timeout: int | float | None = None
    keep_alive: Annotated[
        bool, Meta(description="Keep the sandbox from scaling to zero meanwhile")
    ] = False
    restart_on_failure: Annotated[bool, Meta(description="Start again after a failure")] = False
    max_restarts: Annotated[int, Meta(description="How often at most; -1 is without end")] = 0
    stdin: Annotated[bool, Meta(description="Open a standard input to write to")] = False

    def spec(self, limits: LimitsFields | None) -> ProcessSpec:
        """Return what is wanted."""
        values = {name: getattr(self, name) for name in _shared(type(self))}
        return ProcessSpec(**values, limits=None if limits is None else limits.limits())


@cache
def _shared(kind: type[ProcessFields]) -> tuple[str, ...]:
    """Return the fields that mean the same in a specification."""
    known = set(ProcessSpec.__struct_fields__) - {"limits"}
    return tuple(name for name in kind.__struct_fields__ if name in known)


class FullProcessFields(ProcessFields):
    """What else a process may be asked to be: a program without a shell, somebody else's."""

    argv: Annotated[
        list[str], Meta(description="Program and arguments to run without a shell")
    ] = []
    inherit_env: Annotated[
        bool, Meta(description="Begin with the sandbox's variables; false: `env` alone")
    ] = True
    user: Annotated[
        str, Meta(description="User to run as, if not the workload's; needs the right to")
    ] = ""
    tag: Annotated[str, Meta(description="Any text to find it by")] = ""

    @property
    def line(self) -> str:
        """The command line, of `argv` as a shell would spell it."""
        return shlex.join(self.argv) if self.argv else self.command


class SavedProcess(FullProcessFields, kw_only=True, omit_defaults=True):
    """A process of an archive: what was asked for, not what became of it."""

    command: str
    name: str
    timeout: int | float = 0
    limits: LimitsFields | None = None

    @classmethod
    def of(cls, spec: ProcessSpec) -> Self:
        """Return a process as it is started again."""
        return msgspec.convert(spec, cls, from_attributes=True)
