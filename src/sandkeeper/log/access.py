"""Access and audit lines: their texts, without secrets."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from sandkeeper.log.lines import Log
from sandkeeper.log.redaction import redact_command, redact_query

__all__ = ["Access", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the gateway's headers say; nothing here is proven."""

    subject_id: str = ""
    subject_type: str = ""
    auth_method: str = ""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def _quoted(value: str) -> str:
    value = value.replace("\r", "\\r").replace("\n", "\\n")
    if " " not in value:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


LOGGED_QUERY = 2048
"""So much of a query is looked through for secrets and logged."""


class Access:
    """Writes the access line of a request and the audit line of an action."""

    def __init__(self, log: Log, *, requests: bool) -> None:
        self._log = log
        self._requests = requests

    def request(self, method: str, path: str, query: str, status: int, size: int, ms: int) -> None:
        """Write `{METHOD} {path?query} {status} {bytes} {ms}ms`, level error from 400 on."""
        if not self._requests:
            return
        target = f"{path}?{redact_query(query[:LOGGED_QUERY])}" if query else path
        level = "error" if status >= 400 else "info"
        self._log.write(level, f"{method} {target} {status} {size} {ms}ms", source="access")

    def audit(self, action: str, caller: Caller, **extras: Any) -> None:
        """Write the audit line of `action`; extras are named with underscores for dashes."""
        if "command" in extras:
            extras["command"] = redact_command(extras["command"])
        named = {key.replace("_", "-"): str(value) for key, value in sorted(extras.items())}
        parts = [f"type={action}"]
        identity = {
            "sub-id": caller.subject_id,
            "sub-type": caller.subject_type,
            "auth-method": caller.auth_method,
            "rid": caller.request_id,
        }
        parts += [f"{key}={_quoted(value)}" for key, value in identity.items() if value]
        parts += [f"{key}={_quoted(value)}" for key, value in named.items()]
        fields = {"source": "audit", "action": action, **identity, **named}
        self._log.write("info", " ".join(parts), **fields)
