"""Tickets: what opens one port behind `/port`, for some hours, and nothing else.

A ticket is `port-expiry-mac`, the expiry in hexadecimal seconds of the Unix clock, the mac the
first 192 bits of an HMAC-SHA256. There are two kinds. One is a cookie, which a browser gets in
exchange for the token and which stands for it at that port. The other stands in the address of a
page (`/port/3000/~TICKET/…`), which knows it, and shows that a request comes from a page of that
very port.
"""

import base64
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from sandkeeper.linux.paths.statefiles import UntrustedFile, read_own, write_atomically

__all__ = ["COOKIE", "PAGE", "Tickets"]

COOKIE, PAGE = "cookie", "page"
SECONDS = {COOKIE: 12 * 3600, PAGE: 24 * 3600}
ROUNDED = 6 * 3600
"""Addresses of pages change this often, not with every look."""
KEY_BYTES = 32
_TICKET = re.compile(rb"([0-9]{1,5})-([0-9a-f]{1,12})-([\w-]{32})", re.ASCII)


class Tickets:
    """Writes and reads the tickets of one server.

    The key is kept in `path`, so that a page outlives a restart; other `tokens` void all tickets.
    """

    def __init__(self, path: Path, tokens: Sequence[str]) -> None:
        self._path = path
        self._tokens = tokens

    @cached_property
    def _key(self) -> bytes:
        return hmac.digest(
            self._kept_key(), "\0".join(["ticket of a port", *self._tokens]).encode(), "sha256"
        )

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

    def issue(self, kind: str, port: int) -> str:
        """Return a ticket for a port."""
        expiry = int(time.time()) + SECONDS[kind]
        if kind == PAGE:
            expiry -= expiry % -ROUNDED
        return f"{port}-{expiry:x}-{self._mac(kind, port, expiry)}"

    def opens(self, kind: str, port: int, ticket: bytes) -> bool:
        """Say whether a ticket opens a port now."""
        found = _TICKET.fullmatch(ticket)
        if found is None or int(found[1]) != port or int(found[2], 16) <= time.time():
            return False
        return self.made_here(kind, ticket)

    def made_here(self, kind: str, ticket: bytes) -> bool:
        """Say whether a ticket is one of ours, for whatever port and however old."""
        found = _TICKET.fullmatch(ticket)
        if found is None:
            return False
        mac = self._mac(kind, int(found[1]), int(found[2], 16))
        return hmac.compare_digest(found[3], mac.encode())

    def _mac(self, kind: str, port: int, expiry: int) -> str:
        text = f"{kind} {port} {expiry}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256")[:24]).decode()
