"""Where a new version may come from: the operator's list, and what a request picks from it.

An entry of `SANDKEEPER_UPGRADE_ALLOW` is one of

    index:https://host/simple/           a wheel index (PEP 503, PEP 691), all versions on it
    https://host/wheels/                 packages directly below a URL that ends in a slash
    https://host/x-1.0-py3-none-any.whl  one package
    /opt/wheels/*.whl                    files; `*` and `?` do not match a slash

each but the first optionally with `#sha256=…`. Plain http is only for entries with a checksum: who
can answer in a server's place, as any process may on loopback, would decide what runs.

A package is a wheel or a bundle (upgrade.bundle); an index has wheels only.
"""

import fnmatch
import os
import re
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import msgspec

from sandkeeper.errors import Forbidden
from sandkeeper.patterns import pattern

__all__ = [
    "ABOUT",
    "PROJECT",
    "Allowed",
    "Source",
    "default_base",
    "is_bundle",
    "parse_allow",
    "pick",
    "runs_from_bundle",
    "without_secrets",
]

PROJECT = "sandkeeper"
BUNDLES = (".tar.zst", ".tar.gz")
PACKAGES = (".whl", *BUNDLES)
ABOUT = "bundle.json"

DEFAULT_BASE = "https://github.com/blaxel-ai/sandbox/releases"
"""What the contract answers when a request names no source and the operator has none either."""

_SHA256 = pattern(r"[0-9a-f]{64}")
_VERSION = pattern(r"[0-9A-Za-z][0-9A-Za-z.+!-]{0,63}")


class Allowed(msgspec.Struct, frozen=True):
    """One entry: `kind` is `index`, `url` or `file`; a `place` that ends in `/` is a prefix."""

    kind: str
    place: str
    sha256: str = ""

    def permits(self, place: str) -> bool:
        """Say whether a URL without query and fragment, or an absolute path, falls under it."""
        if self.kind == "file":
            return _plain(place) and _matches(place, self.place)
        if "?" in place or not _plain(urlsplit(place).path):
            return False
        below, _, name = place.rpartition("/")
        return place == self.place or (self.place == below + "/" and name.endswith(PACKAGES))


class Source(msgspec.Struct, frozen=True):
    """What a request has picked: an index to look in, a URL or a path of a package, or a folder.

    `sha256` is the operator's checksum, `rule` the entry that permits it.
    """

    rule: Allowed
    place: str
    version: str


def parse_allow(entries: Sequence[str]) -> tuple[list[Allowed], list[str]]:
    """Read the operator's list; returns its entries and what is wrong with the others."""
    good: list[Allowed] = []
    faults: list[str] = []
    for entry in entries:
        made = _parse(entry)
        if isinstance(made, str):
            faults.append(f"{without_secrets(entry)} is ignored: {made}")
        else:
            good.append(made)
    return good, faults


def _parse(entry: str) -> Allowed | str:
    place, _, fragment = entry.partition("#")
    sha256 = fragment.removeprefix("sha256=").lower()
    if fragment and not _SHA256.fullmatch(sha256):
        return "behind # stands sha256= and 64 hexadecimal digits"
    place = place.removeprefix("file://") if place.startswith("file:///") else place
    if place.startswith("/"):
        return Allowed("file", place, sha256) if _plain(place) else "the path is not a plain one"
    kind = "index" if place.startswith("index:") else "url"
    place = place.removeprefix("index:")
    url = urlsplit(place)
    if url.scheme not in {"https", "http"} or not url.hostname:
        return "it is neither a path nor an http(s) URL"
    if url.query or "@" in url.netloc or not _plain(url.path):
        return "the URL carries a query or credentials, or its path is not a plain one"
    if kind == "index":
        place, sha256 = place.rstrip("/") + "/", ""
    elif not place.endswith((*PACKAGES, "/")):
        return f"a URL ends in {', '.join(PACKAGES)}, or in / for what stands below it"
    if url.scheme == "http" and not sha256:
        return "plain http needs #sha256="
    return Allowed(kind, place, sha256)


def _plain(path: str) -> bool:
    """Say whether a path has no dots to climb by and nothing that decodes to other segments."""
    decoded = unquote(path)
    return not ({".", ".."} & set(decoded.split("/"))) and (
        "\\" not in decoded and decoded.count("/") == path.count("/") and decoded.isprintable()
    )


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(
        fnmatch.fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True)
    )


def is_bundle(name: str) -> bool:
    """Say whether a file's name is that of a bundle; other packages are wheels."""
    return name.endswith(BUNDLES)


def runs_from_bundle() -> bool:
    """Say whether this very server came as a bundle (`upgrade.bundle`)."""
    return os.path.exists(os.path.join(sys.prefix, ABOUT))


def pick(allowed: Sequence[Allowed], version: str, base: str, *, bundled: bool = False) -> Source:
    """Return the source of a request; raises Forbidden for everything the list does not permit.

    `bundled` says that we are a bundle: of a place with names alone the next is one as well.
    """
    if not allowed:
        raise Forbidden(
            "no source of upgrades is permitted: the operator sets SANDKEEPER_UPGRADE_ALLOW"
        )
    if not _VERSION.fullmatch(version):
        raise Forbidden("that is not a version")
    base = base.split("#")[0]
    base = base.removeprefix("file://") if base.startswith("file:///") else base
    for rule in allowed:
        place = _place(rule, version, base, bundled)
        if place:
            return Source(rule, place, version)
    raise Forbidden("the operator permits no upgrade from there")


def _place(rule: Allowed, version: str, base: str, bundled: bool) -> str:
    """Return what `base` stands for under one rule; empty when the rule does not permit it."""
    if rule.kind == "index":
        return rule.place if base.removeprefix("index:").rstrip("/") + "/" == rule.place else ""
    if rule.kind == "file" and PurePosixPath(rule.place).parent == PurePosixPath(base):
        return base.rstrip("/") + "/"
    if rule.place.endswith("/") and base.rstrip("/") + "/" == rule.place:
        kind = f"linux-{os.uname().machine}.tar.zst" if bundled else "py3-none-any.whl"
        name = f"{PROJECT}-{version.removeprefix('v')}-{kind}"
        return "" if version == "latest" else rule.place + name
    if rule.kind == "file" and base == rule.place and "*" not in base:
        return base
    return base if base.endswith(PACKAGES) and rule.permits(base) else ""


def default_base(allowed: Sequence[Allowed]) -> str:
    """Return the source of a request that names none: the operator's first."""
    if not allowed:
        return DEFAULT_BASE
    first = allowed[0]
    if first.kind == "file" and ("*" in first.place or "?" in first.place):
        return str(PurePosixPath(first.place).parent)
    return first.place


def without_secrets(url: str) -> str:
    """Return a URL without credentials and query, for people to read."""
    return re.sub(r"//[^/@]*@", "//", url).split("?")[0][:2000]
