"""Signed, expiring tickets: the one definition for ports, their pages, links and whatever else.

A ticket is `expiry-mac`: the expiry in hexadecimal seconds, the mac the first 192 bits of an
HMAC-SHA256 over purpose, facts and expiry. What it is for does not stand in it: whoever checks says
that again, so a ticket for one port, host, path or purpose never opens another.

    signer = Signer(state_dir / "ports.key", settings.rights.tokens, clock.now)
    ticket = signer.sign("file", "/srv/a b", "read", seconds=600)
    signer.opens("file", "/srv/a b", "read", ticket=offered)

The key lies in the state folder and is mixed with the tokens of the server: tickets outlive a
restart, not another token. Where single ones must be revoked or spent, one of the facts is the id
of a grant (`api.edge.tickets.grants`).
"""

import base64
import hmac
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from sandkeeper.linux.paths.statefiles import UntrustedFile, read_own, write_atomically
from sandkeeper.patterns import pattern

__all__ = ["SHAPE", "Signer"]

SHAPE = r"[0-9a-f]{1,12}-[A-Za-z0-9_-]{32}"
"""An expression that every ticket fits."""

KEY_BYTES = 32
MAC_BYTES = 24
LABEL = "ticket of a port"
"""Parts this use of the key from others; older versions wrote it, so their tickets stay good."""
_TICKET = pattern(rb"([0-9a-f]{1,12})-([A-Za-z0-9_-]{32})")


class Signer:
    """Writes and checks the tickets of one server; `now` is the clock by which they end."""

    def __init__(self, path: Path, tokens: Sequence[str], now: Callable[[], float]) -> None:
        self._path = path
        self._tokens = tokens
        self._now = now

    def sign(self, purpose: str, *facts: str, seconds: float, rounded: int = 0) -> str:
        """Return a ticket that ends in `seconds`, or at the next multiple of `rounded` after."""
        expiry = int(self._now() + seconds)
        if rounded:
            expiry -= expiry % -rounded
        return f"{expiry:x}-{self._mac(purpose, facts, expiry)}"

    def opens(self, purpose: str, *facts: str, ticket: bytes) -> bool:
        """Say whether a ticket is for this and has not ended."""
        found = _TICKET.fullmatch(ticket)
        if found is None or int(found[1], 16) <= self._now():
            return False
        return self.made(purpose, *facts, ticket=ticket)

    def made(self, purpose: str, *facts: str, ticket: bytes) -> bool:
        """Say whether a ticket for this is one of ours, however old."""
        found = _TICKET.fullmatch(ticket)
        if found is None:
            return False
        mac = self._mac(purpose, facts, int(found[1], 16))
        return hmac.compare_digest(found[2], mac.encode())

    def mark(self, purpose: str) -> str:
        """Return eight hexadecimal digits that tell this server from others of its host."""
        return hmac.digest(self._key, b"mark " + purpose.encode(), "sha256")[:4].hex()

    @cached_property
    def _key(self) -> bytes:
        return hmac.digest(self._kept_key(), "\0".join([LABEL, *self._tokens]).encode(), "sha256")

    def _kept_key(self) -> bytes:
        # A key that cannot be kept lives as long as this process: its tickets do as well.
        with suppress(OSError, UntrustedFile):
            kept = read_own(self._path)
            if kept is not None and len(kept) == KEY_BYTES:
                return kept
        made = secrets.token_bytes(KEY_BYTES)
        with suppress(OSError):
            write_atomically(self._path, made)
        return made

    def _mac(self, purpose: str, facts: Sequence[str], expiry: int) -> str:
        # A quoted fact has no space in it: no two lists of facts are signed as the same text.
        text = " ".join([purpose, *(quote(one, safe="") for one in facts), str(expiry)])
        raw = hmac.digest(self._key, text.encode(), "sha256")[:MAC_BYTES]
        return base64.urlsafe_b64encode(raw).decode()
