"""What somebody wants run."""

from dataclasses import dataclass, field

from sandkeeper.linux.cgroups import Limits

__all__ = ["Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """A process somebody wants; `timeout` in seconds, None where none was given.

    `idempotency` is a key and a fingerprint of the request it came with.
    """

    command: str
    name: str = ""
    working_dir: str = ""
    env: dict[str, str] = field(default_factory=dict)
    timeout: int | None = None
    keep_alive: bool = False
    restart_on_failure: bool = False
    max_restarts: int = 0
    stdin: bool = False
    limits: Limits | None = None
    idempotency: tuple[str, str] | None = None
