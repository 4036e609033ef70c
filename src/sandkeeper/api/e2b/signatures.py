"""E2B's signatures of one file: a SHA-256 over path, operation, user, token and expiry.

The scheme is E2B's own. Who has such an address may read, or write, that path, until the expiry
that is part of it; without one, until the token changes.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

from sandkeeper.api.edge.rights import Right, Standing
from sandkeeper.numerals import natural
from sandkeeper.settings import RightsSettings

__all__ = [
    "READ",
    "WRITE",
    "BadSignature",
    "operation_of",
    "signature",
    "standing_by_signature",
]

READ, WRITE = "read", "write"


class BadSignature(Exception):
    """A signature opens nothing; the text says why."""


def operation_of(method: str) -> str:
    """Return what a request with a method does with its file."""
    return READ if method == "GET" else WRITE


def signature(path: str, operation: str, user: str, token: str, expiry: str) -> str:
    """Return the signature of an operation; `expiry` is in Unix seconds, empty for none."""
    words = [path, operation, user, token, *([expiry] if expiry else [])]
    digest = hashlib.sha256(":".join(words).encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode()


def standing_by_signature(
    settings: RightsSettings, query: Mapping[str, str], operation: str
) -> Standing | None:
    """Return the right of the token that a request was signed with; None without a signature.

    Raises BadSignature for one that is forged, expired, or for something else.
    """
    given = query.get("signature")
    if given is None:
        return None
    expiry = query.get("signature_expiration", "")
    until = natural(expiry) if expiry else None
    if expiry and until is None:
        raise BadSignature("signature_expiration is no time")
    about = (query.get("path", ""), operation, query.get("username", ""))
    for token in settings.tokens:
        if hmac.compare_digest(
            signature(*about, token, expiry).encode(), given.encode("utf-8", "replace")
        ):
            if until is not None and until < time.time():
                raise BadSignature("signature is already expired")
            highest = token == settings.admin_token or not settings.admin_token
            return Standing(Right.OPERATOR if highest else Right.USER, settings)
    raise BadSignature("invalid signature")
