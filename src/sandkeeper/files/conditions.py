"""Preconditions on a file's state (RFC 9110, 13.1), no HTTP."""

import os

import msgspec

from sandkeeper.errors import PreconditionFailed
from sandkeeper.files.entries import etag

__all__ = ["NO_CONDITIONS", "Conditions"]


class Conditions(msgspec.Struct, frozen=True):
    """What the caller believes: tags with their quotes, `*` for any state; None: not said.

    `unmodified_since` is a Unix time, which counts where there is no `match`.
    """

    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None
    unmodified_since: int | None = None

    def __bool__(self) -> bool:
        return (self.match, self.none_match, self.unmodified_since) != (None, None, None)

    def check(self, info: os.stat_result | None) -> None:
        """Raise PreconditionFailed unless a change of what has this state is still wanted."""
        if self.match is not None and not self._matches(info):
            state = "does not exist" if info is None else f"is now {etag(info)}"
            raise PreconditionFailed(f"the file {state}, not what If-Match names")
        self._check_time(info)
        if self.unchanged(info):
            raise PreconditionFailed("the file has a state that If-None-Match excludes")

    def check_read(self, info: os.stat_result) -> None:
        """Raise PreconditionFailed when a read was asked for another state."""
        if self.match is not None and not self._matches(info):
            raise PreconditionFailed(f"the file is now {etag(info)}, not what If-Match names")
        self._check_time(info)

    def _check_time(self, info: os.stat_result | None) -> None:
        """Compare whole seconds, as HTTP's dates have them; what does not exist has none."""
        if self.match is not None or self.unmodified_since is None or info is None:
            return
        if int(info.st_mtime) > self.unmodified_since:
            raise PreconditionFailed("the file was modified after If-Unmodified-Since")

    def unchanged(self, info: os.stat_result | None) -> bool:
        """Say whether If-None-Match names this state: a read then is `not modified`."""
        if self.none_match is None or info is None:
            return False
        if "*" in self.none_match:
            return True
        return etag(info) in {tag.removeprefix("W/") for tag in self.none_match}

    def _matches(self, info: os.stat_result | None) -> bool:
        if info is None or self.match is None:
            return False
        return "*" in self.match or etag(info) in self.match


NO_CONDITIONS = Conditions()
