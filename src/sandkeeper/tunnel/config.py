"""A tunnel's configuration: base64 of JSON, checked completely before anything is touched."""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec

from sandkeeper.errors import Task, Unprocessable
from sandkeeper.numerals import PORTS, natural
from sandkeeper.patterns import pattern

__all__ = ["Network", "TunnelConfig", "parse_config"]

KEY_BYTES = 32
_NAME = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_HOST = pattern(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class TunnelConfig(msgspec.Struct, frozen=True):
    """One peer; keys are raw bytes and never shown. `keepalive` is in seconds, 0 for none."""

    local_ip: Interface
    peer_host: str
    peer_port: int
    peer_public_key: bytes
    private_key: bytes
    mtu: int
    listen_port: int
    interface_name: str
    allowed_ips: tuple[Network, ...]
    keepalive: int
    route_all: bool

    __repr__ = object.__repr__


def parse_config(text: str) -> TunnelConfig:
    """Read a configuration; raises Unprocessable, naming the field."""
    try:
        return _config(_object(text))
    except ValueError as error:
        raise Unprocessable(str(error), task=Task.ACCEPT_TUNNEL) from None


def _object(text: str) -> dict[str, Any]:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return {key.lower(): item for key, item in value.items() if item is not None}


def _config(fields: Mapping[str, Any]) -> TunnelConfig:
    host, port = _endpoint(_text(fields, "peer_endpoint"))
    route_all = fields.get("route_all", False)
    if not isinstance(route_all, bool):
        raise ValueError("route_all: must be true or false")
    name = fields.get("interface_name") or "wg0"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "lo":
        raise ValueError("interface_name: not a name for an interface")
    return TunnelConfig(
        local_ip=_interface(_text(fields, "local_ip")),
        peer_host=host,
        peer_port=port,
        peer_public_key=_key(fields, "peer_public_key"),
        private_key=_key(fields, "private_key"),
        mtu=_number(fields, "mtu", 68, 65535) or 1420,
        listen_port=_number(fields, "listen_port", 1, 65535) or 51820,
        interface_name=name,
        allowed_ips=_networks(fields.get("allowed_ips")),
        keepalive=_number(fields, "persistent_keepalive", 0, 65535, default=25),
        route_all=route_all,
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        raise ValueError(f"{name} is required")
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be text")
    return value.strip()


def _interface(text: str) -> Interface:
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"local_ip: {text!r} is not an address with a prefix length") from None


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        valid = _is_address(host)
    else:
        valid = _is_address(host) or bool(_HOST.fullmatch(host))
        valid = valid and ":" not in host
    if not colon or not valid:
        raise ValueError(f"peer_endpoint: {text!r} is not host:port or [v6]:port")
    if (number := natural(port) or 0) not in PORTS:
        raise ValueError(f"peer_endpoint: {port!r} is not a port")
    return host, number


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _key(fields: Mapping[str, Any], name: str) -> bytes:
    text = _text(fields, name)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{name}: not base64 of {KEY_BYTES} bytes")
    return key


def _number(fields: Mapping[str, Any], name: str, low: int, high: int, *, default: int = 0) -> int:
    """Read a whole number; 0 passes as what the contract takes for the default."""
    value = fields.get(name, default)
    if type(value) is not int or not (value == 0 or low <= value <= high):
        raise ValueError(f"{name}: must be between {low} and {high}")
    return value


def _networks(value: Any) -> tuple[Network, ...]:
    if value is None or value == []:
        return (ipaddress.IPv4Network("0.0.0.0/0"),)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("allowed_ips: must be a list of networks")
    found: list[Network] = []
    for item in value:
        try:
            if "/" not in item:
                raise ValueError
            found.append(ipaddress.ip_network(item.strip(), strict=False))
        except ValueError:
            raise ValueError(f"allowed_ips: {item!r} is not a network") from None
    return tuple(dict.fromkeys(found))
