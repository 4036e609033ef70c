"""`python -m benchmarks [name …]`: run all benchmarks, or the named ones, and print their tables.

`--against URL` instead compares this server with another of the contract (`benchmarks.against`).

A benchmark is a module of this package with a `TITLE` and a `run() -> list[Row]`; what it takes
from the machine it measures in the same run, so that its figures compare as ratios.
"""

import importlib
import os
import pkgutil
import platform
import sys

import benchmarks
from benchmarks.against import compare
from benchmarks.tables import print_table


def main() -> None:
    """Run the chosen benchmarks one after the other."""
    names = [item.name for item in pkgutil.iter_modules(benchmarks.__path__)]
    names = [name for name in names if name not in {"__main__", "tables", "load"}]
    chosen = sys.argv[1:] or names
    if chosen[0] == "--against":
        if len(chosen) != 2:
            raise SystemExit("--against takes the address of another server")
        print(_machine())
        compare(chosen[1])
        return
    print(_machine())
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "run"):
            print_table(module.TITLE, module.run())


def _machine() -> str:
    return f"{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"


main()
