"""Programs that act with the server's rights: none is one that the workload's user chose."""

import os
import pwd
import re
import sys
from collections.abc import Mapping
from contextlib import suppress

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.trusted import is_kept_from, open_trusted
from sandkeeper.patterns import pattern

__all__ = ["environment_for_root", "own_code_at_risk", "own_program", "refuse_program"]

_COLON = pattern(":")
_SEPARATORS = {"LD_PRELOAD": re.compile("[: ]")}  # ld.so(8)


def environment_for_root(env: Mapping[str, str], workload: Identity | None) -> dict[str, str]:
    """Return variables for a program of the server's that act for root: none leads to the workload.

    Whatever names an absolute path, or a list of them, loses those that the workload's user rules:
    a program on the PATH, a library, a configuration (rclone(1) runs commands that its own names)
    would run with the server's rights. Blocks; raises nothing.
    """
    if workload is None or workload.is_ours:
        return dict(env)
    kept: dict[str, str] = {}
    for name, value in env.items():
        entries = [one for one in _SEPARATORS.get(name, _COLON).split(value) if one]
        if name != "PATH" and not (entries and all(one.startswith("/") for one in entries)):
            kept[name] = value
        elif left := [one for one in entries if is_kept_from(one, workload)]:
            kept[name] = value if left == entries else ":".join(left)
    kept.setdefault("PATH", os.defpath)
    kept.setdefault("HOME", _home())
    return kept


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def own_program(name: str) -> str:
    """Return the program of that name that lies beside our interpreter; empty without one.

    Wheels put theirs there, and a bundle what came with it. A version that an upgrade installed
    as a virtual environment has the interpreter of the version before it, and that one's programs.
    """
    for python in dict.fromkeys((sys.executable, sys._base_executable)):  # type: ignore[attr-defined]
        found = os.path.join(os.path.dirname(python), name)
        if os.access(found, os.X_OK):
            return found
    return ""


def refuse_program(path: str, workload: Identity | None) -> None:
    """Raise UntrustedFile if the workload can choose what runs there, OSError if nothing does."""
    if workload is not None and not workload.is_ours:
        os.close(open_trusted(path, workload=workload, only=True))


def own_code_at_risk(workload: Identity | None) -> list[str]:
    """Stop importing from the working directory; return the places of our code that are at risk.

    `python -m` puts the folder in which it is started first on the path, and what is imported late,
    at the first request that needs it, would be looked for there first. The other places are where
    this program was installed: that cannot be mended here, only said.
    """
    if workload is None or workload.is_ours:
        return []
    with suppress(OSError):
        here = {"", os.getcwd()}
        sys.path[:] = [place for place in sys.path if place not in here]
    places = dict.fromkeys(os.path.abspath(place) for place in (sys.executable, *sys.path) if place)
    there = [place for place in places if os.path.exists(place)]
    return [place for place in there if not is_kept_from(place, workload)]
