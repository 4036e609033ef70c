"""The workload's home, where a working directory that begins with `~` is."""

from sandkeeper.errors import BadInput
from sandkeeper.linux.identity import Identity
from sandkeeper.settings import Environment

__all__ = ["Home"]


class Home:
    """Where it is now: the environment may change."""

    def __init__(self, environment: Environment, identity: Identity | None) -> None:
        self._environment = environment
        self._identity = identity

    def expand(self, path: str) -> str:
        """Return a working directory with `~` as the workload's home and single slashes.

        Raises BadInput when there is no home.
        """
        if path.startswith("~"):  # textually: `~bob` is not bob's home
            home = self._identity.home if self._identity else self._environment.get("HOME")
            if not home:
                raise BadInput("home directory not found")
            path = home + path[1:]
        while "//" in path:
            path = path.replace("//", "/")
        return path
