"""Conditional and range requests (RFC 9110, 13 and 14), as Go's http.ServeContent reads them."""

import os
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from starlette.requests import Request

from sandkeeper.core.entries import etag
from sandkeeper.errors import RangeNotSatisfiable
from sandkeeper.services.conditions import NO_CONDITIONS, Conditions

__all__ = ["conditions", "http_date", "modified_since", "ranges"]

MAX_RANGES = 64
_TAG = re.compile(r'\*|(?:W/)?"[^"]*"|[^\s,"]+')
_RANGE = re.compile(r"\s*(\d*)-(\d*)\s*")


def conditions(request: Request) -> Conditions:
    """Read If-Match and If-None-Match; a tag without quotes is taken as if it had them."""
    match = request.headers.getlist("if-match")
    none_match = request.headers.getlist("if-none-match")
    if not match and not none_match:
        return NO_CONDITIONS
    return Conditions(_tags(match), _tags(none_match))


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

    Raises RangeNotSatisfiable for nonsense and for ranges that all lie behind the end. Ranges
    that together are longer than the file, or too many, are answered by the whole file.
    """
    value = headers.get("range", "")
    if not value or not _if_range(headers.get("if-range", ""), info):
        return []
    if not value.startswith("bytes="):
        raise RangeNotSatisfiable("invalid range")
    wanted = [part for part in value[6:].split(",") if part.strip()]
    found = [pair for part in wanted[: MAX_RANGES + 1] if (pair := _one(part, size)) is not None]
    if not found:
        if size == 0 or not wanted:
            return []
        raise RangeNotSatisfiable("invalid range: failed to overlap")
    if len(wanted) > MAX_RANGES or sum(length for _, length in found) > size:
        return []
    return found


def _one(text: str, size: int) -> tuple[int, int] | None:
    match = _RANGE.fullmatch(text)
    if match is None or match[0].strip() == "-" or max(map(len, match.groups())) > 19:
        raise RangeNotSatisfiable("invalid range")
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else None
    start = int(first)
    if last and int(last) < start:
        raise RangeNotSatisfiable("invalid range")
    if start >= size:
        return None
    end = min(int(last), size - 1) if last else size - 1
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
