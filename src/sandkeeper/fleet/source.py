"""Sandboxes from agent-sandbox's claims.

A claim is made with a name that its order decides, a time after which it ends and the mark that it
is being made. When its sandbox is ready it gets its own time and loses the mark, in one patch. So
whatever becomes of the replica in between, nothing is left over and nothing is made twice: another
replica that gets the same order goes on with the same claim, and what nobody goes on with ends by
itself.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from time import time
from typing import Any

import msgspec

from sandkeeper.api.control.source import PAUSED, RUNNING, SandboxOrder
from sandkeeper.errors import (
    Conflict,
    Forbidden,
    NotFound,
    SandkeeperError,
    TooLarge,
    TooMany,
    Unavailable,
)
from sandkeeper.fleet.claims import Birth, Claims
from sandkeeper.fleet.cluster import CLAIMS, SANDBOXES, Cluster
from sandkeeper.fleet.figures import FleetFigures
from sandkeeper.fleet.keys import Team
from sandkeeper.fleet.objects import (
    ENDS_AT,
    ENV,
    METADATA,
    ORDER,
    STARTING,
    STATE,
    TEAM,
    Claim,
    ClaimRecord,
    SandboxObject,
    record_of,
)
from sandkeeper.fleet.pods import Pods
from sandkeeper.fleet.pools import Pools
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.settings.fleet import FleetSettings

__all__ = ["Fleet", "is_a_name"]

PREFIX = "sf"
DIGITS = 18
GRACE_SECONDS = 30
"""So long after a creation has been given up its claim ends by itself."""

ANNOTATION_BYTES = 64 << 10
SUSPEND_SECONDS = 60.0
LOOKS_PER_SECOND = 50


def is_a_name(name: str) -> bool:
    """Say whether an id looks like those of a fleet's sandboxes."""
    rest = name.removeprefix(PREFIX)
    return len(rest) == DIGITS and len(name) == DIGITS + 2 and set(rest) <= set("0123456789abcdef")


class Fleet:
    """Makes, finds and ends sandboxes in a cluster; event loop's thread only."""

    def __init__(
        self, settings: FleetSettings, cluster: Cluster, claims: Claims, pools: Pools, pods: Pods
    ) -> None:
        self.settings = settings
        self.claims = claims
        self.pools = pools
        self.pods = pods
        self.figures = FleetFigures()
        self._cluster = cluster
        self._namespace = settings.namespace
        self._secret = (settings.secret or settings.rights.token).encode()
        self._looking: dict[str, asyncio.Future[ClaimRecord | None]] = {}
        self._look_second, self._looks = 0, 0

    def token_of(self, name: str) -> str:
        """Return the token of one sandbox: all replicas make the same, and nobody else another's.

        A program in a sandbox may learn the token of its server, which is that of all of them.
        """
        if not self.settings.rights.token:
            return ""
        return "sk_" + hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()

    async def find(self, name: str) -> ClaimRecord | None:
        """Return a sandbox as it is; None for no such.

        One that is not known, or not known to run, is asked for: another replica may just have
        made it, resumed it or kept it. Once, by one for all who wait.
        """
        known = self.claims.by_id.get(name)
        if known is not None and _runs(known):
            return known
        if known is None and (not is_a_name(name) or self.claims.was_here(name)):
            return None
        if name not in self._looking:
            if not self._may_look(LOOKS_PER_SECOND if known else LOOKS_PER_SECOND // 2):
                return self.claims.get(name)
            self._looking[name] = asyncio.ensure_future(self._look(name))
        return await asyncio.shield(self._looking[name])

    def doubt(self, record: ClaimRecord) -> None:
        """Ask for a sandbox anew: at its address another one has answered."""
        if record.id not in self._looking and self._may_look(LOOKS_PER_SECOND // 2):
            looking = asyncio.ensure_future(self._look(record.id))
            self._looking[record.id] = looking
            looking.add_done_callback(_taken)

    async def _look(self, name: str) -> ClaimRecord | None:
        try:
            claim = await self._cluster.get(CLAIMS, self._namespace, name, Claim)
        except NotFound:
            if name in self.claims.by_id:  # what was made up is not worth remembering
                self.claims.forget(name)
            return None
        except Unavailable:
            if (known := self.claims.get(name)) is not None:
                return known
            raise
        finally:
            del self._looking[name]
        record = record_of(claim)
        if record is None or record.is_over(time()):
            return None
        self.claims.put(record)
        return record

    def _may_look(self, most: int) -> bool:
        """Bound what made-up names cost the API server, and leave something for known ones."""
        second = int(time())
        if second != self._look_second:
            self._look_second, self._looks = second, 0
        if self._looks >= most:
            return False
        self._looks += 1
        return True

    # Making

    async def create(self, team: Team, order: SandboxOrder) -> ClaimRecord:
        """Make a sandbox, or go on with what the same order has made; see `Source.create`."""
        template = self._template(team, order)
        name = PREFIX + (
            hashlib.sha256(f"{team.name}\0{order.key}".encode()).hexdigest()[:DIGITS]
            if order.key
            else secrets.token_hex(DIGITS // 2)
        )
        self._check(team, order, name)
        fingerprint = _fingerprint(template, order)
        try:
            with self.figures.creating(), self.claims.following(name) as birth:
                async with asyncio.timeout(self.settings.start_seconds):
                    is_new = await self._claim(team, template, order, name, fingerprint, birth)
                    return await self._finish(team, order, name, birth, is_new=is_new)
        except TimeoutError:
            known = self.claims.by_id.get(name)
            await self._drop(name)
            why = f" ({known.why})" if known is not None and known.why else ""
            seconds = self.settings.start_seconds
            raise Unavailable(f"no sandbox was ready within {seconds} s{why}") from None

    def _template(self, team: Team, order: SandboxOrder) -> str:
        template = order.template
        if template not in self.pools and template in {"base", ""}:
            template = self.settings.template
        if team.templates and template not in team.templates:
            raise Forbidden(f"template {template[:64]!r} is not among those of this key")
        if template not in self.pools:
            raise NotFound(f"template {template[:64]!r} was not found: there is no such warm pool")
        return template

    def _check(self, team: Team, order: SandboxOrder, name: str) -> None:
        team.check_seconds(order.seconds)
        for given, what in ((order.metadata, "metadata"), (order.env, "envVars")):
            if given and len(_json(given).encode()) > ANNOTATION_BYTES:
                raise TooLarge(f"{what} has more than {ANNOTATION_BYTES >> 10} KiB")
        if name in self.claims.by_id or not team.sandboxes:
            return
        if self.claims.count(team.name) >= team.sandboxes:
            self.figures.refused += 1
            raise _over(team)

    async def _claim(
        self,
        team: Team,
        template: str,
        order: SandboxOrder,
        name: str,
        fingerprint: str,
        birth: Birth,
    ) -> bool:
        """Have there be a claim; False when there was one. Raises TooMany for one too many."""
        annotations = {ORDER: fingerprint}
        if order.metadata:
            annotations[METADATA] = _json(order.metadata)
        if order.env:
            annotations[ENV] = _json(order.env)
        end = time() + self.settings.start_seconds + GRACE_SECONDS
        body = {
            "metadata": {
                "name": name,
                "labels": {TEAM: team.name, STATE: STARTING},
                "annotations": annotations,
            },
            "spec": {
                "warmPoolRef": {"name": template},
                "lifecycle": {"shutdownTime": _moment(end), "shutdownPolicy": "Delete"},
            },
        }
        try:
            await self._cluster.create(CLAIMS, self._namespace, body, Claim)
        except Conflict:
            found = await self._cluster.get(CLAIMS, self._namespace, name, Claim)
            record = record_of(found)
            if record is None:
                raise Unavailable("what this order made is just ending: try again") from None
            if record.order != fingerprint:
                raise Conflict("the Idempotency-Key was used with another order") from None
            # Whoever made it may have died before it was found to be one too many.
            if not record.is_there:
                await self._keep_to(team, name, self.claims.place(record))
            return False
        await birth.until(lambda _: birth.rank > 0)
        await self._keep_to(team, name, birth.rank)
        return True

    async def _keep_to(self, team: Team, name: str, rank: int) -> None:
        """Take back a claim that is one too many; raises TooMany."""
        if team.sandboxes and rank > team.sandboxes:
            await self._drop(name)
            raise _over(team)

    async def _finish(
        self, team: Team, order: SandboxOrder, name: str, birth: Birth, *, is_new: bool
    ) -> ClaimRecord:
        """Wait for the sandbox, give it its variables and its time, and take the mark away."""
        ready = await birth.until(lambda one: one.is_there or (one.ready and bool(one.address)))
        if ready is None:
            raise Unavailable("the sandbox ended before it was ready")
        if ready.is_there:
            return ready
        try:
            if order.env:
                await self.pods.set_env(ready, order.env)
        except SandkeeperError:
            if is_new:
                await self._drop(name)
            raise
        return await self._patch(name, _lasting(RUNNING, order.seconds, pauses=order.pause_at_end))

    async def _drop(self, name: str) -> None:
        """Have a claim end, whether or not it is still there."""
        try:
            await self._cluster.delete(CLAIMS, self._namespace, name)
        except (NotFound, Unavailable):
            return  # it ends by itself
        self.claims.forget(name)

    # Changing

    async def end(self, record: ClaimRecord) -> None:
        """End a sandbox; raises NotFound."""
        await self._cluster.delete(CLAIMS, self._namespace, record.id)
        self.claims.forget(record.id)
        self.figures.ended += 1

    async def keep(self, record: ClaimRecord, seconds: float) -> ClaimRecord:
        """Have a sandbox end, or be paused, in so many seconds; nothing ends a paused one."""
        kept = await self._patch(record.id, _lasting("", seconds, pauses=record.pauses))
        if kept.state == PAUSED:  # by another replica, which this one has not heard of
            kept = await self._patch(record.id, _paused(pauses=record.pauses))
        return kept

    async def pause(self, record: ClaimRecord) -> ClaimRecord:
        """Suspend: the Pod ends, what is on volumes stays. Nothing ends it from now on."""
        most = SUSPEND_SECONDS + GRACE_SECONDS
        if not record.pauses and 0 < record.ends_at < time() + most:
            record = await self.keep(record, most)  # its end must not come first
        with self.claims.following(record.id) as birth:
            await self._operate(record, "Suspended")
            try:
                async with asyncio.timeout(SUSPEND_SECONDS):
                    await birth.until(lambda one: not one.address)
            except TimeoutError:
                raise Unavailable("the sandbox's Pod has not ended yet: try again") from None
        return await self._patch(record.id, _paused(pauses=record.pauses))

    async def resume(self, record: ClaimRecord) -> ClaimRecord:
        """Have a suspended sandbox run again, with its variables; raises Unavailable."""
        claim = await self._cluster.get(CLAIMS, self._namespace, record.id, Claim)
        with self.claims.following(record.id) as birth:
            await self._operate(record, "Running")
            try:
                async with asyncio.timeout(self.settings.start_seconds):
                    ready = await birth.until(lambda one: one.ready and bool(one.address))
            except TimeoutError:
                seconds = self.settings.start_seconds
                raise Unavailable(f"the sandbox was not ready within {seconds} s") from None
        if ready is None:
            raise NotFound(f"sandbox {record.id!r} was not found")
        if env := claim.metadata.annotations.get(ENV, ""):
            await self.pods.set_env(ready, msgspec.json.decode(env, type=dict[str, str]))
        return ready

    async def _operate(self, record: ClaimRecord, mode: str) -> None:
        body = {"spec": {"operatingMode": mode}}
        await self._cluster.patch(SANDBOXES, self._namespace, record.backing, body, SandboxObject)

    async def mark_running(self, record: ClaimRecord, seconds: float) -> ClaimRecord:
        """Have a resumed sandbox count as running, for so many seconds."""
        return await self._patch(record.id, _lasting(RUNNING, seconds, pauses=record.pauses))

    async def _patch(self, name: str, changes: Mapping[str, Any]) -> ClaimRecord:
        claim = await self._cluster.patch(CLAIMS, self._namespace, name, changes, Claim)
        record = record_of(claim)
        if record is None:
            raise NotFound(f"sandbox {name!r} was not found")
        self.claims.put(record)
        return record


def _taken(looking: "asyncio.Future[ClaimRecord | None]") -> None:
    """Take note of what became of a look that nobody waits for."""
    if not looking.cancelled():
        looking.exception()


def _runs(record: ClaimRecord) -> bool:
    return record.state == RUNNING and bool(record.address) and not record.is_over(time())


def _lasting(state: str, seconds: float, *, pauses: bool) -> dict[str, Any]:
    """Return the fields of a claim that is to last so long, and then to end or to be paused."""
    end = _moment(time() + seconds)
    metadata: dict[str, Any] = {"annotations": {ENDS_AT: end if pauses else None}}
    if state:
        metadata["labels"] = {STATE: state}
    return {
        "metadata": metadata,
        "spec": {"lifecycle": {"shutdownTime": None if pauses else end}},
    }


def _paused(*, pauses: bool) -> dict[str, Any]:
    """Return the fields of a claim that nothing ends; it remembers whether its end is a pause."""
    annotations = {ENDS_AT: _moment(0) if pauses else None}
    return {
        "metadata": {"annotations": annotations, "labels": {STATE: PAUSED}},
        "spec": {"lifecycle": {"shutdownTime": None}},
    }


def _over(team: Team) -> TooMany:
    return TooMany(f"this key's team has the {team.sandboxes} sandboxes that it may have at once")


def _fingerprint(template: str, order: SandboxOrder) -> str:
    about = (template, order.seconds, dict(order.metadata), dict(order.env), order.pause_at_end)
    return hashlib.sha256(msgspec.json.encode(about, order="sorted")).hexdigest()[:32]


def _json(values: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(values)).decode()


def _moment(seconds: float) -> str:
    """Write a time in whole seconds, as Kubernetes takes it; never earlier than it is."""
    return rfc3339(math.ceil(seconds) * 1_000_000_000, local=False)
