"""What every replica knows of all sandboxes: one slim record each, in the order of lists.

Fed by a watch, and by the answers to this replica's own changes, so that whoever asks the replica
that did something sees it done. Of two records of a claim the later one counts.
"""

import asyncio
import base64
import binascii
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from time import time

from sandkeeper.api.control.source import Wanted
from sandkeeper.errors import BadInput
from sandkeeper.fleet.objects import Claim, ClaimRecord, record_of

__all__ = ["Birth", "Claims", "page_of"]

Place = tuple[float, str]
Scanned = tuple[Place | None, bool]
GONE_KEPT = 10_000
PIECE = 1000
"""So many are looked at in one go: a millisecond."""


class Birth:
    """A claim that this replica makes: what happens to it, from before it is made.

    `rank` is how many of its team there were, itself included, when it was first seen in the
    cluster's own order, which is the same for all replicas; 0 before that. `ended` says that it
    was there and is not any more.
    """

    def __init__(self) -> None:
        self.rank = 0
        self.ended = False
        self.record: ClaimRecord | None = None
        self.changed = asyncio.Event()

    def put(self, record: ClaimRecord | None) -> None:
        """Note how it is now; None when it has ended."""
        self.record, self.ended = record, record is None
        self.changed.set()

    async def until(self, done: Callable[[ClaimRecord], bool]) -> ClaimRecord | None:
        """Wait until it is as wanted, and return it so; None when it has ended."""
        while not self.ended and (self.record is None or not done(self.record)):
            self.changed.clear()
            await self.changed.wait()
        return self.record


class Claims:
    """The records by id; event loop's thread only."""

    def __init__(self, on_change: Callable[[ClaimRecord], None] | None = None) -> None:
        self.by_id: dict[str, ClaimRecord] = {}
        self._on_change = on_change
        self._places: dict[str, list[Place]] = {}
        self._gone: dict[str, int] = {}
        self._births: dict[str, list[Birth]] = {}
        self._listing: set[str] | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    def count(self, team: str) -> int:
        """Return how many a team has, those that are being made included."""
        return len(self._places.get(team, ()))

    def place(self, record: ClaimRecord) -> int:
        """Return how many of its team were made before a claim or with it, itself included."""
        places = self._places.get(record.team, [])
        return bisect_left(places, (record.started_at, record.id)) + 1

    def states(self) -> Counter[str]:
        """Return how many there are in each state."""
        return Counter(one.state for one in self.by_id.values())

    def get(self, name: str) -> ClaimRecord | None:
        """Return one that is there and whose time is not up."""
        found = self.by_id.get(name)
        return found if found is not None and not found.is_over(time()) else None

    def was_here(self, name: str) -> bool:
        """Say whether a claim is known to have ended."""
        return name in self._gone

    # What a watch tells

    def begin(self) -> None:
        """Expect a list from its beginning, whatever became of the one before."""
        self._listing = set()

    def replace(self, claims: list[Claim] | None) -> None:
        """Take a piece of a list; None is its end, when what was not in it has gone."""
        if self._listing is None:
            self._listing = set()
        if claims is not None:
            for claim in claims:
                self._listing.add(claim.metadata.name)
                self.change(claim)
            return
        for name in self.by_id.keys() - self._listing:
            self.forget(name)
        self._listing = None
        for births in self._births.values():
            for birth in births:
                self._rank(birth)

    def change(self, claim: Claim) -> None:
        """Take a claim as it is now, unless something later is known."""
        record = record_of(claim)
        if record is None:
            self.forget(claim.metadata.name, int(claim.metadata.resource_version or 0))
            return
        self.put(record)
        if self._listing is None:
            for birth in self._births.get(record.id, ()):
                self._rank(birth)

    def remove(self, claim: Claim) -> None:
        """Take the end of a claim."""
        self.forget(claim.metadata.name, int(claim.metadata.resource_version or 0))

    def put(self, record: ClaimRecord) -> None:
        """Have a record count, unless a later one or an end is known."""
        name = record.id
        known = self.by_id.get(name)
        if known is not None and known.version > record.version:
            return
        if self._gone.get(name, -1) >= record.version:
            return
        place = (record.team, record.started_at)
        if known is None or (known.team, known.started_at) != place:
            if known is not None:
                self._unplace(known)
            insort(self._places.setdefault(record.team, []), (record.started_at, name))
        self.by_id[name] = record
        if self._listing is not None:
            self._listing.add(name)  # it may be younger than the list
        for birth in self._births.get(name, ()):
            birth.put(record)
        if self._on_change is not None:
            self._on_change(record)

    def _rank(self, birth: Birth) -> None:
        """Say which of its team it is; in a list, whose order is another, the last one."""
        if birth.record is not None and not birth.rank:
            birth.rank = self.count(birth.record.team)
            birth.changed.set()

    def forget(self, name: str, version: int = 0) -> None:
        """Have a claim be gone, as of a version: what comes late of it is not believed."""
        known = self.by_id.pop(name, None)
        if known is not None:
            self._unplace(known)
        self._gone.pop(name, None)
        self._gone[name] = max(version, known.version if known is not None else 0)
        if len(self._gone) > GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        for birth in self._births.get(name, ()):
            birth.put(None)

    def _unplace(self, record: ClaimRecord) -> None:
        places = self._places[record.team]
        at = bisect_left(places, (record.started_at, record.id))
        if at < len(places) and places[at][1] == record.id:
            del places[at]
        if not places:
            del self._places[record.team]

    @contextmanager
    def following(self, name: str) -> Iterator[Birth]:
        """Follow a claim by name, one that is not there yet as well."""
        birth = Birth()
        birth.record = self.by_id.get(name)
        self._births.setdefault(name, []).append(birth)
        try:
            yield birth
        finally:
            self._births[name].remove(birth)
            if not self._births[name]:
                del self._births[name]

    # Lists

    def scan(
        self, team: str, wanted: Wanted, found: list[ClaimRecord], after: Place | None
    ) -> Scanned:
        """Add to `found` those of a team that are wanted, of the next few behind a place.

        Returns how far that went, and whether it is the end; where a page is full it has gone one
        too far, so that whoever asks knows that more follow.
        """
        places = self._places.get(team, [])
        now = time()
        here = after
        for at in _next(places, wanted, after):
            here = places[at]
            record = self.by_id[here[1]]
            if not wanted.fits(record.state, record.template, here[0], record.metadata):
                continue
            if record.is_there and not record.is_over(now):
                found.append(record)
                if len(found) > wanted.limit:
                    return here, True
        return here, not _next(places, wanted, here)


async def page_of(claims: Claims, team: str, wanted: Wanted) -> tuple[list[ClaimRecord], str]:
    """Return some of a team's sandboxes, and where the next page begins ("": there is none).

    A page begins behind a place in the order, so what comes and goes meanwhile moves nothing. A
    long search goes in pieces. Raises BadInput for a place that is none.
    """
    found: list[ClaimRecord] = []
    here = _place(wanted.after) if wanted.after else None
    is_end = False
    while not is_end:
        here, is_end = claims.scan(team, wanted, found, here)
        if not is_end:
            await asyncio.sleep(0)
    if len(found) <= wanted.limit:
        return found, ""
    last = found[wanted.limit - 1]
    return found[: wanted.limit], _token((last.started_at, last.id))


def _next(places: list[Place], wanted: Wanted, after: Place | None) -> range:
    """Return the next few places behind one."""
    if wanted.oldest_first:
        first = 0 if after is None else bisect_right(places, after)
        return range(first, min(len(places), first + PIECE))
    first = len(places) if after is None else bisect_left(places, after)
    return range(first - 1, max(-1, first - 1 - PIECE), -1)


def _token(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0]!r} {place[1]}".encode()).decode().rstrip("=")


def _place(token: str) -> Place:
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        moment, _, name = text.partition(" ")
        if not isfinite(place := float(moment)):
            raise ValueError
        return place, name
    except (binascii.Error, ValueError):
        raise BadInput("nextToken is none of ours") from None
