"""Addresses, as far as everybody needs to know them."""

import re
from ipaddress import ip_address

from sandkeeper.patterns import pattern

__all__ = ["is_host", "is_loopback"]

_LABEL = pattern(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


def is_host(name: str) -> bool:
    """Say whether there can be a host of that name or address (RFC 1123, 2.1; RFC 5890, 2.3)."""
    bare = name.partition("%")[0]
    try:
        return bool(ip_address(bare))
    except ValueError:
        pass
    try:
        plain = name.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:
        return False
    labels = plain.split(".")
    numeric = labels[-1].isdigit()  # then it is meant as an address, and is none
    return len(plain) < 254 and not numeric and all(map(_LABEL.fullmatch, labels))


def is_loopback(address: str) -> bool:
    """Say whether only this machine reaches `address`; brackets are ignored, `%lo` is loopback."""
    bare, _, zone = address.strip("[]").partition("%")
    try:
        parsed = ip_address(bare)
    except ValueError:
        return zone == "lo" or bare == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return zone == "lo" or bool((mapped or parsed).is_loopback)
