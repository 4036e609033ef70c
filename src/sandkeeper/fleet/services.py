"""What a replica consists of: built once, started before the first request, stopped after all."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from sandkeeper.errors import Internal
from sandkeeper.fleet.claims import Claims
from sandkeeper.fleet.cluster import CLAIMS, POOLS, SECRETS, TEMPLATES, Cluster
from sandkeeper.fleet.keys import Keys
from sandkeeper.fleet.objects import (
    KEY_LABEL,
    TEAM,
    Claim,
    ClaimRecord,
    SandboxTemplate,
    Secret,
    WarmPool,
)
from sandkeeper.fleet.pausing import Pausing
from sandkeeper.fleet.pods import Pods
from sandkeeper.fleet.pools import Pools
from sandkeeper.fleet.source import Fleet
from sandkeeper.fleet.watching import Watched
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.identity import Identity
from sandkeeper.log.access import Access
from sandkeeper.log.libraries import adopt_libraries
from sandkeeper.log.lines import Rouser, open_log
from sandkeeper.network.relay import Relay
from sandkeeper.observability.metrics import Requests
from sandkeeper.settings import Environment, Settings
from sandkeeper.settings.fleet import FleetSettings
from sandkeeper.upgrade.handover import HeldConnection

if TYPE_CHECKING:
    from sandkeeper.observability.otlp.signals import Load, Signals

__all__ = ["FleetServices"]

SERVICE = "sandkeeper-fleet"
"""The name of a replica, to collectors."""


class _Never:
    """A replica is replaced by its Deployment, not by itself."""

    due = False

    def __init__(self) -> None:
        self.when_due: Callable[[], object] = lambda: None


class FleetServices:
    """Owns what serves; only this class builds it. Raises OSError for a log that cannot be used.

    `figures` loads what reads the figures that are exported (`Signals.begin`).
    """

    identity: Identity | None = None

    def __init__(self, fleet: FleetSettings, settings: Settings, environment: Environment) -> None:
        self.settings = settings
        self.upgrade = _Never()
        log = fleet.log
        self.sink, self.log = open_log(log.target, form=log.format, colours=log.colours)
        self._rouser = Rouser(self.sink)
        adopt_libraries(self.log)
        for doubt in fleet.doubts:
            self.log.warning(f"environment: {doubt}")
        self.access = Access(self.log, requests=log.requests)
        self.requests = Requests()
        self.relay = Relay(failed=self.log.error)
        self.keys = Keys(self.log)
        self.pools = Pools()
        self.claims = Claims(self._changed)
        self._cluster = Cluster(fleet.kubeconfig)
        self._pods = Pods(fleet.pod_port, fleet.rights.token)
        self.fleet = Fleet(fleet, self._cluster, self.claims, self.pools, self._pods)
        self._pausing = Pausing(self.claims.by_id.get, self.fleet.pause, self.log)
        self.watched = self._watched(fleet)
        self.otlp = self._otlp(fleet, environment)
        self.figures: Load | None = None
        self._stack = AsyncExitStack()
        self._serving = False

    def _watched(self, own: FleetSettings) -> list[Watched[Any]]:
        cluster, claims, pools, keys = self._cluster, self.claims, self.pools, self.keys
        return [
            Watched(
                *(cluster, CLAIMS, own.namespace, Claim, self.log),
                begin=claims.begin,
                replace=claims.replace,
                change=claims.change,
                remove=claims.remove,
                selector=TEAM,
            ),
            Watched(
                *(cluster, POOLS, own.namespace, WarmPool, self.log),
                begin=pools.begin,
                replace=pools.replace,
                change=pools.change,
                remove=pools.remove,
            ),
            Watched(
                *(cluster, TEMPLATES, own.namespace, SandboxTemplate, self.log),
                begin=pools.begin_templates,
                replace=pools.replace_templates,
                change=pools.change_template,
                remove=pools.remove_template,
            ),
            Watched(
                *(cluster, SECRETS, own.keys_namespace, Secret, self.log),
                begin=keys.begin,
                replace=keys.replace,
                change=keys.change,
                remove=keys.remove,
                selector=KEY_LABEL,
            ),
        ]

    def _otlp(self, own: FleetSettings, environment: Environment) -> "Signals | None":
        """Return what exports by OTLP, where a collector is named."""
        if not own.otlp.signals:
            return None
        from sandkeeper.observability.otlp.signals import Signals

        self._children = Children()
        return Signals(own.otlp, self._children, environment, self.log, SERVICE)

    @property
    def knows_all(self) -> bool:
        """Whether everything was listed once; before that nobody can be called unknown."""
        return all(one.listed.is_set() for one in self.watched)

    def checks(self) -> dict[str, str]:
        """Say of each part whether it can do its work: `ok`, or why not."""
        found = {one.name: "ok" if one.listed.is_set() else "not known yet" for one in self.watched}
        return {**found, "serving": "ok" if self._serving else "it is stopping or starting"}

    async def start(self) -> None:
        """Start to follow the cluster; requests are answered meanwhile, as far as they can be."""
        self._rouser.start()
        self.sink.start()
        self._stack.callback(self.sink.close)
        try:
            await self._cluster.open()
        except (ValueError, OSError) as error:
            raise Internal(f"the cluster cannot be found: {error}") from error
        self._stack.push_async_callback(self._cluster.close)
        self._stack.push_async_callback(self._pods.close)
        self._stack.callback(self._pausing.close)
        self._stack.callback(self.relay.stop)
        if self.otlp is not None and self.figures is not None:
            self._stack.push_async_callback(self._children.close)
            self._stack.push_async_callback(self.otlp.end)
            self.otlp.begin(self.figures, lambda: self.requests.activity)
        for one in self.watched:
            self._stack.callback(asyncio.ensure_future(one.run()).cancel)
        self._serving = True

    def _changed(self, record: ClaimRecord) -> None:
        self._pausing.note(record)

    def begin_stop(self) -> None:
        """Say that no more requests are wanted."""
        self._serving = False

    async def stop(self) -> None:
        """Stop what `start` started."""
        await self._stack.aclose()

    def replace(self, listeners: Sequence[socket.socket], held: Sequence[HeldConnection]) -> None:
        """Do nothing: a replica is never due."""
