"""Our own settings as options of the command: SANDKEEPER_STATE_DIR is --state-dir, and so all.

An option is the variable, set for this start: what it may hold, what a wrong value is answered
with, and what an upgrade hands on are the same.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence

from sandkeeper.numerals import PORTS, natural
from sandkeeper.settings.catalogue import BESIDE, CATALOGUE, OPERATORS_FILES
from sandkeeper.settings.variables import Kind

__all__ = ["add_options", "help_of_variables", "is_option", "options_given", "port_option"]

OURS = "SANDKEEPER_"
MIB, KIB = 1 << 20, 1 << 10
WIDTH = 36


Catalogue = Mapping[str, Mapping[str, str]]


def _ours(catalogue: Catalogue = CATALOGUE) -> Iterator[str]:
    for settings in catalogue.values():
        for name in settings:
            if name.startswith(OURS) and name not in BESIDE | OPERATORS_FILES:
                yield name


def _option(name: str) -> str:
    return "--" + name.removeprefix(OURS).lower().replace("_", "-")


def port_option(text: str) -> int:
    """Read a port to listen on; raises ArgumentTypeError."""
    port = natural(text)
    if port is None or (port and port not in PORTS):
        raise argparse.ArgumentTypeError(f"{text} is no port (0 to 65535; 0 is any that is free)")
    return port


def is_option(word: str) -> bool:
    """Say whether an argument is one of these options, with one dash or two."""
    return "-" + word.partition("=")[0].lstrip("-") in {_option(name)[1:] for name in _ours()}


def add_options(
    parser: argparse.ArgumentParser,
    kinds: Mapping[str, Kind],
    catalogue: Catalogue = CATALOGUE,
) -> None:
    """Add them all; `kinds` tells how the settings' readers read each variable."""
    for title, settings in catalogue.items():
        group = parser.add_argument_group(title)
        for name in [one for one in _ours(catalogue) if one in settings]:
            kind = kinds.get(name, Kind("text"))
            names = (_option(name), _option(name)[1:])
            told = (settings[name] + _default(name, kind)).replace("%", "%%")
            if kind.word == "flag":
                group.add_argument(*names, dest=name, action="store_const", const="true", help=told)
            else:
                group.add_argument(*names, dest=name, metavar=_metavar(kind), help=told)


def options_given(options: argparse.Namespace, catalogue: Catalogue = CATALOGUE) -> dict[str, str]:
    """Return what the options say, by variable."""
    found = {name: getattr(options, name, None) for name in _ours(catalogue)}
    return {name: value for name, value in found.items() if value is not None}


def _metavar(kind: Kind) -> str:
    if kind.allowed:
        return "|".join(kind.allowed)
    return {"number": "N", "seconds": "SECONDS", "folder": "FOLDER"}.get(kind.word, "TEXT")


def _default(name: str, kind: Kind) -> str:
    """Write what holds without it, where the reader knows that."""
    value = kind.default
    if kind.word not in {"number", "seconds"} or value is None:
        return ""
    if "BYTES" in name and value >= MIB and value % MIB == 0:
        return f" (default {value // MIB} MiB)"
    if "BYTES" in name and value >= KIB and value % KIB == 0:
        return f" (default {value // KIB} KiB)"
    return f" (default {value:g})" if value or name.endswith("RETRIES") else ""


def help_of_variables(kinds: Mapping[str, Kind], catalogue: Catalogue = CATALOGUE) -> Sequence[str]:
    """Return lines about the variables that are no options."""
    lines = ["variables that are no options (those of options are named SANDKEEPER_…):"]
    for settings in catalogue.values():
        for name, told in settings.items():
            if name in OPERATORS_FILES or not name.startswith(OURS):
                default = _default(name, kinds.get(name, Kind("text")))
                lines.append(f"  {name:<{WIDTH}}{told}{default}")
    return lines
