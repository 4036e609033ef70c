"""Who may ask for what: the two tokens, and what the workload's own user may besides."""

from collections.abc import Mapping

import msgspec

from sandkeeper.settings.variables import Variables

__all__ = ["AREAS", "TOKEN_VARIABLES", "RightsSettings", "told_token", "usable_token"]

AREAS = ("archive", "drives", "environment", "tunnel", "upgrade", "users")
"""What is administrative: with a workload's user each of them needs the operator."""

USER_TOKEN, ADMIN_TOKEN = "SANDKEEPER_TOKEN", "SANDKEEPER_ADMIN_TOKEN"
MAY = "SANDKEEPER_WORKLOAD_MAY"
USERS = "SANDKEEPER_USERS"
TOKEN_VARIABLES = (USER_TOKEN, ADMIN_TOKEN)


class RightsSettings(msgspec.Struct, frozen=True):
    """The tokens, empty when there is none; `may` are the areas that need no operator.

    `users` are those that a request may act as besides the workload's own.

    No token is shown by `repr`, so none reaches a log by way of a failure.
    """

    token: str = ""
    admin_token: str = ""
    may: frozenset[str] = frozenset()
    users: tuple[str, ...] = ()

    __repr__ = object.__repr__

    @classmethod
    def read(cls, env: Variables) -> "RightsSettings":
        """Read the four variables.

        Faults are a token that is set and blank (a secret that failed would leave the door open),
        that nobody could send, or that is both tokens at once, and an area that does not exist.
        """
        token = env.sound(lambda: told_token(env, USER_TOKEN), "")
        admin = env.sound(lambda: told_token(env, ADMIN_TOKEN), "")
        if token and token == admin:
            env.faults.append(f"{ADMIN_TOKEN} is the same as {USER_TOKEN}")
        may = env.sound(lambda: _areas(env.get(MAY, "")), frozenset[str]())
        return cls(token, admin, may, tuple(env.words(USERS)))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Both tokens, as far as there are any."""
        return tuple(filter(None, (self.token, self.admin_token)))


def told_token(env: Mapping[str, str], name: str) -> str:
    """Return the token that a variable holds; empty where it is not set. Raises ValueError."""
    return usable_token(env[name], name) if name in env else ""


def usable_token(text: str, name: str) -> str:
    """Return a token without the space around it; raises ValueError for one that nobody can send.

    A blank one is none: a secret that failed would leave the door open.
    """
    token = text.strip()  # a file of a secret ends with a newline
    if not token:
        raise ValueError(f"{name} is set but empty: give a token, or unset it")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not UTF-8") from None
    if not token.isprintable():
        raise ValueError(f"{name} holds a character that no header can carry")
    return token


def _areas(text: str) -> frozenset[str]:
    named = frozenset(text.replace(",", " ").lower().split())
    if unknown := sorted(named - {"all", *AREAS}):
        known = ", ".join(AREAS)
        raise ValueError(f"{MAY}: there is no {unknown[0]!r}; there are {known}, and all")
    return frozenset(AREAS) if "all" in named else named
