"""Modules that are loaded when something of them is asked for.

The standard library and others name modules at their top that a server never uses, or hardly ever:
`logging.config`, and with it `pickle`; `http.client`, and with it the parsers of `email`. Each is
time that every start waits, and memory.

importlib.util.LazyLoader does not serve: its modules load when they are named by a second `import`,
for that looks at their `__spec__`, and here several libraries name the same.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec
from typing import Any

__all__ = ["UNUSED", "defer", "defer_unused"]

UNUSED = (
    *("bz2", "lzma"),  # shutil
    "calendar",  # email, for a time zone's name
    "json",  # starlette and uvicorn, where msgspec does it here
    "locale",  # subprocess, for texts, and calendar
    "ntpath",  # pathlib
    "platform",  # uuid, for the system's name, and uvicorn
    "textwrap",  # traceback and msgspec
    "tokenize",  # linecache and inspect, for sources
)
"""What neither a server nor a client needs at its start; who imports it."""

Makes = Callable[[], Any]


def defer_unused(*others: str) -> None:
    """Defer all of these, and others; before whatever imports them is imported."""
    for name in (*UNUSED, *others):
        if name == "platform":
            defer(name, system=lambda: _system)
        else:
            defer(name)


def _system() -> str:
    return os.uname().sysname


def defer(name: str, **early: Makes) -> None:
    """Have `import NAME` give a module that loads itself when a name of its is asked for.

    `early` makes names that can be had without that. A module that is loaded already, or cannot be
    found, is left as it is; a package that it is in is loaded.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    made = module_from_spec(spec)
    made.__dict__["__getattr__"] = _Loading(made, spec.loader, early)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, made)


class _Loading:
    """What a module is asked for names that it does not have (PEP 562), until it was loaded."""

    def __init__(self, module: Any, loader: Any, early: Mapping[str, Makes]) -> None:
        self._module = module
        self._loader = loader
        self._early = early
        self._lock = threading.RLock()  # who asks meanwhile waits; the module may ask itself
        self._begun = False

    def __call__(self, name: str) -> Any:
        if name in self._early:
            return self._early[name]()
        names = self._module.__dict__
        if not name.startswith("__"):  # what every module is asked for loads none
            with self._lock:
                if not self._begun:
                    self._load(names)
                if name in names:
                    return names[name]
        raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")

    def _load(self, names: dict[str, Any]) -> None:
        self._begun = True
        try:
            self._loader.exec_module(self._module)
        except BaseException:
            self._begun = False
            raise
        if names.get("__getattr__") is self:
            del names["__getattr__"]
