"""Access and audit lines: their texts, without secrets."""

import math
import uuid
from functools import partial
from typing import Any, NamedTuple

import msgspec

from sandkeeper.log.lines import Line, Log
from sandkeeper.log.redaction import COMMAND_CHARACTERS, redact_command, redact_query
from sandkeeper.tracecontext import Trace

__all__ = ["Access", "Caller", "Request", "shown_query"]


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the gateway's headers say; nothing here is proven."""

    subject_id: str = ""
    subject_type: str = ""
    auth_method: str = ""
    request_id: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))


LOGGED_QUERY = 2048
"""So much of a query is looked through for secrets and logged."""


class Request(NamedTuple):
    """A request that is over: `seconds` it took, `client` the address that it came from.

    `trace` is its place in a trace, where it has one.
    """

    method: str
    path: str
    query: str
    status: int
    size: int
    seconds: float
    client: str
    rid: str
    trace: Trace | None = None


def shown_query(query: str) -> str:
    """Return a query without its secrets."""
    return redact_query(query[:LOGGED_QUERY]) if query else ""


class Access:
    """Writes the access line of a request and the audit line of an action."""

    def __init__(self, log: Log, *, requests: bool) -> None:
        self._log = log
        self._requests = requests

    def request(self, request: Request) -> None:
        """Write `{METHOD} {path?query} {status} {bytes} {ms}ms`, and each of these as a field."""
        if self._requests:
            size = len(request.path) + len(request.query)
            self._log.defer(partial(self._line, request), size)

    def _line(self, request: Request) -> Line:
        method, path, query, status, size, seconds, client, rid, trace = request
        query = shown_query(query)
        target = f"{path}?{query}" if query else path
        fields = {
            "source": "access",
            "method": method,
            "path": path,
            "query": query,
            "status": status,
            "bytes": size,
            "duration": round(seconds, 6),
            "client": client,
            "rid": rid,
            **({} if trace is None else trace.fields()),
        }
        text = f"{method} {target} {status} {size} {math.ceil(seconds * 1000)}ms"
        return self._log.form.request_level(status), text, fields

    def audit(self, action: str, caller: Caller, **extras: Any) -> None:
        """Write the audit line of `action`; extras are named with underscores for dashes."""
        fields = {
            "sub-id": caller.subject_id,
            "sub-type": caller.subject_type,
            "auth-method": caller.auth_method,
            "rid": caller.request_id,
        }
        fields |= {key.replace("_", "-"): str(value) for key, value in sorted(extras.items())}
        hide = "command" in fields
        if hide and len(fields["command"]) > COMMAND_CHARACTERS:  # not to be kept as a whole
            fields["command"], hide = redact_command(fields["command"]), False
        size = sum(map(len, fields.values()))
        self._log.defer(partial(self._audit_line, action, fields, hide), size)

    def _audit_line(self, action: str, fields: dict[str, str], hide: bool) -> Line:
        if hide:
            fields["command"] = redact_command(fields["command"])
        message = self._log.form.audit(action, fields)
        return "info", message, {"source": "audit", "action": action, **fields}
