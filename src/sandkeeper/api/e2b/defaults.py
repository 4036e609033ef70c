"""What every call of this wire starts from: variables, user and folder that `/init` has set.

They are kept in the state folder, so that a restart of the server loses none.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    read_own,
    write_atomically,
)
from sandkeeper.log.lines import Log

__all__ = ["Defaults", "DefaultsStore"]

FILE_NAME = "e2b.json"


class Defaults(msgspec.Struct, rename="camel", omit_defaults=True):
    """`user` and `workdir` are empty for the workload's own user and its home.

    `trusted` says that the variables are also for programs of other users.
    """

    env_vars: dict[str, str] = {}
    user: str = ""
    workdir: str = ""
    trusted: bool = False

    def env_for(self, user: str) -> dict[str, str]:
        """Return the variables for a user's programs; empty is the workload's own user."""
        return self.env_vars if self.trusted or not user else {}


class DefaultsStore:
    """Reads them once, writes every change; blocks for a small file."""

    def __init__(self, state: Path, log: Log) -> None:
        self._path = state / FILE_NAME
        self._log = log
        self.now = self._read()

    def _read(self) -> Defaults:
        try:
            data = read_own(self._path)
            return Defaults() if data is None else decoded(data, Defaults)
        except (OSError, UntrustedFile, Damaged) as error:
            self._log.warning(f"the defaults of E2B's wire are begun anew: {error}")
            return Defaults()

    def change(self, made: Defaults) -> None:
        """Set and keep them."""
        self.now = made
        try:
            write_atomically(self._path, msgspec.json.encode(made))
        except OSError as error:
            self._log.warning(f"the defaults of E2B's wire cannot be kept: {error}")

    def set_env(self, env: Mapping[str, str], *, trusted: bool) -> None:
        """Set the variables alone."""
        made = msgspec.structs.replace(self.now, env_vars=dict(env), trusted=trusted)
        if made != self.now:
            self.change(made)
