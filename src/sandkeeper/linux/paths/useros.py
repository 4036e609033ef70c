"""`os` for modules whose functions run for the workload's user: `import useros as os`.

All of `os`, but what takes a path goes by `linux.paths.lookup`; for a thread that acts for nobody
the two are the same. A module that gets its `os` from here cannot forget it for one call; a test
lists the modules that must.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import *  # noqa: F403
    from os import DirEntry, fsdecode, fsencode, path, stat_result  # noqa: F401

    COMPOUND: frozenset[str]
else:
    import os

    from sandkeeper.linux.paths import lookup

    class _Path:
        """`os.path`, but what looks at a file goes by `linux.paths.lookup`."""

        def __getattr__(self, name: str) -> Any:
            known = name in {"exists", "isdir", "isfile", "islink", "lexists", "realpath"}
            found = getattr(lookup if known else os.path, name)
            setattr(self, name, found)
            return found

    path = _Path()

    COMPOUND = frozenset(
        {"fwalk", "makedirs", "remove", "removedirs", "renames", "truncate", "walk"}
    )
    """Of `os`, but made of calls that take a bare path: not for users."""

    def __getattr__(name: str) -> Any:
        if name in COMPOUND:
            raise AttributeError(f"os.{name} does not go by `core.lookup`")
        found = getattr(lookup if name in lookup.__all__ else os, name)
        globals()[name] = found
        return found
