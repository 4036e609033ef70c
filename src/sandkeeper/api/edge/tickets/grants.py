"""Links that were given out: each can be revoked, some are spent by the first who opens one.

A ticket alone cannot be taken back. So what is made for others, or is good once, names a grant, and
opens something only while that grant is listed here. The list is a file in the state folder: if it
is lost or damaged, nothing opens any more that it could have forbidden.
"""

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.errors import Unprocessable
from sandkeeper.linux.children.adopted import boot_id
from sandkeeper.linux.clocks import Ratchet, uptime
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    read_own,
    write_atomically,
)

__all__ = ["Grant", "Grants"]

MOST = 1000
"""So many links may be alive at once."""
ID_BYTES = 9


class Grant(msgspec.Struct, frozen=True):
    """A link: for a port, under a host name or (empty) below the path prefix.

    `once`: the first visit spends it; what the visitor got then lasts until `expires`, as all of
    it does. Times are seconds of the tickets' clock.
    """

    id: str
    port: int
    host: str
    once: bool
    created: float
    expires: float
    spent: bool = False


class _Saved(msgspec.Struct):
    """The file: when it was written, by uptime in a boot as well, and what is alive."""

    now: float = 0.0
    boot: str = ""
    uptime: float = 0.0
    grants: list[Grant] = []


class Grants:
    """All that were given out, and the clock by which they and all tickets end.

    Used on the event loop's thread; changes are awaited until they are on disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saving = asyncio.Lock()
        saved = _Saved()
        with suppress(OSError, UntrustedFile, Damaged):
            saved = decoded(read_own(path) or b"{}", _Saved)
        self._clock = Ratchet(_floor(saved))
        self._grants = {one.id: one for one in saved.grants}
        if saved.boot != boot_id():  # from here on nobody who sets the clock can turn it back
            with suppress(OSError):
                write_atomically(path, self._written())

    def now(self) -> float:
        """Return the time by which tickets end."""
        return self._clock.now()

    def alive(self) -> list[Grant]:
        """Return what has neither ended nor been revoked, the oldest first."""
        now = self.now()
        self._grants = {key: one for key, one in self._grants.items() if one.expires > now}
        return list(self._grants.values())

    def find(self, key: str) -> Grant | None:
        """Return a living grant."""
        found = self._grants.get(key)
        return found if found is not None and found.expires > self.now() else None

    async def add(self, *, port: int, host: str, once: bool, seconds: float) -> Grant:
        """Make one; raises Unprocessable for too many, OSError when it cannot be kept."""
        if len(self.alive()) >= MOST:
            raise Unprocessable(f"{MOST} links are alive already: revoke some")
        now = self.now()
        key = secrets.token_urlsafe(ID_BYTES)
        made = Grant(key, port, host, once, created=now, expires=now + seconds)
        self._grants[key] = made
        await self._save()
        return made

    async def spend(self, key: str, seconds: float) -> Grant | None:
        """Return a grant for its only visitor, who may stay for `seconds`; None: it is spent.

        Of two visitors at once the second comes too late.
        """
        found = self.find(key)
        if found is None or found.spent:
            return None
        spent = msgspec.structs.replace(found, spent=True, expires=self.now() + seconds)
        self._grants[key] = spent
        await self._save()
        return spent

    async def revoke(self, key: str) -> bool:
        """End a grant and all that was got by it; False when there is none."""
        if self.find(key) is None:
            return False
        del self._grants[key]
        await self._save()
        return True

    async def _save(self) -> None:
        async with self._saving:
            await asyncio.to_thread(write_atomically, self._path, self._written())

    def _written(self) -> bytes:
        return msgspec.json.encode(_Saved(self.now(), boot_id(), uptime(), self.alive()))


def _floor(saved: _Saved) -> float:
    """Return the time that it is at least: within a boot nobody can have stopped the clock."""
    passed = max(0.0, uptime() - saved.uptime) if saved.boot == boot_id() else 0.0
    return saved.now + passed
