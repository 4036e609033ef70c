"""Addresses, as far as everybody needs to know them."""

from ipaddress import ip_address

__all__ = ["is_loopback"]


def is_loopback(address: str) -> bool:
    """Say whether only this machine reaches `address`; brackets are ignored, `%lo` is loopback."""
    bare, _, zone = address.strip("[]").partition("%")
    try:
        parsed = ip_address(bare)
    except ValueError:
        return zone == "lo" or bare == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return zone == "lo" or bool((mapped or parsed).is_loopback)
