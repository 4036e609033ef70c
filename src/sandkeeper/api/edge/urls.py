"""Paths of requests, raw and decoded.

uvicorn decodes `scope["path"]` with replacement characters, so names that are not UTF-8 would be
lost; these functions read `scope["raw_path"]`.
"""

import os
from collections.abc import Callable, Mapping
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.numerals import natural
from sandkeeper.patterns import pattern
from sandkeeper.settings.port_names import CODE_PORTS, E2B_PORT

__all__ = [
    "INSTEAD",
    "PORT_NAME",
    "Leads",
    "asked_port",
    "called_by_target",
    "decoded_path",
    "is_for_port",
    "is_for_tcp",
    "lead_to_runtime",
    "leads_nowhere",
    "names_other_port",
    "raw_path",
    "raw_rest",
    "readdress",
    "segment",
    "with_prefix",
]

PORT_NAME = "sandkeeper.port_name"
"""In the scope: the name of a port (`settings.port_names`) by which the request came, if it did."""

INSTEAD = "sandkeeper.instead"
"""In the scope: the port for which this server answers, since nobody else listens there."""

LED = "sandkeeper.led"
LEADING = frozenset({b"e2b-sandbox-id", b"e2b-sandbox-port"})
_ABSOLUTE = pattern(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_PREFIX = pattern(r"[A-Za-z0-9/_.-]+")
_TCP = pattern(r"/network/ports/[^/]+/tcp")


def called_by_target(url: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return fields in which the host of an absolute target is Host (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.match(url)
    if found is None:
        return headers
    return [(b"host", found[1]), *(field for field in headers if field[0] != b"host")]


def is_for_port(scope: Mapping[str, object]) -> bool:
    """Say whether a request is for a server of the sandbox, by its host name or by its path."""
    return PORT_NAME in scope or str(scope["path"]).startswith(("/port/", "/port-keep/"))


def is_for_tcp(path: str) -> bool:
    """Say whether a path is that of bare connections to ports (`api.port.tcp`)."""
    return _TCP.fullmatch(path) is not None


def readdress(scope: Scope) -> bool:
    """Lead a request where the fields of E2B's clients say it belongs; False: it stays.

    `E2b-Sandbox-Port` names a port of the sandbox, `E2b-Sandbox-Id` whose health is asked for, and
    who wants JSON of `/metrics` means E2B's.
    """
    if LED in scope:
        return True
    path: str = scope["path"]
    if path != "/metrics" and LEADING.isdisjoint(first_fields(scope)):
        return False
    told = dict(scope["headers"])
    if port := _other_port(told, _own_port(scope)):
        prefix = f"/port/{port}"
    elif _is_for_e2b(path, told):
        prefix = "/e2b"
    else:
        return False
    scope["path"], scope["raw_path"] = prefix + path, prefix.encode() + scope["raw_path"]
    scope[LED] = True
    return True


def _other_port(told: Mapping[bytes, bytes], own: int) -> int:
    """Return the port that a request of E2B's clients names; 0 where that is this server."""
    port = natural(told.get(b"e2b-sandbox-port", b""), 65535)
    return 0 if port is None or port in {E2B_PORT, own} else port


Leads = Callable[[list[tuple[bytes, bytes]], int], bool]
"""Of fields and the port that they came in at: whether they lead to another server."""


def names_other_port(fields: list[tuple[bytes, bytes]], own: int) -> bool:
    """Say whether a request is for a port of the sandbox by the field of E2B's clients."""
    return bool(_other_port(dict(fields), own))


def leads_nowhere(_fields: list[tuple[bytes, bytes]], _own: int) -> bool:
    """Say no."""
    return False


def _own_port(scope: Scope) -> int:
    return int((scope.get("server") or ("", 0))[1] or 0)


def asked_port(scope: Scope) -> int:
    """Return the port of a code interpreter (`CODE_PORTS`) that a request came for; 0: none."""
    port = int(scope.get(INSTEAD, 0)) or _own_port(scope)
    return port if port in CODE_PORTS else 0


def _is_for_e2b(path: str, told: Mapping[bytes, bytes]) -> bool:
    if path == "/health":
        return b"e2b-sandbox-id" in told
    accept = told.get(b"accept", b"")
    return path == "/metrics" and b"application/json" in accept and b"text/plain" not in accept


RUNTIME = frozenset({"", "execute", "upload", "download", "list", "exists"})
"""How the paths of agent-sandbox's python-runtime begin."""


def lead_to_runtime(scope: Scope, port: int) -> bool:
    """Lead a request that came in at the port of the python-runtime there, if it is for it.

    False: it stays, for the whole API is answered at that port, too.
    """
    server = scope.get("server") or ("", 0)
    path: str = scope["path"]
    if server[1] != port or path.lstrip("/").partition("/")[0] not in RUNTIME:
        return False
    prefix = "/python-runtime"
    scope["path"], scope["raw_path"] = prefix + path, prefix.encode() + scope["raw_path"]
    return True


def raw_path(scope: Scope) -> bytes:
    """Return the path as it stood on the request line, without the query."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


def decoded_path(scope: Scope) -> str:
    """Return the path percent-decoded once; undecodable bytes become surrogate escapes."""
    return os.fsdecode(unquote_to_bytes(raw_path(scope)))


def segment(scope: Scope, index: int) -> str:
    """Return one decoded segment of the raw path (`/process/x` has x at 1), or an empty string.

    Splitting before decoding lets a name carry an encoded slash.
    """
    parts = raw_path(scope).lstrip(b"/").split(b"/")
    if index >= len(parts):
        return ""
    part = parts[index]
    return (unquote_to_bytes(part) if b"%" in part else part).decode("utf-8", "replace")


def raw_rest(scope: Scope, prefix: str) -> bytes:
    """Return what follows `prefix` in the raw path: percent-encoded, with its leading slash.

    The prefix itself may be written with escapes, and slashes before it may be doubled.
    """
    raw = b"/" + raw_path(scope).lstrip(b"/")
    plain = prefix.encode()
    if raw.startswith(plain):
        return raw[len(plain) :]
    position = 0
    for _ in plain:
        position += 3 if raw[position : position + 1] == b"%" else 1
    return raw[position:]


def with_prefix(scope: Scope, target: str) -> str:
    """Return the address of a path of ours as the client reaches it: behind its gateway's prefix.

    A prefix with anything but plain characters is left out; the result names no other host.
    """
    prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1").strip("/")
    if prefix and _PREFIX.fullmatch(prefix) and ".." not in prefix.split("/"):
        return f"/{prefix}{target}"
    return target
