"""The live environment, which children inherit; only this module touches `os.environ`."""

import os
from collections.abc import Mapping
from contextlib import suppress

from sandkeeper.settings.rights import TOKEN_VARIABLES

__all__ = ["IMPORT_URL", "Environment"]

IMPORT_URL = "BL_ARCHIVE_IMPORT_URL"
"""Holds a secret for the server alone: it is taken out of what children inherit."""

OWN_SECRETS = frozenset({*TOKEN_VARIABLES, IMPORT_URL})
"""What no child inherits, whoever it runs as."""

COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})

OPERATORS = frozenset(
    {"RELACE_API_KEY", "MORPH_API_KEY", "BL_NETWORKING_CONFIG", "OTEL_EXPORTER_OTLP_HEADERS"}
    | {f"OTEL_EXPORTER_OTLP_{signal}_HEADERS" for signal in ("LOGS", "METRICS", "TRACES")}
)
OPERATORS_PREFIXES = ("SANDKEEPER_", "RCLONE_")
"""What governs this server and its helper programs, keys and passwords of the operator among it:
a workload with a user of its own inherits none of these."""


class Environment:
    """The process's environment: read, and changed by `.env`, env files and reloads.

    Changes go to `os.environ`, so children and libraries see them; nobody else makes any.
    """

    def __init__(self) -> None:
        _forget_coercion()
        self._inherited: dict[str, str] | None = None
        self._apart: dict[str, str] | None = None
        self._all: dict[str, str] | None = None
        self._given: dict[str, str] = {}

    def snapshot(self) -> dict[str, str]:
        """Return a copy of all variables."""
        return dict(os.environ)

    def for_children(self) -> dict[str, str]:
        """Return what the server's helper programs inherit: all but who may ask it for what."""
        # os.environ decodes every name and value each time, and every start of a process asks.
        if self._inherited is None:
            own = os.environ.items()
            self._inherited = {name: value for name, value in own if name not in OWN_SECRETS}
        return self._inherited.copy()

    def for_workload(self, *, apart: bool) -> dict[str, str]:
        """Return what the workload inherits; with a user of its own (`apart`) no operator's words.

        Without one it could read them from the server's memory anyway.
        """
        if not apart:
            return self.for_children()
        if self._apart is None:
            self._apart = {
                name: value for name, value in self.for_children().items() if not _operators(name)
            }
        return self._apart.copy()

    def get(self, name: str, default: str = "") -> str:
        """Return one variable."""
        if self._all is None:
            self._all = dict(os.environ)  # which encodes and decodes at each look
        return self._all.get(name, default)

    def apply(self, values: Mapping[str, str], *, remove: tuple[str, ...] = ()) -> None:
        """Set `values`, then unset `remove`; raises ValueError on a name the system refuses."""
        self._inherited = self._apart = self._all = None
        for name, value in values.items():
            os.environ[name] = value
            self._given[name] = value
        for name in remove:
            os.environ.pop(name, None)
            self._given.pop(name, None)

    def given(self, name: str, default: str) -> str:
        """Return a variable that was set on purpose (`.env`, a file, a reload), else `default`.

        For what the surroundings in which the server happens to be started must not decide.
        """
        return self._given.get(name, default)


def _operators(name: str) -> bool:
    return name in OPERATORS or name.startswith(OPERATORS_PREFIXES)


def _forget_coercion() -> None:
    """Take back the LC_CTYPE that the interpreter sets in the C locale (PEP 538).

    It is done with it when this runs; children are to find what the sandbox says, which is nothing.
    What a process was started with stands in /proc/self/environ (proc(5)).
    """
    if os.environ.get("LC_CTYPE") not in COERCED:
        return
    with suppress(OSError), open("/proc/self/environ", "rb") as file:
        if not any(one.startswith(b"LC_CTYPE=") for one in file.read().split(b"\0")):
            del os.environ["LC_CTYPE"]
