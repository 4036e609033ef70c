"""Which paths of a folder git would not look at (gitignore(5)); pathspec knows the patterns.

The deepest file that has an opinion decides, and within a file the last pattern. What lies in a
folder that is ignored cannot be taken back in, so such folders are not even entered.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pathspec import GitIgnoreSpec

__all__ = ["Ignored"]

FILE = ".gitignore"
OWN = ".git"
EXCLUDE = ".git/info/exclude"


class Ignored:
    """What `.gitignore` files leave out of `root`: its own, those below, those of its repository.

    With `off` nothing is left out.
    """

    def __init__(self, root: Path, *, off: bool = False) -> None:
        self._root = root
        self._off = off
        self._specs: dict[str, GitIgnoreSpec] = {}
        self._above: list[tuple[str, GitIgnoreSpec]] = []
        self._hidden: dict[str, bool] = {}
        if not off:
            self._look_above()

    def _look_above(self) -> None:
        """Find the rules of the repository that the root is a part of."""
        place = self._root.resolve()
        if not any((one / OWN).exists() for one in (place, *place.parents)):
            return
        inner = ""
        while True:
            lines = _lines(place / FILE) if inner else []
            if (place / OWN).exists():
                lines = _lines(place / EXCLUDE) + lines
            if lines:
                self._above.append((inner, GitIgnoreSpec.from_lines(lines)))
            if (place / OWN).exists():
                return
            inner = f"{place.name}/{inner}"
            place = place.parent

    def enter(self, folder: str, names: Iterable[str]) -> None:
        """Take notice of a folder (empty: the root) with these names in it, before its entries."""
        if self._off or FILE not in names:
            return
        if lines := _lines(self._root / folder / FILE):
            self._specs[folder] = GitIgnoreSpec.from_lines(lines)

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Say whether an entry of a folder that is not ignored itself is."""
        if self._off:
            return False
        above, _, name = path.rpartition("/")
        if name == OWN:
            return True
        if not self._specs and not self._above:
            return False
        mark = "/" if folder else ""
        while True:
            spec = self._specs.get(above)
            if spec is not None:
                said = spec.check_file(path[len(above) :].lstrip("/") + mark).include
                if said is not None:
                    return said
            if not above:
                break
            above = above.rpartition("/")[0]
        for inner, spec in self._above:
            said = spec.check_file(f"{inner}{path}{mark}").include
            if said is not None:
                return said
        return False

    def hides(self, path: str, *, folder: bool) -> bool:
        """Say whether any path is ignored, by itself or with a folder that it lies in."""
        above = path.rpartition("/")[0]
        if above and self._hides_folder(above):
            return True
        return self(path, folder=folder)

    def _hides_folder(self, path: str) -> bool:
        if path not in self._hidden:
            self._hidden[path] = self.hides(path, folder=True)
        return self._hidden[path]


def _lines(file: Path) -> list[str]:
    """Return the patterns of a file; of one that cannot be read none, as git does."""
    try:
        return os.fsdecode(file.read_bytes()).splitlines()
    except OSError:
        return []
