"""Walking below a directory without recursion: pre-order, links not followed, errors passed on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandkeeper.files.paths import TEMPORARY_PREFIX, is_temporary
from sandkeeper.linux.paths import useros as os

__all__ = ["Found", "walk"]


@dataclass(frozen=True, slots=True)
class Found:
    """One entry: `relative` to where the walk began, `is_directory` of itself, not a link's."""

    path: str
    relative: str
    is_directory: bool

    @property
    def name(self) -> str:
        """The last component."""
        return self.relative.rpartition("/")[2]


def walk(
    root: str,
    *,
    check: Callable[[], None] = lambda: None,
    enter: Callable[[Found], bool] = lambda _found: True,
    on_error: Callable[[OSError], None] | None = None,
) -> Iterator[Found]:
    """Yield everything below `root` in byte order, parents first; our temporaries are left out.

    `enter` says whether a directory is yielded and entered. A directory below the root that went
    away or cannot be read is passed over, after `on_error` (which may raise). The root's own error
    is raised. `check` is called for each directory and may raise to stop.
    """
    pending = [Found(root, "", True)]
    while pending:
        here = pending.pop()
        if here.relative:
            yield here
        if not here.is_directory:
            continue
        check()
        try:
            below = _entries(here)
        except OSError as error:
            if not here.relative:
                raise
            if on_error is not None and not isinstance(error, FileNotFoundError):
                on_error(error)
            continue
        pending += [item for item in reversed(below) if not item.is_directory or enter(item)]


def _entries(here: Found) -> list[Found]:
    under = here.relative + "/" if here.relative else ""
    with os.scandir(here.path) as entries:
        found = [
            Found(entry.path, under + entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not (entry.name.startswith(TEMPORARY_PREFIX) and is_temporary(entry.name))
        ]
    found.sort(key=lambda item: os.fsencode(item.name))
    return found
