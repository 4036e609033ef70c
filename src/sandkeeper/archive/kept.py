"""An archive that is sent nowhere: it waits here for whoever fetches it, in as many pieces."""

import secrets
from typing import TYPE_CHECKING

from sandkeeper.errors import NotFound

if TYPE_CHECKING:
    from sandkeeper.archive.bundle import ByteSource
    from sandkeeper.archive.export import Packed

__all__ = ["Kept"]


class Kept:
    """At most one; `tag` names it, so that nobody joins pieces of two."""

    def __init__(self) -> None:
        self._packed: Packed | None = None
        self.tag = ""

    @property
    def is_there(self) -> bool:
        """Whether one waits."""
        return self._packed is not None

    def put(self, packed: "Packed") -> None:
        """Keep one, in the place of another."""
        self.drop()
        self._packed, self.tag = packed, secrets.token_hex(8)

    def drop(self) -> None:
        """Keep none."""
        packed, self._packed = self._packed, None
        if packed is not None:
            packed.close()

    @property
    def source(self) -> "ByteSource":
        """Its bytes; raises NotFound when there is none."""
        if self._packed is None or self._packed.source is None:
            raise NotFound("no archive is kept here: export one with download")
        return self._packed.source
