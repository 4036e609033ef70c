"""Paths as clients write them, and the names of our own temporary files. Pure functions.

A path route gets everything after its prefix as it stood on the request line: `raw_rest`, still
percent-encoded, beginning with a slash (plain or encoded). From it follows what the caller means:

1. An upper-case `%2F` anywhere makes the path absolute as it stands; otherwise exactly one leading
   slash is the separator of the URL and goes. `/` alone is the working directory.
2. `~` and `~/…` are the home directory (`~name` is a file's name); repeated slashes collapse.
3. A relative path stands below the working directory; `.` and `..` are resolved lexically.

Nothing is confined: the caller owns the machine. Names are text with surrogate escapes for bytes
that are not UTF-8 (PEP 383), so every name the kernel allows survives the way in and out.
"""

import os
import posixpath
from urllib.parse import unquote_to_bytes

import msgspec

from sandkeeper.errors import BadInput
from sandkeeper.patterns import pattern

__all__ = [
    "TEMPORARY_PREFIX",
    "Target",
    "is_replacement",
    "is_temporary",
    "located",
    "resolve",
    "resolve_text",
    "resolve_tree",
    "temporary_name",
    "working_directory",
]

TEMPORARY_PREFIX = ".sandkeeper-tmp-"
_TEMPORARY = pattern(r"\.sandkeeper-tmp-[nr]-[0-9a-f]{20}")
_SLASHES = pattern(r"/{2,}")


class Target(msgspec.Struct, frozen=True):
    """What a request names: `display` is echoed in replies, `absolute` is used."""

    display: str
    absolute: str

    @property
    def shown(self) -> str:
        """What reads and listings echo: as `display`, but the working directory by its path."""
        return self.absolute if self.display in {".", "./"} else self.display


def resolve(raw_rest: bytes, *, workdir: str, home: str) -> Target:
    """Resolve what followed the prefix of a path route; raises BadInput without a home for `~`."""
    rest = os.fsdecode(unquote_to_bytes(raw_rest))
    if b"%2F" not in raw_rest:
        rest = "." if rest in {"", "/"} else rest.removeprefix("/")
    return resolve_text(rest, workdir=workdir, home=home)


def resolve_text(path: str, *, workdir: str, home: str) -> Target:
    """Resolve a path given as text (in a JSON body, say) by the rules 2 and 3."""
    path = path or "."
    if path == "~" or path.startswith("~/"):
        path = _below_home(path, home)
    return located(_single(path), workdir=workdir)


def working_directory(path: str, *, home: str) -> str:
    """Expand a leading `~` textually (`~bob` is not bob's home) and collapse slashes.

    Raises BadInput when there is no home.
    """
    if path.startswith("~"):
        path = _below_home(path, home)
    return _single(path)


def _single(path: str) -> str:
    """Return a path in which one slash stands for each row of them."""
    return _SLASHES.sub("/", path) if "//" in path else path


def _below_home(path: str, home: str) -> str:
    if not home:
        raise BadInput("home directory not found")
    return home + path[1:]


def resolve_tree(raw_rest: bytes) -> Target:
    """Resolve what followed `/filesystem/tree`: always absolute, `~` is a plain name."""
    display = _single("/" + os.fsdecode(unquote_to_bytes(raw_rest)))
    return located(display, workdir="/")


def located(display: str, *, workdir: str) -> Target:
    """Place a path below `workdir` unless it is absolute, and clean it lexically."""
    return Target(display, _single(posixpath.normpath(posixpath.join(workdir, display))))


def temporary_name(*, replacing: bool) -> str:
    """Make the name of a temporary file that will be renamed to its target.

    The name tells whether the target existed (`r`) or not (`n`), so that whoever sees the rename
    knows whether a file was written or created. Its length does not depend on the target's, which
    may already have the 255 bytes a name can have.
    """
    return f"{TEMPORARY_PREFIX}{'r' if replacing else 'n'}-{os.urandom(10).hex()}"


def is_temporary(name: str) -> bool:
    """Say whether a base name is that of one of our temporary files: hidden from every listing."""
    return name.startswith(TEMPORARY_PREFIX) and _TEMPORARY.fullmatch(name) is not None


def is_replacement(name: str) -> bool:
    """Say whether a temporary file of this name replaces an existing one."""
    return is_temporary(name) and name[len(TEMPORARY_PREFIX)] == "r"
