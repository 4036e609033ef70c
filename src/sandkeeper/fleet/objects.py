"""The few fields of Kubernetes' objects that a fleet looks at, and the records made of them."""

import base64
import binascii
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from sandkeeper.api.control.source import PAUSED, RUNNING

__all__ = [
    "ENDS_AT",
    "ENV",
    "KEY_LABEL",
    "METADATA",
    "ORDER",
    "STARTING",
    "STATE",
    "TEAM",
    "Claim",
    "ClaimRecord",
    "ListPage",
    "SandboxObject",
    "SandboxTemplate",
    "Secret",
    "Size",
    "WarmPool",
    "WatchLine",
    "record_of",
    "size_of",
    "text_of",
]

T = TypeVar("T")

OURS = "fleet.sandkeeper.dev/"
TEAM, STATE = OURS + "team", OURS + "state"
"""Labels of a claim: whose it is; STARTING, RUNNING or PAUSED."""
METADATA, ORDER, ENV, ENDS_AT = OURS + "metadata", OURS + "order", OURS + "env", OURS + "pause-at"
"""Annotations: what the client keeps there, a fingerprint of what it ordered, the variables, and
when it is to be paused, for a claim that is not ended then."""
KEY_LABEL = OURS + "api-key"
STARTING = "starting"

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "m": 1e-3}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """An object's metadata."""

    name: str = ""
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Reference(msgspec.Struct, frozen=True):
    name: str = ""


class _Lifecycle(msgspec.Struct, frozen=True, rename="camel"):
    shutdown_time: datetime | None = None


class _ClaimSpec(msgspec.Struct, frozen=True, rename="camel"):
    warm_pool_ref: _Reference = _Reference()
    lifecycle: _Lifecycle | None = None


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Backing(msgspec.Struct, frozen=True):
    name: str = ""
    pod_ips: list[str] = msgspec.field(default=[], name="podIPs")


class _ClaimStatus(msgspec.Struct, frozen=True):
    conditions: list[_Condition] = []
    sandbox: _Backing = _Backing()


class Claim(msgspec.Struct):
    """A SandboxClaim."""

    metadata: Meta
    spec: _ClaimSpec = _ClaimSpec()
    status: _ClaimStatus = _ClaimStatus()


class _PoolSpec(msgspec.Struct, frozen=True, rename="camel"):
    sandbox_template_ref: _Reference = _Reference()


class WarmPool(msgspec.Struct):
    """A SandboxWarmPool: what E2B calls a template."""

    metadata: Meta
    spec: _PoolSpec = _PoolSpec()


class _Resources(msgspec.Struct, frozen=True):
    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class _Container(msgspec.Struct, frozen=True):
    resources: _Resources = _Resources()


class _PodSpec(msgspec.Struct, frozen=True):
    containers: list[_Container] = []


class _PodTemplate(msgspec.Struct, frozen=True):
    spec: _PodSpec = _PodSpec()


class _TemplateSpec(msgspec.Struct, frozen=True, rename="camel"):
    pod_template: _PodTemplate = _PodTemplate()


class SandboxTemplate(msgspec.Struct):
    """A SandboxTemplate, as far as it says how large a sandbox is."""

    metadata: Meta
    spec: _TemplateSpec = _TemplateSpec()


class Secret(msgspec.Struct):
    """A Secret; its values are in base64."""

    metadata: Meta
    data: dict[str, str] = {}


class SandboxObject(msgspec.Struct):
    """A Sandbox, of which nothing but its name matters here."""

    metadata: Meta


class ListPage(msgspec.Struct, Generic[T]):
    """A page of a list."""

    metadata: Meta
    items: list[T] = []


class WatchLine(msgspec.Struct):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class ClaimRecord(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a claim; times in seconds since the epoch, `ends_at` 0: never.

    `address` is the Pod's, empty while there is none; `why` tells why it is not `ready`.
    """

    id: str
    team: str
    template: str
    state: str
    started_at: float
    ends_at: float
    metadata: dict[str, str]
    backing: str
    address: str
    ready: bool
    version: int
    order: str = ""
    pauses: bool = False
    why: str = ""

    @property
    def host(self) -> str:
        """The address as a URL has it (RFC 3986, section 3.2.2)."""
        return f"[{self.address}]" if ":" in self.address else self.address

    def is_over(self, now: float) -> bool:
        """Say whether its time is up; what is paused then is not over."""
        return 0 < self.ends_at <= now and not self.pauses

    @property
    def is_there(self) -> bool:
        """Whether it has been made, to the end."""
        return self.state in {RUNNING, PAUSED}


def record_of(claim: Claim) -> ClaimRecord | None:
    """Return what is kept of a claim; None for one that is ending, or none of a fleet's."""
    meta = claim.metadata
    team = meta.labels.get(TEAM, "")
    if not team or meta.deletion_timestamp is not None:
        return None
    ready = next((one for one in claim.status.conditions if one.type == "Ready"), _Condition())
    lifecycle = claim.spec.lifecycle or _Lifecycle()
    paused_at = meta.annotations.get(ENDS_AT, "")
    backing = claim.status.sandbox
    return ClaimRecord(
        id=meta.name,
        team=team,
        template=claim.spec.warm_pool_ref.name,
        state=meta.labels.get(STATE, STARTING),
        started_at=_seconds(meta.creation_timestamp),
        ends_at=_instant(paused_at) if paused_at else _seconds(lifecycle.shutdown_time),
        metadata=_mapping(meta.annotations.get(METADATA, "")),
        backing=backing.name,
        address=backing.pod_ips[0] if backing.pod_ips else "",
        ready=ready.status == "True",
        version=int(meta.resource_version or 0),
        order=meta.annotations.get(ORDER, ""),
        pauses=bool(paused_at),
        why=f"{ready.reason}: {ready.message}".strip(": ") if ready.status != "True" else "",
    )


class Size(msgspec.Struct, frozen=True):
    """How large a sandbox is: processors, and bytes."""

    cpu_count: int = 0
    memory: int = 0
    disk: int = 0


def size_of(template: SandboxTemplate) -> Size:
    """Return what the first container of a template may use, else what it asks for."""
    containers = template.spec.pod_template.spec.containers
    if not containers:
        return Size()
    resources = containers[0].resources
    told = {**resources.requests, **resources.limits}
    return Size(
        cpu_count=-int(-_quantity(told.get("cpu", 0)) // 1),
        memory=int(_quantity(told.get("memory", 0))),
        disk=int(_quantity(told.get("ephemeral-storage", 0))),
    )


def text_of(secret: Secret, name: str) -> str | None:
    """Return a value of a Secret; None for one that is missing or no text."""
    try:
        return base64.b64decode(secret.data.get(name, ""), validate=True).decode() or None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _quantity(value: str | float) -> float:
    """Read a quantity of Kubernetes (`500m`, `2Gi`, `1e3`); 0 for what is none."""
    text = str(value).strip()
    for suffix, factor in (*_BINARY.items(), *_DECIMAL.items()):
        if suffix and text.endswith(suffix):
            text, scale = text.removesuffix(suffix), factor
            break
    else:
        scale = 1.0
    try:
        return max(0.0, float(text)) * scale
    except ValueError:
        return 0.0


def _mapping(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


def _instant(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
