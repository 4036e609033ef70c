"""The live environment, which children inherit; only this module touches `os.environ`."""

import os
from collections.abc import Mapping

__all__ = ["IMPORT_URL", "Environment"]

IMPORT_URL = "BL_ARCHIVE_IMPORT_URL"
"""Holds a secret for the server alone: it is taken out of what children inherit."""

OWN_SECRETS = frozenset({"SANDKEEPER_TOKEN", IMPORT_URL})


class Environment:
    """The process's environment: read, and changed by `.env`, env files and reloads.

    Changes go to `os.environ`, so children and libraries see them; nobody else makes any.
    """

    def __init__(self) -> None:
        self._inherited: dict[str, str] | None = None

    def snapshot(self) -> dict[str, str]:
        """Return a copy of all variables."""
        return dict(os.environ)

    def for_children(self) -> dict[str, str]:
        """Return what children inherit: all but what governs this server."""
        # os.environ decodes every name and value each time, and every start of a process asks.
        if self._inherited is None:
            own = os.environ.items()
            self._inherited = {name: value for name, value in own if name not in OWN_SECRETS}
        return self._inherited.copy()

    def get(self, name: str, default: str = "") -> str:
        """Return one variable."""
        return os.environ.get(name, default)

    def apply(self, values: Mapping[str, str], *, remove: tuple[str, ...] = ()) -> None:
        """Set `values`, then unset `remove`; raises ValueError on a name the system refuses."""
        self._inherited = None
        for name, value in values.items():
            os.environ[name] = value
        for name in remove:
            os.environ.pop(name, None)
