"""W3C Trace Context: what a request says of the trace it belongs to, and what is made of it.

A `Trace` names a place in a trace. `parsed` reads the two header fields, `Tracing` decides what
belongs below them: with tracing on a span of our own, without it the caller's place, passed on.
`CURRENT` is the place of the request that is being answered; what is started meanwhile is below it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

import msgspec

__all__ = ["CURRENT", "SAMPLERS", "Trace", "Tracing", "below", "parsed"]

SAMPLED, KNOWN_FLAGS = 1, 3
_PARENT = rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
_MEMBER = (
    rb"([a-z0-9][a-z0-9_\-*/@]{0,255})="
    rb"([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
STATE_MEMBERS = 32
STATE_BYTES = 512
"""So much of a tracestate everybody passes on; of more, whole members are left out."""
LONG_MEMBER = 128

_RULES = ("always_on", "always_off", "traceidratio")
SAMPLERS = {
    **{name: (False, name) for name in _RULES},
    **{f"parentbased_{name}": (True, name) for name in _RULES},
}
"""By the names that OTEL_TRACES_SAMPLER has: whether the place above decides, and what else."""


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in a trace; ids are lower-case hex.

    `span_id` is a span of ours where `own`, else the caller's. `parent_id` is the span above one
    of ours, empty for the first of a trace; `remote` says that it is somebody else's.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""
    parent_id: str = ""
    own: bool = False
    remote: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether spans of it are recorded."""
        return bool(self.flags & SAMPLED)

    @property
    def is_sound(self) -> bool:
        """Whether it is one that we may have written: records lie on disks that fail."""
        ids = f"{self.trace_id}-{self.span_id}-{self.parent_id or '0' * 16}"
        found = re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{16}", ids)
        return found is not None and 0 <= self.flags < 256 and self.state.isprintable()

    def variables(self) -> dict[str, str]:
        """Return the variables by which programs hand it on to what they start."""
        made = {"TRACEPARENT": f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return {**made, "TRACESTATE": self.state} if self.state else made

    def fields(self) -> dict[str, str]:
        """Return what lines of a log say of it."""
        made = {"trace_id": self.trace_id}
        return {**made, "span_id": self.span_id} if self.own else made


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


def below(trace: Trace | None, env: Mapping[str, str]) -> dict[str, str]:
    """Return variables for a child of a place; what its caller has set of them wins."""
    if trace is None or "TRACEPARENT" in env:
        return dict(env)
    return {**trace.variables(), **env}


def parsed(parents: Sequence[bytes], states: Sequence[bytes] = ()) -> Trace | None:
    """Return what `traceparent` and `tracestate` say; None where the first is not valid.

    https://www.w3.org/TR/trace-context/: more than one parent is none, ids of zeros are none, a
    later version may have more behind what is known. A state that is not valid is left out.
    """
    if len(parents) != 1:
        return None
    found = re.fullmatch(_PARENT, parents[0].strip(b" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    known = int(flags, 16) & KNOWN_FLAGS
    return Trace(trace_id.decode(), span_id.decode(), known, _state(states))


def _state(sent: Sequence[bytes]) -> str:
    members = [part.strip(b" \t") for field in sent for part in field.split(b",")]
    members = [member for member in members if member]
    found = [re.fullmatch(_MEMBER, member) for member in members]
    keys = {match[1] for match in found if match is not None}
    if len(keys) < len(members) or len(members) > STATE_MEMBERS:  # not valid, or twice the same
        return ""
    if len(b",".join(members)) > STATE_BYTES:
        members = [member for member in members if len(member) <= LONG_MEMBER]
    while len(b",".join(members)) > STATE_BYTES:
        members.pop()
    return b",".join(members).decode()


class Tracing:
    """Makes places for spans of our own; `sampler` is one of `SAMPLERS`, empty: tracing is off."""

    def __init__(self, sampler: str = "", ratio: float = 1.0) -> None:
        self.is_on = bool(sampler)
        self._asks_above, self._rule = SAMPLERS.get(sampler, (False, "always_off"))
        self._bound = round(ratio * (1 << 64))

    def begin(self, above: Trace | None) -> Trace | None:
        """Return the place of a span below another, or of the first of a new trace."""
        if not self.is_on:
            return above
        # Of the kernel, not of a generator of ours: clones of a machine's snapshot share that.
        chance = os.urandom(24).hex()
        trace_id = chance[16:] if above is None else above.trace_id
        flags = 0 if above is None else above.flags & ~SAMPLED
        return Trace(
            trace_id,
            chance[:16],
            flags | self._samples(above, trace_id),
            "" if above is None else above.state,
            "" if above is None else above.span_id,
            own=True,
            remote=above is not None and not above.own,
        )

    def _samples(self, above: Trace | None, trace_id: str) -> int:
        if above is not None and self._asks_above:
            return above.flags & SAMPLED
        if self._rule == "traceidratio":
            return int(int(trace_id[16:], 16) < self._bound)
        return int(self._rule == "always_on")
