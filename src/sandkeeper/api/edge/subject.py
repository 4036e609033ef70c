"""Who asks: the gateways before us and the identity headers they send, for audit lines only."""

import ipaddress
import random
import uuid
from collections.abc import Sequence

from starlette.requests import HTTPConnection
from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.log.access import Caller
from sandkeeper.patterns import pattern

__all__ = ["Gateways", "caller", "names_user", "request_id"]

REQUEST_ID = "sandkeeper.request_id"
REQUEST_ID_CHARACTERS = 128
IDENTITY = frozenset(
    {
        *(b"x-blaxel-subject-id", b"x-blaxel-subject-type", b"x-blaxel-auth-method"),
        *(b"x-subject-id", b"x-subject-type"),
    }
)
_MIDDLE = str(uuid.uuid4())[8:24]
"""What is between the first and the last group of the ids that are made up here."""

_USER = pattern(rb"(?:\A|&)(?:u|%75)(?:s|%73)(?:e|%65)(?:r|%72)(?:[=&]|\Z)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def names_user(scope: Scope) -> bool:
    """Say whether a request may name who it acts as, however the name is spelled."""
    query: bytes = scope["query_string"]
    return bool(query) and _USER.search(query) is not None


class Gateways:
    """The addresses whose identity headers are believed; without any, everyone's are.

    What tells where a request came from (`X-Forwarded-*`) is believed of these addresses only.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    def vouch(self, scope: Scope) -> bool:
        """Say whether a request came by one of the gateways that are named."""
        return bool(self._networks) and self._trusts((scope.get("client") or ("",))[0])

    def strip(self, scope: Scope) -> None:
        """Take what nobody vouches for out of a request: identity and forwarding."""
        if not self._networks or self.vouch(scope):
            return
        scope["headers"] = [field for field in scope["headers"] if not _needs_trust(field[0])]

    def _trusts(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


def _needs_trust(name: bytes) -> bool:
    return name in IDENTITY or name.startswith(b"x-forwarded-")


def request_id(scope: Scope) -> str:
    """Return the id of a request: the client's, or one that is made up and kept."""
    known: str | None = scope.get(REQUEST_ID)
    if known is None:
        sent = first_fields(scope).get(b"x-request-id", b"")
        known = sent[:REQUEST_ID_CHARACTERS].decode("latin-1") or _made_up()
        scope[REQUEST_ID] = known
    return known


def _made_up() -> str:
    """Return a UUID (RFC 9562, version 4), in haste: it is no secret, and 80 bits tell it apart."""
    return f"{random.getrandbits(32):08x}{_MIDDLE}{random.getrandbits(48):012x}"


def caller(request: HTTPConnection) -> Caller:
    """Read the identity headers and the request's id."""
    said: dict[bytes, str] = {}
    for name, value in request.scope["headers"]:
        if name in IDENTITY:
            said.setdefault(name, value.decode("latin-1"))
    return Caller(
        subject_id=said.get(b"x-blaxel-subject-id") or said.get(b"x-subject-id", ""),
        subject_type=said.get(b"x-blaxel-subject-type") or said.get(b"x-subject-type", ""),
        auth_method=said.get(b"x-blaxel-auth-method", ""),
        request_id=request_id(request.scope),
    )
