"""Where egress goes and with which token: the operator's `{{file(/path)}}` templates."""

import asyncio
import base64
import os
import stat
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote, urlsplit

import msgspec

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.trusted import UntrustedFile, read_trusted
from sandkeeper.patterns import pattern

__all__ = ["PROXY_NAMES", "Template", "TokenFile", "Upstream", "find_templates", "upstream_of"]

PROXY_NAMES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
TOKEN_BYTES = 64 << 10
FRESH_SECONDS = 1.0
_DIRECTIVE = pattern(r"\{\{\s*file\((/[^(){}\x00-\x1f]*)\)\s*\}\}")
_PLACE = "sandkeeper-token-place"


class Template(msgspec.Struct, frozen=True):
    """One variable whose value names a token file exactly once."""

    name: str
    text: str
    file_path: str

    @classmethod
    def of(cls, name: str, text: str) -> "Template | None":
        """Return the template, or None for any other value or variable."""
        found = _DIRECTIVE.findall(text)
        return cls(name, text, found[0]) if name in PROXY_NAMES and len(found) == 1 else None

    def resolved(self, token: str) -> str:
        """Put the token in place of the directive, escaped as a URL needs it."""
        return _DIRECTIVE.sub(lambda _match: quote(token, safe=""), self.text)


class Upstream(msgspec.Struct, frozen=True):
    """The proxy that gets the token; `user` is None when the token itself is the user's name."""

    host: str
    port: int
    tls: bool
    user: str | None

    def authorization(self, token: str) -> str:
        """Return the value of Proxy-Authorization."""
        pair = f"{token}:" if self.user is None else f"{self.user}:{token}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


def find_templates(environment: Mapping[str, str]) -> list[Template]:
    """Return the templates among the proxy variables, in the contract's order."""
    found = (Template.of(name, environment.get(name, "")) for name in PROXY_NAMES)
    return [template for template in found if template is not None]


def upstream_of(template: Template) -> Upstream:
    """Read a template as the URL of a proxy; raises ValueError when it is none."""
    text = _DIRECTIVE.sub(_PLACE, template.text.strip())
    url = urlsplit(text if "://" in text else "http://" + text)
    if url.scheme not in {"http", "https"} or not url.hostname or _PLACE in (url.hostname or ""):
        raise ValueError(f"{template.name} is not the URL of a proxy")
    port = url.port or (443 if url.scheme == "https" else 80)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    if _PLACE in password:
        return Upstream(url.hostname, port, url.scheme == "https", user)
    if _PLACE in user:
        return Upstream(url.hostname, port, url.scheme == "https", None)
    raise ValueError(f"{template.name} has its token neither as user nor as password")


class TokenFile:
    """A token that others rotate: read again after a second, kept while the file is unusable."""

    def __init__(
        self,
        path: str,
        workload: Identity | None = None,
        refused: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """Build; what `workload` could have led us to is not read, and `refused` is told once."""
        self.path = path
        self._workload = workload
        self._refused = refused
        self._told = False
        self._token = ""
        self._read_at = -FRESH_SECONDS

    async def get(self, *, fresh: bool = False) -> str:
        """Return the token, empty when there never was one; `fresh` reads it in any case."""
        if fresh or time.monotonic() - self._read_at >= FRESH_SECONDS:
            token = await asyncio.to_thread(self._read)
            self._read_at = time.monotonic()
            self._token = token or self._token
        return self._token

    def _read(self) -> str:
        try:
            if self._workload is None:
                return _read(self.path)
            data = read_trusted(self.path, TOKEN_BYTES, workload=self._workload, only=True)
            return data.decode("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        except UntrustedFile as error:
            if not self._told:
                self._told = True
                self._refused(f"the token in {self.path} is not used: {error}")
            return ""


def _read(path: str) -> str:
    # A FIFO in its place must not hold a thread.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, TOKEN_BYTES).decode("utf-8").strip()
    finally:
        os.close(fd)
