"""Putting an archive on a storage through presigned URLs, and getting one. Blocking, bounded.

No text that leaves this module holds a URL or a header: both are secrets. Redirects are not
followed, a storage that signs has no reason to send one.
"""

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sandkeeper.archive.job import Clock
from sandkeeper.errors import Internal
from sandkeeper.linux.addresses import is_host
from sandkeeper.numerals import natural

if TYPE_CHECKING:
    import httpx

    from sandkeeper.archive.bundle import ByteSource

__all__ = ["Storage", "is_url"]

T = TypeVar("T")

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 60.0
READ_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
ANSWER_BYTES = 64 << 10
TRANSIENT = frozenset([408, 429, 500, 502, 503, 504])
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")


class _Transient(Exception):
    """A failure that may pass; the text says what happened."""


class _Failed(Exception):
    """A failure that will not pass."""


def is_url(text: str) -> bool:
    """Say whether it is a URL that can be asked: http or https, with a host."""
    if any(char <= " " or char == "\x7f" for char in text):
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and port != 0 and is_host(parts.hostname or "")


class Storage:
    """A client of the storage; `retries` further attempts follow a failure that may pass."""

    def __init__(self, clock: Clock, retries: int) -> None:
        import httpx  # only archives need it here

        self._clock = clock
        self._retries = retries
        timeout = httpx.Timeout(
            connect=CONNECT_SECONDS, write=WRITE_SECONDS, read=READ_SECONDS, pool=None
        )
        try:
            self._client = httpx.Client(timeout=timeout, follow_redirects=False)
        except OSError as error:
            text = f"the certificates of the system cannot be read: {error.strerror}"
            raise Internal(text) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def reach(self, urls: Iterable[str]) -> None:
        """Find the hosts of the URLs and connect to each; raises Internal, Stopped.

        Behind a proxy of the environment it is the proxy's to know them.
        """
        for host, port in dict.fromkeys(map(_address, urls)):
            if host:
                self._try("the upload", partial(_connect, host, port))

    def put(
        self,
        url: str,
        headers: Mapping[str, str],
        source: "ByteSource",
        start: int,
        length: int,
        sent: Callable[[int], None],
    ) -> str:
        """Send a range of `source`, from its start again after a failure; returns the ETag.

        `sent` gets how many bytes of the range are on their way. Raises Internal, Stopped.
        """

        done = 0

        def body() -> Iterator[bytes]:
            nonlocal done
            done = 0
            sent(done)
            for block in source.blocks(start, length, self._clock.check):
                yield block
                done += len(block)
                sent(done)

        def attempt() -> str:
            all_headers = {**headers, "Content-Length": str(length)}
            with self._answer("PUT", url, all_headers, body()) as reply:
                if done != length:  # it has closed its side, which httpx passes over
                    raise _Transient("the storage answered before it had everything")
                return str(reply.headers.get("etag", ""))

        return self._try("the upload", attempt)

    def post(self, url: str, data: bytes) -> None:
        """POST a small XML document; an error inside a 200 is one too. Raises Internal, Stopped."""

        def attempt() -> None:
            headers = {"Content-Type": "application/xml"}
            with self._answer("POST", url, headers, data) as reply:
                text = _beginning(reply)
                if b"<Error>" in text:
                    raise _Transient("the storage answered with an error" + _code(text))

        self._try("the completion of the upload", attempt)

    def delete(self, url: str) -> None:
        """DELETE; raises Internal, Stopped."""

        def attempt() -> None:
            with self._answer("DELETE", url, {}, None):
                return

        self._try("the removal of the upload", attempt)

    def download(self, url: str, sized: Callable[[int], None]) -> Iterator[bytes]:
        """Yield what is there; after a failure that may pass it goes on where it stopped.

        `sized` gets the length that the storage announces. Raises Internal, Stopped.
        """
        done, failures, tag, pause = 0, 0, "", FIRST_PAUSE
        while True:
            headers = {"Accept-Encoding": "identity"}
            if done:
                headers["Range"] = f"bytes={done}-"
                if tag:
                    headers["If-Match"] = tag
            try:
                with self._answer("GET", url, headers, None) as reply:
                    skip = 0 if done and reply.status_code == 206 else done
                    if not done:
                        tag = reply.headers.get("etag", "")
                        sized(natural(reply.headers.get("content-length", "")) or 0)
                    for block in reply.iter_raw():
                        self._clock.check()
                        fresh, skip = block[skip:], max(0, skip - len(block))
                        if fresh:
                            done, failures, pause = done + len(fresh), 0, FIRST_PAUSE
                            yield fresh
                    return
            except _Transient as error:
                failures += 1
                if failures > self._retries:
                    raise Internal(f"the download failed: {error}") from None
            except _Failed as error:
                raise Internal(f"the download failed: {error}") from None
            self._clock.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _try(self, what: str, attempt: Callable[[], T]) -> T:
        pause = FIRST_PAUSE
        for left in range(self._retries, -1, -1):
            self._clock.check()
            try:
                return attempt()
            except _Transient as error:
                if not left:
                    raise Internal(f"{what} failed: {error}") from None
            except _Failed as error:
                raise Internal(f"{what} failed: {error}") from None
            self._clock.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("unreachable")

    @contextmanager
    def _answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: "bytes | Iterator[bytes] | None",
    ) -> "Iterator[httpx.Response]":
        """Give the answer if it is a good one; raises _Transient or _Failed."""
        import httpx

        try:
            with self._client.stream(method, url, headers=dict(headers), content=content) as reply:
                if not reply.is_success:
                    _refuse(reply)
                yield reply
        except httpx.TimeoutException:
            raise _Transient("the storage did not answer in time") from None
        except httpx.ConnectError:
            raise _Transient("the storage cannot be reached") from None
        except httpx.TransportError:
            raise _Transient("the connection broke") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise _Failed("the URL or the answer cannot be used") from None


def _address(url: str) -> tuple[str, int]:
    """Return where a URL leads; no host where a proxy is asked."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    if ("all" in proxies or parts.scheme in proxies) and not proxy_bypass(host):
        return "", 0
    return host, parts.port or (443 if parts.scheme == "https" else 80)


def _connect(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except TimeoutError:
        raise _Transient("the storage did not answer in time") from None
    except socket.gaierror as error:
        kind = _Failed if error.errno == socket.EAI_NONAME else _Transient
        raise kind("the storage cannot be reached: its name is not known") from None
    except (OSError, UnicodeError):
        raise _Transient("the storage cannot be reached") from None


def _refuse(reply: "httpx.Response") -> None:
    text = f"the storage answered {reply.status_code}" + _code(_beginning(reply))
    raise (_Transient if reply.status_code in TRANSIENT else _Failed)(text)


def _beginning(reply: "httpx.Response") -> bytes:
    data = b""
    for block in reply.iter_raw():
        data += block
        if len(data) > ANSWER_BYTES:
            break
    return data[:ANSWER_BYTES]


def _code(text: bytes) -> str:
    """Return the storage's own word for an error, which names nothing secret."""
    found = _CODE.search(text)
    return f" ({found[1].decode()})" if found else ""
