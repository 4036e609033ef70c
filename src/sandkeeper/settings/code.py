"""The settings of code contexts (docs/code.md)."""

import msgspec

from sandkeeper.settings.variables import Variables

__all__ = ["CodeSettings"]

MIB = 1 << 20


class CodeSettings(msgspec.Struct, frozen=True):
    """Limits of code contexts: times in seconds, sizes in bytes; `idle_seconds` 0 ends none.

    One context of the language `warm` is ready before it is asked for. An interrupt that is not
    heard within `interrupt_seconds` becomes a restart. `kept` executions that are over stay.
    """

    warm: str = ""
    idle_seconds: float = 0.0
    interrupt_seconds: float = 5.0
    contexts: int = 64
    kept: int = 1000
    execution_bytes: int = 256 * MIB
    total_bytes: int = 1024 * MIB

    @classmethod
    def read(cls, env: Variables) -> "CodeSettings":
        """Read our own `SANDKEEPER_CODE_*`; `SANDKEEPER_CODE_WARM` 1 is Python."""
        own = "SANDKEEPER_CODE_"
        warm = env.text(own + "WARM").lower()
        return cls(
            warm={"0": "", "false": "", "1": "python", "true": "python"}.get(warm, warm),
            idle_seconds=float(env.number(own + "IDLE_SECONDS", 0)),
            interrupt_seconds=env.number(own + "INTERRUPT_MS", 5000) / 1000,
            contexts=env.number(own + "CONTEXTS", 64, 1),
            kept=env.number(own + "KEEP", 1000, 1),
            execution_bytes=max(MIB, env.number(own + "BYTES", 256 * MIB)),
            total_bytes=max(MIB, env.number(own + "BYTES_TOTAL", 1024 * MIB)),
        )
