"""Contexts and executions as data: what somebody wants, and what records keep of them."""

import msgspec

from sandkeeper.linux.cgroups import Limits

__all__ = ["ContextMeta", "ContextSpec", "ExecutionMeta", "ExecutionSpec"]


class ContextSpec(msgspec.Struct, omit_defaults=True):
    """A context somebody wants.

    `language` is a kernelspec's name, the language of one, or `bash`. The rest is as a process's
    (processes.spec): `cwd` its working folder, `user` a name of `linux.users`.
    """

    language: str = "python"
    name: str = ""
    cwd: str = ""
    env: dict[str, str] = {}
    limits: Limits | None = None
    user: str = ""
    inherit_env: bool = True
    tag: str = ""


class ContextMeta(ContextSpec, kw_only=True, omit_defaults=True):
    """What a context's `meta.json` keeps; times in seconds since the epoch.

    `process` is the id of its process, `kind` the engine's, `engine` what an engine is made of
    again (interpreter.starters), `generation` counts starts. `spare` ones are warm and nobody's
    yet; `shared` is the language whose default it is. `idle_seconds` without an execution end it.
    """

    id: str
    version: int = 1
    kind: str = ""
    kernel: str = ""
    process: str = ""
    generation: int = 0
    engine: dict[str, str | int | float | bool | None] = msgspec.field(default_factory=dict)
    created_at: float = 0.0
    spare: bool = False
    shared: str = ""
    idle_seconds: float = 0.0
    idempotency_key: str = ""
    idempotency_body: str = ""

    @property
    def process_name(self) -> str:
        """What its process is called."""
        return f"code-{self.kernel}-{self.id[-8:]}"


class ExecutionSpec(msgspec.Struct, omit_defaults=True):
    """Code to be run; `env` and `cwd` hold for this execution alone, `timeout` is in seconds.

    A `silent` one neither counts nor tells its result.
    """

    code: str
    env: dict[str, str] = {}
    cwd: str = ""
    silent: bool = False
    store_history: bool = True
    timeout: float | None = None


class ExecutionMeta(msgspec.Struct, omit_defaults=True):
    """What the last line of an execution's `meta.jsonl` says; times in seconds since the epoch.

    `status` is `queued`, `running`, or how it ended (`interpreter.events.EndStatus`). `size` is
    where its journal ended. `started_uptime` is its start by a clock that nobody sets.
    """

    id: str
    context: str
    status: str = "queued"
    version: int = 1
    created_at: float = 0.0
    started_at: float = 0.0
    started_uptime: float = 0.0
    ended_at: float = 0.0
    timeout: float | None = None
    execution_count: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    reason: str = ""
    size: int = 0
    idempotency_key: str = ""
    idempotency_body: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the end was told."""
        return self.status not in {"queued", "running"}
