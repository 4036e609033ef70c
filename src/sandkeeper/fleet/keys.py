"""Who may ask: API keys from Secrets, each of a team, with what the team may have.

A Secret with the label `fleet.sandkeeper.dev/api-key` holds `key`, and if it likes `team` (its own
name), `sandboxes` (at once), `seconds` (the longest life) and `templates` (by commas).
"""

import hashlib
import os
import re
from collections.abc import Iterable

import msgspec

from sandkeeper.errors import BadInput
from sandkeeper.fleet.objects import Secret, text_of
from sandkeeper.log.lines import Log
from sandkeeper.numerals import natural
from sandkeeper.settings.rights import usable_token

__all__ = ["Keys", "Team"]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
NUMBER = 10**9


class Team(msgspec.Struct, frozen=True):
    """Whose sandboxes these are; 0 and an empty list bound nothing."""

    name: str
    sandboxes: int = 0
    seconds: int = 0
    templates: frozenset[str] = frozenset()

    def check_seconds(self, seconds: float) -> None:
        """Raise BadInput for a life that is too long."""
        if self.seconds and seconds > self.seconds:
            raise BadInput(f"timeout is longer than the {self.seconds} s of this key")


class Keys:
    """The keys of all teams; event loop's thread only.

    What is kept and compared are digests with a secret of this process, so the time that it takes
    says nothing of a key, and thousands of keys cost no more than one: anybody may ask.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._salt = os.urandom(32)
        self._known: dict[str, tuple[bytes, Team]] = {}
        self._teams: dict[bytes, Team] | None = {}
        self._listing: set[str] | None = None

    def __len__(self) -> int:
        return len(self._known)

    def team_of(self, offered: Iterable[bytes]) -> Team | None:
        """Return the team of a key among what is offered."""
        if self._teams is None:
            self._teams = dict(self._known.values())
        found: Team | None = None
        for offer in offered:
            found = self._teams.get(self._digest(offer), found)
        return found

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._salt, digest_size=32).digest()

    def begin(self) -> None:
        """Expect a list from its beginning, whatever became of the one before."""
        self._listing = set()

    def replace(self, secrets: list[Secret] | None) -> None:
        """Take a piece of a list; None is its end."""
        if self._listing is None:
            self._listing = set()
        if secrets is not None:
            for secret in secrets:
                self._listing.add(secret.metadata.name)
                self.change(secret)
            return
        for name in self._known.keys() - self._listing:
            del self._known[name]
        self._listing = self._teams = None

    def change(self, secret: Secret) -> None:
        """Take a key as it is now; one that makes no sense opens nothing, and that is said."""
        name = secret.metadata.name
        self._teams = None
        try:
            key, team = _read(secret)
            self._known[name] = (self._digest(key), team)
        except ValueError as error:
            self._known.pop(name, None)
            self._log.warning(f"the API key in the Secret {name} is not taken: {error}")

    def remove(self, secret: Secret) -> None:
        """Take the end of a key."""
        self._teams = None
        self._known.pop(secret.metadata.name, None)


def _read(secret: Secret) -> tuple[bytes, Team]:
    """Read a Secret; raises ValueError."""
    key = usable_token(text_of(secret, "key") or "", "key")
    name = (text_of(secret, "team") or secret.metadata.name).strip()
    if not _NAME.fullmatch(name):
        raise ValueError("team is no value that a label may have (63 of A-Z, a-z, 0-9, - _ .)")
    templates = (text_of(secret, "templates") or "").replace(",", " ").split()
    team = Team(
        name=name,
        sandboxes=_number(secret, "sandboxes"),
        seconds=_number(secret, "seconds"),
        templates=frozenset(templates),
    )
    return key.encode(), team


def _number(secret: Secret, name: str) -> int:
    """Read a bound; raises ValueError, for one that is misspelt would bound nothing."""
    text = (text_of(secret, name) or "").strip()
    if not text and name not in secret.data:
        return 0
    value = natural(text, NUMBER)
    if not value:
        raise ValueError(f"{name} is no whole number from 1 on")
    return value
