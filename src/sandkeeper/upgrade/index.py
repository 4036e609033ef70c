"""Wheel indexes: reading a project's page (PEP 503 HTML, PEP 691 JSON), choosing a version."""

import platform
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from sandkeeper.errors import Internal, NotFound
from sandkeeper.upgrade.bundle import version_of_bundle
from sandkeeper.upgrade.source import PROJECT, is_bundle, runs_from_bundle

__all__ = ["IndexedFile", "choose", "read_index", "version_of"]


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file on an index or in a folder; `requires` is its Requires-Python."""

    name: str
    place: str
    sha256: str = ""
    requires: str = ""
    yanked: bool = False


class _File(msgspec.Struct, rename={"requires": "requires-python"}):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    requires: str | None = None
    yanked: bool | str = False


class _Page(msgspec.Struct):
    files: list[_File] = []


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def read_index(url: str, data: bytes, media_type: str) -> list[IndexedFile]:
    """Return the files of a project's page at `url`; raises Internal when it is none."""
    if "json" in media_type:
        try:
            page = msgspec.json.decode(data, type=_Page)
        except msgspec.MsgspecError as error:
            raise Internal(f"{url} is not an index: {error}") from None
        return [
            IndexedFile(file.filename, urljoin(url, file.url), file.hashes.get("sha256", ""),
                   file.requires or "", file.yanked is not False)
            for file in page.files
        ]  # fmt: skip
    anchors = _Anchors()
    anchors.feed(data.decode("utf-8", "replace"))
    return [_listed(url, anchor) for anchor in anchors.found if anchor.get("href")]


def _listed(url: str, anchor: dict[str, str | None]) -> IndexedFile:
    place, fragment = urldefrag(urljoin(url, anchor["href"] or ""))
    return IndexedFile(
        urlsplit(place).path.rpartition("/")[2],
        place,
        fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else "",
        anchor.get("data-requires-python") or "",
        "data-yanked" in anchor,
    )


def version_of(name: str) -> Version | None:
    """Return the version of one of our packages that fits this machine, None for other names."""
    return version_of_bundle(name) if is_bundle(name) else _version_of_wheel(name)


def _version_of_wheel(name: str) -> Version | None:
    try:
        project, version, _, tags = parse_wheel_filename(name)
    except (InvalidWheelFilename, InvalidVersion):
        return None
    return version if project == PROJECT and not tags.isdisjoint(sys_tags()) else None


def choose(listed: list[IndexedFile], wanted: str) -> IndexedFile:
    """Return the file of a version, or of the `latest` release; raises NotFound.

    Of a wheel and a bundle of one version it is what we are ourselves.
    """
    fitting = [
        (version, file)
        for file in listed
        if (version := version_of(file.name)) is not None and _python_fits(file.requires)
    ]
    if wanted == "latest":
        fitting = [pair for pair in fitting if not (pair[0].is_prerelease or pair[1].yanked)]
    else:
        try:
            exact = Version(wanted)
        except InvalidVersion:
            raise NotFound(f"{wanted} is not a version of {PROJECT}") from None
        fitting = [pair for pair in fitting if pair[0] == exact]
    if not fitting:
        raise NotFound(f"there is no package of {PROJECT} {wanted} for this machine")
    bundled = runs_from_bundle()
    return max(fitting, key=lambda pair: (pair[0], is_bundle(pair[1].name) == bundled))[1]


def _python_fits(requires: str) -> bool:
    try:
        return SpecifierSet(requires).contains(platform.python_version(), prereleases=True)
    except InvalidSpecifier:
        return False
