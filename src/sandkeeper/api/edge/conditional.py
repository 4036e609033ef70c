"""Conditional and range requests (RFC 9110, 13 and 14), as Go's http.ServeContent reads them."""

import os
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from starlette.requests import Request

from sandkeeper.errors import RangeNotSatisfiable
from sandkeeper.files.conditions import NO_CONDITIONS, Conditions
from sandkeeper.files.entries import etag
from sandkeeper.numerals import natural

__all__ = ["conditions", "http_date", "modified_since", "ranges"]

MAX_RANGES = 64
_TAG = re.compile(r'\*|(?:W/)?"[^"]*"|[^\s,"]+')
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")


def conditions(request: Request) -> Conditions:
    """Read If-Match, If-None-Match and If-Unmodified-Since.

    A tag without quotes is taken as if it had them; a date that is none counts as absent.
    """
    match = request.headers.getlist("if-match")
    none_match = request.headers.getlist("if-none-match")
    since = _date(request.headers.get("if-unmodified-since", ""))
    if not match and not none_match and since is None:
        return NO_CONDITIONS
    return Conditions(_tags(match), _tags(none_match), since)


def _tags(values: list[str]) -> tuple[str, ...] | None:
    if not values:
        return None
    found = _TAG.findall(",".join(values))
    return tuple(tag if tag == "*" or tag.endswith('"') else f'"{tag}"' for tag in found)


def http_date(info: os.stat_result) -> str:
    """Write the modification time as HTTP does."""
    return formatdate(max(0, int(info.st_mtime)), usegmt=True)


def modified_since(headers: Mapping[str, str], info: os.stat_result) -> bool:
    """Say whether the file changed after If-Modified-Since; true without that header."""
    if "if-none-match" in headers:
        return True
    moment = _date(headers.get("if-modified-since", ""))
    return moment is None or int(info.st_mtime) > moment


def ranges(headers: Mapping[str, str], info: os.stat_result, size: int) -> list[tuple[int, int]]:
    """Return the (start, length) pairs that are asked for; empty: the whole file.

    Raises RangeNotSatisfiable for ranges that all lie behind the end. A field that is none, or of
    another unit than bytes, counts as absent (RFC 9110, 14.2). Ranges that together are longer
    than the file, or too many, are answered by the whole file.
    """
    value = headers.get("range", "")
    if not value or not _if_range(headers.get("if-range", ""), info):
        return []
    unit, equals, rest = value.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return []
    wanted = [part.strip(" \t") for part in rest.split(",") if part.strip(" \t")]
    parsed = [_RANGE.fullmatch(part) for part in wanted[: MAX_RANGES + 1]]
    if len(wanted) > MAX_RANGES:
        return []
    found: list[tuple[int, int]] = []
    for match in parsed:
        if match is None or not _is_range(match[1], match[2]):
            return []
        if (pair := _within(match[1], match[2], size)) is not None:
            found.append(pair)
    if not found:
        if size == 0 or not wanted:
            return []
        raise RangeNotSatisfiable("invalid range: failed to overlap")
    if sum(length for _, length in found) > size:
        return []
    return found


def _is_range(first: str, last: str) -> bool:
    """Say whether two numbers, either of which may be missing, are a range (RFC 9110, 14.1.1)."""
    if not first or not last:
        return bool(first or last)
    return (natural(first) or 0) <= (natural(last) or 0)


def _within(first: str, last: str, size: int) -> tuple[int, int] | None:
    """Return the start and length of a range in a file; None when it lies behind its end."""
    if not first:
        length = natural(last, size) or 0
        return (size - length, length) if length else None
    start = natural(first) or 0
    if start >= size:
        return None
    end = (natural(last, size - 1) or 0) if last else size - 1
    return start, end - start + 1


def _if_range(value: str, info: os.stat_result) -> bool:
    if not value:
        return True
    if value.startswith(('"', "W/")):
        return value == etag(info)
    return _date(value) == int(info.st_mtime)


def _date(text: str) -> int | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return int(moment.timestamp())
    except (OverflowError, ValueError):
        return None
