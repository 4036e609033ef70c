"""Wire structs of the tunnel."""

import msgspec

__all__ = ["TunnelConfigRequest"]


class TunnelConfigRequest(msgspec.Struct):
    """The configuration: base64 of JSON."""

    config: str = ""
