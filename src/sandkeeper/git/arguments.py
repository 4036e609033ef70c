"""What requests give git, as its words: never an option, never a pattern, always bounded."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence

from sandkeeper.errors import BadInput
from sandkeeper.git.fields import PersonFields

__all__ = ["branch_name", "limited", "pathspecs", "people", "plain", "raw_paths", "revision"]

PATHS_MOST = 10_000
PATHS_BYTES = 1 << 20
WORD_BYTES = 4096
PERSON_CHARACTERS = 1000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-./]|[./]$|^@$")


def plain(text: str, name: str) -> str:
    """Return a word that can be no option; raises BadInput."""
    if text.startswith("-") or _CONTROLS.search(text) or len(text) > WORD_BYTES:
        raise BadInput(f"invalid {name}: {text[:64]!r}")
    return text


def revision(text: str, name: str) -> str:
    """Return a commit by whatever name git knows for it (gitrevisions(7)); raises BadInput."""
    if not text:
        raise BadInput(f"{name} is required")
    return plain(text, name)


def branch_name(text: str, name: str = "name") -> str:
    """Return the name of a branch (git-check-ref-format(1)); raises BadInput."""
    if not text:
        raise BadInput(f"{name} is required")
    if _BRANCH.search(text) or len(text) > WORD_BYTES:
        raise BadInput(f"invalid {name}: {text[:64]!r} cannot be the name of a branch")
    return text


def limited(number: int, name: str, most: int) -> int:
    """Return a number from 0 on, `most` where it is more; raises BadInput below 0."""
    if number < 0:
        raise BadInput(f"invalid {name}: {number} is below 0")
    return min(number, most)


def raw_paths(paths: Sequence[str], encoded: Sequence[str]) -> list[bytes]:
    """Return names as bytes; raises BadInput for what is none, or for too many."""
    try:
        found = [path.encode() for path in paths]
        found += [b64decode(one, validate=True) for one in encoded]
    except UnicodeEncodeError:
        raise BadInput("invalid paths: half a surrogate pair") from None
    except (Base64Error, ValueError):
        raise BadInput("invalid pathsBase64: not base64") from None
    if any(not path or b"\0" in path for path in found):
        raise BadInput("invalid paths: a path is empty or has a NUL byte")
    if len(found) > PATHS_MOST or sum(map(len, found)) > PATHS_BYTES:
        raise BadInput(f"paths: {PATHS_MOST} of 1 MiB together at most")
    return found


def pathspecs(paths: Sequence[str], encoded: Sequence[str]) -> list[str]:
    """Return the same as words of a call."""
    return [path.decode("utf-8", "surrogateescape") for path in raw_paths(paths, encoded)]


def people(author: PersonFields | None, committer: PersonFields | None) -> dict[str, str]:
    """Return who writes and who commits, as variables (git-commit-tree(1)); raises BadInput.

    The author commits where nobody else is named.
    """
    made: dict[str, str] = {}
    for kind, person in (("AUTHOR", author), ("COMMITTER", committer or author)):
        if person is not None:
            _check_person(person, kind.lower())
            made |= {f"GIT_{kind}_NAME": person.name, f"GIT_{kind}_EMAIL": person.email}
    return made


def _check_person(person: PersonFields, kind: str) -> None:
    for name, text in (("name", person.name), ("email", person.email)):
        if not text.strip() or len(text) > PERSON_CHARACTERS or set(text) & set("\0\n\r<>"):
            raise BadInput(f"invalid {kind}: {name} is {text[:64]!r}")
