"""The fields of a proxied server's answer, so that it speaks for its own port and no further.

Whatever the answer is (HTML, SVG, XML, an error, of no stated type), a browser may show it as a
document, so every answer is sandboxed; and what a server may tell a browser about a whole origin
or a whole host is not a port's to tell.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from sandkeeper.network.hops import HOP_BY_HOP, named_by_connection

__all__ = ["Addressee", "response_headers"]

Headers = list[tuple[bytes, bytes]]

SANDBOX = (
    b"content-security-policy",
    b"sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads",
)
OF_THE_ORIGIN = frozenset(
    {
        *(b"clear-site-data", b"strict-transport-security", b"service-worker-allowed"),
        *(b"alt-svc", b"nel", b"report-to", b"public-key-pins", b"public-key-pins-report-only"),
        *(b"expect-ct", b"origin-agent-cluster", b"accept-ch", b"critical-ch", b"set-login"),
        *(b"sec-session-registration", b"secure-session-registration", b"activate-storage-access"),
    }
)
OF_A_PAGE = frozenset(
    {
        *(b"cross-origin-opener-policy", b"cross-origin-opener-policy-report-only"),
        *(b"cross-origin-embedder-policy", b"cross-origin-embedder-policy-report-only"),
        b"cross-origin-resource-policy",
    }
)
"""Rules that compare origins: of a page without one, they would keep out its own parts."""
OUR_COOKIES = frozenset({b"sandkeeper_token", b"sandkeeper_port"})
LEADING = frozenset({b"location", b"content-location", b"refresh"})
"""Fields that hold an address below the root of the server."""
_COOKIE_PATH = re.compile(rb"\s*path\s*=.*", re.IGNORECASE | re.DOTALL)
_COOKIE_DOMAIN = re.compile(rb"\s*domain\s*=.*", re.IGNORECASE | re.DOTALL)
_REFRESH = re.compile(
    rb"(\s*[0-9.]*\s*[;,]?\s*url\s*=\s*[\"']?)([^\"']*)(.*)", re.IGNORECASE | re.DOTALL
)
_COOKIE_SCOPE = re.compile(rb"\s*(?:path|domain)\s*(?:=.*)?", re.IGNORECASE | re.DOTALL)
_SAME_SITE = re.compile(rb"\s*(?:samesite\s*(?:=.*)?|secure\s*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom an answer is for.

    `host` is the name of a port that has one: all else is for those below a prefix. `is_whole` says
    that another server of this kind answers, which has seen to all of this but for cookies of other
    hosts: a program may have taken its place.

    `base` is the path of the port as the client sees it, without a slash at the end; `page` the
    same with the ticket of the page that asks, empty for every other client. `knows_base` says that
    the server sees that path itself. `hosts` are the authorities under which the port and this
    server are known.

    `keeps_cookies` says that it is a browser, which would send a cookie to every port of this host;
    `sends_cookies` that it would return a page's cookies if they are marked for all sites; `reads`
    that the page must be told that it may read the answer.
    """

    base: bytes = b""
    host: bytes = b""
    is_whole: bool = False
    knows_base: bool = False
    page: bytes = b""
    hosts: frozenset[bytes] = frozenset()
    keeps_cookies: bool = False
    reads: bool = False
    sends_cookies: bool = False


def response_headers(status: int, received: Headers, audience: Addressee) -> Headers:
    """Return the fields to answer with; the server adds `date` and the framing itself."""
    dropped = HOP_BY_HOP | {b"date"}
    dropped |= named_by_connection(received) - {b"content-length", b"cache-control"}
    if status in (204, 304):
        dropped |= {b"content-length"}
    if audience.host:
        return [field for field in _of_a_host(received, audience) if field[0] not in dropped]
    dropped |= OF_THE_ORIGIN
    if audience.page:
        dropped |= OF_A_PAGE
    kept: Headers = []
    for name, value in received:
        key = name.lower()
        if key in dropped or (audience.reads and key.startswith(b"access-control-")):
            continue
        if key == b"set-cookie":
            value = _scoped_cookie(value, audience)
        elif key in LEADING:
            value = _moved(key, value, audience)
        if value or key != b"set-cookie":
            kept.append((name, value))
    return [*kept, SANDBOX, *_for_page(kept, audience)]


def _of_a_host(received: Headers, audience: Addressee) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of a server that has an origin of its own: what it says is its affair."""
    for name, value in received:
        key = name.lower()
        kept = _host_cookie(value, audience) if key == b"set-cookie" else value
        if kept or key != b"set-cookie":
            yield key, kept


def _for_page(kept: Headers, audience: Addressee) -> Headers:
    if not audience.page:
        return []
    added = [(b"cross-origin-resource-policy", b"cross-origin")]
    if audience.reads:
        names = sorted({name.lower() for name, _ in kept} - {b"set-cookie"})
        added += [
            (b"access-control-allow-origin", b"null"),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", b", ".join(names)),
            (b"vary", b"Origin"),
        ]
    return added


def _scoped_cookie(value: bytes, audience: Addressee) -> bytes:
    """Return a cookie for this port only; empty for one that would be taken for the API's.

    A path of the server's lies below the port's. One that is kept by a page gets the port's whole
    path, for the page's own has a ticket in it that changes.
    """
    pair, *attributes = value.split(b";")
    if pair.partition(b"=")[0].strip().lower() in OUR_COOKIES:
        return b""
    if not audience.keeps_cookies:
        return value
    kept = [one for one in attributes if not _COOKIE_SCOPE.fullmatch(one)]
    paths = [one.partition(b"=")[2].strip() for one in attributes if _COOKIE_PATH.fullmatch(one)]
    kept.append(b" Path=" + _cookie_path(paths[-1] if paths else b"", audience))
    if audience.sends_cookies:
        kept = [one for one in kept if not _SAME_SITE.fullmatch(one)]
        kept += [b" SameSite=None", b" Secure"]
    return b";".join([pair, *kept])


def _cookie_path(path: bytes, audience: Addressee) -> bytes:
    base = audience.base
    if audience.page:
        path = b""
    elif path == base or path.startswith(base + b"/"):
        path = path[len(base) :]
    elif audience.knows_base:
        path = b""
    return base + (path if path.startswith(b"/") else b"/")


def _host_cookie(value: bytes, audience: Addressee) -> bytes:
    """Return a cookie for the host of a port alone, not for those beside or above it."""
    pair, *attributes = value.split(b";")
    if not audience.is_whole and pair.partition(b"=")[0].strip().lower() in OUR_COOKIES:
        return b""
    host = audience.host
    domains = [one for one in attributes if _COOKIE_DOMAIN.fullmatch(one)]
    if not domains or domains[-1].partition(b"=")[2].strip().lower().lstrip(b".") == host:
        return value
    return b";".join([pair, *(one for one in attributes if one not in domains)])


def _moved(name: bytes, value: bytes, audience: Addressee) -> bytes:
    """Return where a field leads, as the client reaches it."""
    if name != b"refresh":
        return _kept_inside(value, audience)
    found = _REFRESH.fullmatch(value)
    if found is None:
        return value
    return found[1] + _kept_inside(found[2], audience) + found[3]


def _kept_inside(value: bytes, audience: Addressee) -> bytes:
    """Return where a server sends its client, below the prefix or the page's own address.

    The server thinks of itself as the root of a host, unless it has read X-Forwarded-Prefix.
    """
    try:
        parts = urlsplit(value.decode("latin-1"))
    except ValueError:
        return value
    if parts.netloc and parts.netloc.encode("latin-1").lower() not in audience.hosts:
        return value
    path = parts.path.encode("latin-1")
    if not path.startswith(b"/") and not parts.netloc:
        return value  # relative to where the page is
    rest = value.partition(parts.netloc.encode("latin-1"))[2] if parts.netloc else value
    root = audience.page or audience.base
    if path == root or path.startswith(root + b"/"):
        return rest
    if path == audience.base or path.startswith(audience.base + b"/"):
        return root + rest[len(audience.base) :]
    if audience.knows_base:
        return value  # it means a place outside of its own
    return root + (rest if rest.startswith(b"/") else b"/" + rest)
