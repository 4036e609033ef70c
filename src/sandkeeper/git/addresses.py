"""Where repositories are: addresses are told, so none may hold a secret; who may log in there."""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from sandkeeper.errors import BadInput
from sandkeeper.log.redaction import HIDDEN, is_secret

__all__ = [
    "Credential",
    "check_address",
    "folder_name",
    "has_secret",
    "is_address",
    "without_users",
]

_USERS = re.compile(r"(\b(?:https?|ftps?)://)[^\s/@'\"]+@", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x20\x7f]")
_SCP = re.compile(r"(?:[^/:@\s]+@)?[^/:\s]+:(?!//)\S")
_HELPER = re.compile(r"^[A-Za-z0-9+.-]+::")
"""What an address may begin with: the program that fetches it (gitremote-helpers(7))."""

HTTP = ("http", "https")


@dataclass(frozen=True, slots=True)
class Credential:
    """A user's name and password (or token), as bytes of a head or a variable."""

    username: bytes
    password: bytes = field(repr=False)

    @property
    def answer(self) -> bytes:
        """What a credential helper says to `get` (gitcredentials(7))."""
        return b"username=" + self.username + b"\npassword=" + self.password + b"\n"


def is_address(text: str) -> bool:
    """Say whether this is an address (`https://…`, `git@host:path`, `/path`) and no name."""
    return "://" in text or text.startswith(("/", "./", "../")) or bool(_SCP.match(text))


def has_secret(address: str) -> bool:
    """Say whether an address has a password or a token in it: it would be told to everybody."""
    parts = _split(address)
    if parts is None:
        return False
    users = parts.netloc.rpartition("@")[0]
    if users and (parts.scheme.lower() not in {"ssh", "git+ssh", "ssh+git"} or ":" in users):
        return True
    return any(is_secret(name) and value for name, value in parse_qsl(parts.query))


def check_address(address: str, name: str = "url") -> None:
    """Raise BadInput for what git would take for an option, or what has a secret in it."""
    if not address:
        raise BadInput(f"{name} is required")
    if address.startswith("-") or _CONTROLS.search(address):
        raise BadInput(f"invalid {name}: it is no address of a repository")
    if has_secret(address):
        raise BadInput(
            f"invalid {name}: an address with a password or a token in it is seen by everybody; "
            "send X-Git-Username and X-Git-Password, or name a variable in credentials"
        )


def origin_of(address: str) -> str:
    """Return `scheme://host:port` of what is fetched over HTTP; empty for everything else."""
    parts = _split(address)
    if parts is None or parts.scheme.lower() not in HTTP or not parts.hostname:
        return ""
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}"


def is_ssh(address: str) -> bool:
    """Say whether git would run ssh for it."""
    parts = _split(address)
    if parts is None:
        return bool(_SCP.match(address))
    return parts.scheme.lower() in {"ssh", "git+ssh", "ssh+git"}


def without_users(text: str) -> str:
    """Return a text in which no address tells a user or a password."""
    return _USERS.sub(rf"\1{HIDDEN}@", text)


def folder_name(address: str) -> str:
    """Return the name of the folder that a clone goes to, as git-clone(1) makes it."""
    last = address.rstrip("/").removesuffix("/.git").rpartition("/")[2].rpartition(":")[2]
    name = last.partition("?")[0].removesuffix(".git").removesuffix(".bundle")
    if name in {"", ".", ".."}:
        raise BadInput("path is required: the url has no name for a folder")
    return name


def _split(address: str) -> SplitResult | None:
    if "://" not in address:
        return None
    try:
        parts = urlsplit(_HELPER.sub("", address, count=1))
        _ = parts.port
    except ValueError:
        raise BadInput("invalid url: it is no address of a repository") from None
    return parts
