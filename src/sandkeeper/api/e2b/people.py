"""Whose call it is: who asks, which user it acts as, and where that user is at home."""

import base64
import binascii
import os
import pwd
from dataclasses import dataclass

from starlette.requests import Request

from sandkeeper.api.e2b.defaults import DefaultsStore
from sandkeeper.api.edge.rights import user_of
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.users import Users
from sandkeeper.settings import Environment

__all__ = ["BASE", "CallUser", "People"]

BASE = ("PATH", "HOME", "USER", "LOGNAME")
"""The variables that every program on this wire has besides its own."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class CallUser:
    """The user of a call: `name` as records keep it (empty: the workload's own), and its home."""

    name: str
    identity: Identity | None
    login: str
    home: str


class People:
    """Finds the user of a call, and what its programs start from."""

    def __init__(self, users: Users, environment: Environment, defaults: DefaultsStore) -> None:
        self._users = users
        self._environment = environment
        self._defaults = defaults

    def of(self, request: Request, name: str = "") -> CallUser:
        """Return the user that a request names: in `name`, or by `Authorization: Basic`.

        Without one it is the user that `/init` has set, else the workload's own. Raises
        UnknownUser, Forbidden.
        """
        name = name or _basic_name(request) or self._defaults.now.user
        identity = user_of(request, self._users, name)
        if identity is not None:
            return CallUser(self._users.recorded(name), identity, identity.name, identity.home)
        login, home = _own()
        return CallUser("", None, login, self._environment.get("HOME") or home)

    def workdir(self, person: CallUser) -> str:
        """Return where programs of a user begin."""
        return self._defaults.now.workdir or person.home

    def base(self, person: CallUser) -> dict[str, str]:
        """Return the variables that every program of a user has on this wire."""
        path = self._environment.get("PATH") or PATH
        base = dict(zip(BASE, (path, person.home, person.login, person.login), strict=True))
        return base | self._defaults.now.env_for(person.name)


def _basic_name(request: Request) -> str:
    """Return the name of `Authorization: Basic`, which is a user here and no password."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[0]


def _own() -> tuple[str, str]:
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return str(os.geteuid()), "/"
    return entry.pw_name, entry.pw_dir or "/"
