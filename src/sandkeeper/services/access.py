"""Access and audit lines: their texts, and the redaction of secrets in queries."""

import re
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus, unquote_plus

from sandkeeper.services.logs import Log

__all__ = ["Access", "Caller", "redact_command", "redact_query"]

_WORDS = (
    "api_key apikey api-key token access_token refresh_token auth_token bearer password passwd "
    "pwd secret client_secret api_secret key private_key encryption_key authorization auth "
    "credential credentials session session_id sessionid jwt"
)
SECRETS = frozenset(_WORDS.split())
# Names the plain list misses but that end in one of these words carry secrets as well
# (bl_preview_token, x-amz-signature).
SECRET_SUFFIXES = ("token", "secret", "password", "signature", "credential", "api_key", "apikey")
_LOOSE = re.compile(r"([^&=;?]+)=([^&;]*)")
COMMAND_CHARACTERS = 16 << 10
_HIDDEN = "[REDACTED]"
_VALUE = r"""("[^"]*"|'[^']*'|[^\s"'&;|]+)"""
_ASSIGNED = re.compile(rf"(?<![\w.-])(-{{0,2}}[A-Za-z_][\w.-]*)=(?!=){_VALUE}")
_OPTION = re.compile(rf"(?<!\S)(--[A-Za-z][\w-]*)(\s+)(?!-){_VALUE}")
_SCHEME = re.compile(r"\b(bearer|basic)(\s+)([\w.~+/=-]{4,})", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)([^\s:/@\"']+):([^\s/@\"']+)@")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _is_secret(name: str) -> bool:
    lowered = name.strip().lower()
    if lowered in SECRETS:
        return True
    return any(re.search(rf"(^|[-_.]){end}$", lowered) for end in SECRET_SUFFIXES)


def redact_query(query: str) -> str:
    """Return `query` with the values of secret names replaced; untouched when it has none.

    A query with secrets is written again with sorted keys; one that cannot be parsed is mended by
    pattern, with a literal `[REDACTED]`.
    """
    if not query:
        return query
    if _BAD_ESCAPE.search(query) or ";" in query:
        return _LOOSE.sub(
            lambda m: f"{m[1]}=[REDACTED]" if _is_secret(unquote_plus(m[1])) else m[0],
            query,
        )
    pairs = parse_qsl(query, keep_blank_values=True)
    if not any(_is_secret(name) for name, _ in pairs):
        return query
    merged: dict[str, list[str]] = {}
    for name, value in pairs:
        if _is_secret(name):
            merged[name] = ["[REDACTED]"]
        else:
            merged.setdefault(name, []).append(value)
    return "&".join(
        f"{quote_plus(name)}={quote_plus(value)}"
        for name in sorted(merged)
        for value in merged[name]
    )


def redact_command(command: str) -> str:
    """Return a command without the secrets that show themselves as such.

    Those are values behind secret names (`API_KEY=…`, `--password …`, `?token=…`), credentials of
    an Authorization header and passwords in URLs. What a program takes by position stays. Of a very
    long command only the beginning is returned.
    """
    if len(command) > COMMAND_CHARACTERS:
        command = f"{command[:COMMAND_CHARACTERS]}… ({len(command)} characters)"
    command = _ASSIGNED.sub(
        lambda m: f"{m[1]}={_HIDDEN}" if _is_secret(m[1].lstrip("-")) else m[0], command
    )
    command = _OPTION.sub(
        lambda m: f"{m[1]}{m[2]}{_HIDDEN}" if _is_secret(m[1].lstrip("-")) else m[0], command
    )
    command = _SCHEME.sub(rf"\1\2{_HIDDEN}", command)
    return _USERINFO.sub(rf"\1:{_HIDDEN}@", command)


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
