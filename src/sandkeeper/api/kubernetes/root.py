"""The folder below which paths of these wires stand, and what leads out of it."""

import posixpath

from sandkeeper.errors import BadInput, Forbidden
from sandkeeper.files.changing.replace import make_directories
from sandkeeper.files.work import by_errno
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.below import is_within

__all__ = ["Root"]


class Root:
    """Resolves names; all methods but `name` block, and act for the workload where they are called.

    It keeps clients from mistakes. Whoever asks here may ask for every other path elsewhere.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def name(self, given: str) -> str:
        """Return the path of a name, links not looked at; raises Forbidden, BadInput."""
        if "\0" in given:
            raise BadInput("a path has a NUL byte")
        path = posixpath.normpath(posixpath.join(self.folder, given.lstrip("/")))
        if not is_within(path, self.folder):
            raise Forbidden(f"path '{given}' is outside of the sandbox root")
        return path

    def inside(self, given: str) -> str:
        """Return where a name leads, every link followed; raises Forbidden when that is outside."""
        path = self.name(given)
        if path == self.folder:
            self.make()
        return self._checked(given, os.path.realpath(path))

    def entry(self, given: str) -> str:
        """Return the path of a name whose last part is not followed: what is to be removed."""
        path = self.name(given)
        if path == self.folder:
            return path
        folder, last = posixpath.split(path)
        return posixpath.join(self._checked(given, os.path.realpath(folder)), last)

    def holds(self, path: str) -> bool:
        """Say whether an existing path leads to something inside."""
        return is_within(os.path.realpath(path), os.path.realpath(self.folder))

    def _checked(self, given: str, real: str) -> str:
        if not is_within(real, os.path.realpath(self.folder)):
            raise Forbidden(f"path '{given}' leads outside of the sandbox root")
        return real

    def look(self, given: str) -> tuple[str, os.stat_result]:
        """Return where a name leads and what is there; raises NotFound, Forbidden, BadInput."""
        path = self.inside(given)
        try:
            return path, os.stat(path)
        except (OSError, ValueError) as error:
            raise by_errno(given, error) from None

    def make(self) -> None:
        """Make the folder if it is not there; raises Forbidden, StorageFull, BadInput."""
        try:
            make_directories(self.folder, 0o755)
        except (OSError, ValueError) as error:
            raise by_errno(self.folder, error) from None
