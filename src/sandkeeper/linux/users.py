"""The users that requests may act as: the workload's own, and those that the operator has named.

Who a request acts as goes with its task (a context variable), and from there to the worker threads
that act for it. Processes and terminals keep the name in their records.
"""

import os
import pwd
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sandkeeper.errors import Forbidden
from sandkeeper.linux.identity import Identity, UnusableUser

__all__ = ["UnknownUser", "Users"]

ACCOUNTS = "/etc/passwd"


class UnknownUser(Forbidden):
    """A user that this server does not act as."""


class Users:
    """The workload's user (`default`; None: the server's own), and `allowed` others by name.

    Root is like any other: it must be named, unless the server is root's and keeps no workload
    apart. What runs as another user than the workload's is out of reach of whoever may not act as
    others. Event loop's thread only, but for `current`.
    """

    def __init__(self, default: Identity | None, allowed: Collection[str]) -> None:
        self.default = default
        self._allowed = frozenset(allowed)
        self._known: dict[str, Identity] = {}
        self._stamp = -1
        self._acting: ContextVar[Identity | None] = ContextVar("acting", default=default)
        self._for_all: ContextVar[bool] = ContextVar("for_all", default=True)

    def current(self) -> Identity | None:
        """Return the user that this task or thread acts as; None for the server's own."""
        return self._acting.get()

    @contextmanager
    def acting_as(self, identity: Identity | None) -> Iterator[None]:
        """Have what this task does be done as a user while inside."""
        before = self._acting.set(identity)
        try:
            yield
        finally:
            self._acting.reset(before)

    @contextmanager
    def asking(self, *, for_all: bool) -> Iterator[None]:
        """Have what others own be out of reach while inside, unless `for_all`."""
        before = self._for_all.set(for_all)
        try:
            yield
        finally:
            self._for_all.reset(before)

    def reaches(self, name: str) -> bool:
        """Say whether whoever asks may use what runs as the user of a recorded name."""
        return not name or self._for_all.get()

    def check_reach(self, name: str) -> None:
        """Raise Forbidden unless that is so."""
        if not self.reaches(name):
            raise Forbidden(f"it runs as {name}, which needs the operator's right (users)")

    def recorded(self, name: str) -> str:
        """Return a name as records keep it: none for the workload's own user."""
        return "" if self.named(name) == self.default else name

    @property
    def any_allowed(self) -> bool:
        """Whether there is anybody else to act as."""
        return bool(self._allowed)

    def named(self, name: str) -> Identity | None:
        """Return the user of a name; that of the workload when there is none.

        Raises UnknownUser for one that is not allowed, does not exist, or cannot be acted for.
        """
        if not name or (self.default is not None and name == self.default.name):
            return self.default
        if self.default is None and name == _own_name():
            return None
        if name not in self._allowed:
            raise UnknownUser(
                f"this server does not act as the user {name[:64]!r}: SANDKEEPER_USERS lists others"
            )
        self._forget_old()
        found = self._known.get(name)
        if found is None:
            try:
                found = Identity.resolve(name, root=True)
                found.check()
            except UnusableUser as error:
                raise UnknownUser(str(error)) from None
            self._known[name] = found
        return found

    def _forget_old(self) -> None:
        """Look names up again when accounts have changed."""
        try:
            stamp = os.stat(ACCOUNTS).st_mtime_ns
        except OSError:
            stamp = 0
        if stamp != self._stamp:
            self._known, self._stamp = {}, stamp


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
