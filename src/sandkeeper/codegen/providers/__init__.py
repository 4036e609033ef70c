"""Who computes edits and rankings: a registry in order of preference.

A further provider is one small module with a class like `relace.Relace` and its name here.
"""

from sandkeeper.codegen.providers.base import Host, Provider
from sandkeeper.codegen.providers.local import Local
from sandkeeper.codegen.providers.morph import Morph
from sandkeeper.codegen.providers.relace import Relace

__all__ = ["PROVIDERS", "Host", "Provider", "choose"]

PROVIDERS: tuple[type[Provider], ...] = (Relace, Morph, Local)


def choose(host: Host) -> Provider | None:
    """Return the first provider that the environment, as it is now, has set up."""
    for kind in PROVIDERS:
        made = kind.configured(host)
        if made is not None:
            return made
    return None
