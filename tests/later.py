"""Modules that are imported when a test uses something of them.

Each worker imports every file of tests, to find what there is, and runs a part of it: the published
clients and what checks descriptions would cost each of them two seconds of CPU.
"""

import importlib
from typing import Any

__all__ = ["Later"]


class Later:
    """Stands for a module, by its full name: what is asked of it is asked of the module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks everything it finds in a file for some
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
