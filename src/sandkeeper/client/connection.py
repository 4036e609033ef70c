"""One server of the API: its address, the token, and how to ask it something.

On the standard library's HTTP client: a command lives for a tenth of a second, half of which any
larger one would need to be imported.
"""

import json
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack
from urllib.parse import quote, urlencode, urlsplit

from sandkeeper.client.failures import ClientError, NoServer, NotAllowed, Refused

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

__all__ = [
    "DEFAULT_URL",
    "Body",
    "FilePart",
    "Query",
    "Reply",
    "Server",
    "segment",
]

DEFAULT_URL = "http://localhost:8080"
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 1.0
ANSWER_SECONDS = 300.0
SILENCE_SECONDS = 90.0
"""A live stream says something at least every 30 s; after three times that the line is dead."""
ERROR_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
SWITCHED = 101
UNAUTHORIZED = 401
VALUE_BYTES = 512 << 20
"""More is no answer that anything here asks for in one piece."""
LINE_BYTES = 64 << 20
FRAME_BYTES = 64 << 20

SENT_BYTES = 4 << 20


class FilePart:
    """A part of a file as a request's body, which the kernel sends where the line is bare.

    `moved` is told of what went into it.
    """

    def __init__(
        self, file: BinaryIO, offset: int, length: int, moved: Callable[[int], None]
    ) -> None:
        self._file = file
        self._offset = offset
        self.length = length
        self._moved = moved

    def send(self, sock: socket.socket) -> None:
        """Send it all, or until an answer comes; raises OSError, ClientError for a cut file."""
        left, at = self.length, self._offset
        while left and not _is_answered(sock):
            if isinstance(sock, ssl.SSLSocket):
                self._file.seek(at)
                block = self._file.read(min(SENT_BYTES, left))
                sock.sendall(block)
                count = len(block)
            else:
                count = sock.sendfile(self._file, at, min(SENT_BYTES, left))
            if not count:
                raise ClientError(f"{self._file.name}: it was cut while it was read")
            left, at = left - count, at + count
            self._moved(count)


def _is_answered(sock: socket.socket) -> bool:
    """Say whether a server that refuses an upload has said so; within TLS nobody can tell."""
    if isinstance(sock, ssl.SSLSocket):
        return False
    return bool(select.select([sock], [], [], 0)[0])


Body = bytes | Iterable[bytes] | FilePart | None
Query = Mapping[str, str | int | None]


class Asked(TypedDict, total=False):
    """What a request may have besides; for `seconds` nothing of its answer may come."""

    query: Query | None
    headers: Mapping[str, str] | None
    seconds: float


class Reply:
    """An answer while it comes; reading raises NoServer when it breaks off or nothing comes."""

    def __init__(
        self,
        answer: HTTPResponse,
        told: Callable[[], AbstractContextManager[None]],
        sock: socket.socket,
    ) -> None:
        self._answer = answer
        self._told = told
        self._sock = sock
        self.code = answer.status

    def taken(self) -> tuple[socket.socket, bytes]:
        """Give the connection away, and what was read of it behind the answer's head."""
        self._sock.setblocking(False)  # `peek` gives what is here, and waits for no more
        ahead = self._answer.fp.peek(BLOCK_BYTES)
        sock = self._sock.dup()
        sock.setblocking(False)
        return sock, ahead

    def header(self, name: str) -> str:
        """Return a field's value, empty when there is none."""
        return self._answer.getheader(name) or ""

    def read(self, most: int | None = None) -> bytes:
        """Return all that is left, or the next bytes, at most so many; empty at the end.

        Raises NoServer for one without an end, too.
        """
        with self._told():
            raw = self._answer.read(VALUE_BYTES + 1 if most is None else most)
        if most is None and self._answer.length and len(raw) <= VALUE_BYTES:
            raise NoServer("the answer breaks off")  # `read` with a bound does not mind
        if most is None and len(raw) > VALUE_BYTES:
            raise NoServer(f"the answer is longer than {VALUE_BYTES >> 20} MiB")
        return raw

    def blocks(self) -> Iterator[bytes]:
        """Give the bytes as they come."""
        while block := self._read1():
            yield block
        if self._answer.length:  # what was announced and did not come: `read1` does not mind
            raise NoServer("the answer breaks off")

    def _read1(self) -> bytes:
        with self._told():
            return self._answer.read1(BLOCK_BYTES)

    def lines(self) -> Iterator[bytes]:
        """Give whole lines as they come, without their ends."""
        begun: list[bytes] = []
        count = 0
        for block in self.blocks():
            first, *more = block.split(b"\n")
            begun.append(first)
            count += len(first)
            if count > LINE_BYTES:
                raise NoServer(f"a line of the answer is longer than {LINE_BYTES >> 20} MiB")
            if more:
                yield b"".join(begun)
                yield from more[:-1]
                begun = [more[-1]]
                count = len(more[-1])
        if count:
            yield b"".join(begun)


def segment(text: str) -> str:
    """Write a name so that it is one part of a path; bytes that are no UTF-8 stay themselves."""
    if text in {"", ".", ".."}:
        raise ClientError(f"{text!r} is no name")
    return quote(text.encode("utf-8", "surrogateescape"), safe="")


class Server:
    """A server at `url` (http or https, a path prefix allowed), with or without a token."""

    def __init__(self, url: str, token: str = "") -> None:
        """Raises ClientError when the address is none, or the token cannot be sent."""
        no_address = f"{url!r} is no address of a server: "
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ClientError(no_address + "it has characters that no address has")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
        except ValueError as error:
            raise ClientError(no_address + str(error).lower()) from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ClientError(no_address + "give http://HOST:PORT")
        try:
            self._port = parts.port
        except ValueError:
            raise ClientError(no_address + "its port is no port") from None
        if not token.isascii() or not token.isprintable():
            raise ClientError("the token has characters that no token has")
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.url = self._origin + self._prefix

    @property
    def is_secure(self) -> bool:
        """Whether the line is TLS, which knows no end of one direction."""
        return self._secure

    @property
    def headers(self) -> dict[str, str]:
        """Return the fields that open the API."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def address(self, path: str, query: Query | None = None) -> str:
        """Return a path and its query as the request line has them; None leaves a value out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._prefix + path + (f"?{urlencode(given)}" if given else "")

    def ask(
        self,
        method: str,
        path: str,
        body: Body = None,
        **given: Unpack[Asked],
    ) -> bytes:
        """Send a request and return the body of its answer, in `ANSWER_SECONDS` unless given.

        Raises Refused, NotAllowed or NoServer.
        """
        given.setdefault("seconds", ANSWER_SECONDS)
        with self.open(method, path, body, **given) as answer:
            return answer.read()

    def value(
        self,
        method: str,
        path: str,
        payload: Any = None,
        **given: Unpack[Asked],
    ) -> Any:
        """Send JSON (or nothing) and return the decoded answer; raises as `ask`."""
        try:
            body = None if payload is None else json.dumps(payload, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ClientError("words that are no text (UTF-8) cannot be sent here") from None
        raw = self.ask(method, path, body, **given)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise NoServer(f"what answers at {self.url} is no server of this API") from None

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        opened: Callable[[HTTPConnection], None] | None = None,
        switches: bool = False,
        **given: Unpack[Asked],
    ) -> Iterator["Reply"]:
        """Send a request and give its answer to be read.

        `opened` gets the connection, for whoever may have to cut it from another thread. With
        `switches` 101 is an answer, too.

        Raises as `ask`; an answer that breaks off raises NoServer, also out of the block. Each
        request has a connection of its own: of one that a server closed while it rested nobody
        knows whether the request was done.
        """
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_SECONDS)
        fields = {"Accept": "*/*", "User-Agent": "sandkeeper", **self.headers}
        fields |= given.get("headers") or {}
        with ExitStack() as ends:
            ends.callback(connection.close)
            with self._told():
                connection.connect()
                if opened is not None:
                    opened(connection)
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sock.settimeout(given.get("seconds", SILENCE_SECONDS))
                # A server that refuses an upload answers before it has all of it.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._send(
                        connection, method, self.address(path, given.get("query")), body, fields
                    )
                sock = connection.sock
                # An answer that is its connection's last keeps the socket when that is closed.
                answer = Reply(ends.enter_context(connection.getresponse()), self._told, sock)
            if not 200 <= answer.code < 300 and not (switches and answer.code == SWITCHED):
                raise self._failure(answer)
            yield answer

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: Body,
        fields: dict[str, str],
    ) -> None:
        if not isinstance(body, FilePart):
            connection.request(method, target, body, fields)
            return
        connection.request(method, target, None, {**fields, "Content-Length": str(body.length)})
        body.send(connection.sock)

    def tcp(self, path: str) -> tuple[socket.socket, bytes]:
        """Have a connection become a bare one (`Upgrade: tcp`); returns what came behind the 101.

        Raises as `ask`; NoServer with a code where something in between knows no such upgrade.
        """
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        with self.open("GET", path, headers=headers, seconds=CONNECT_SECONDS, switches=True) as one:
            if one.code != SWITCHED:
                raise NoServer(f"{self.url}: the connection stays what it is", one.code)
            return one.taken()

    def socket(self, path: str, query: Query) -> "ClientConnection":
        """Open a WebSocket; raises NoServer, or NotAllowed."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        try:
            return connect(
                self.socket_address(path, query),
                additional_headers=self.headers,
                max_size=FRAME_BYTES,
                close_timeout=CLOSE_SECONDS,
                compression=None,
                proxy=None,
                open_timeout=CONNECT_SECONDS,
            )
        except (OSError, WebSocketException, UnicodeError) as error:
            raise self.unopened(error) from None

    def unopened(self, error: Exception) -> ClientError:
        """Return what the failure to open a WebSocket means: NotAllowed, or NoServer."""
        from websockets.exceptions import InvalidStatus

        if not isinstance(error, InvalidStatus):
            return NoServer(f"{self.url}: {_why(error)}")
        code = error.response.status_code
        if code in {401, 403}:
            return NotAllowed(f"{self.url} does not allow it")
        return NoServer(f"{self.url}: answers with status {code}", code)

    def socket_address(self, path: str, query: Query | None = None) -> str:
        """Return the address of a WebSocket."""
        scheme, _, rest = self._origin.partition("://")
        return f"{scheme.replace('http', 'ws')}://{rest}{self.address(path, query)}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException, UnicodeError) as error:
            raise NoServer(f"{self.url}: {_why(error)}") from error

    def _failure(self, answer: "Reply") -> ClientError:
        raw = answer.read(ERROR_BYTES)
        try:
            details = json.loads(raw)
        except (ValueError, RecursionError):
            details = None
        said = details.get("error") if isinstance(details, dict) else None
        if answer.code in {UNAUTHORIZED, 403}:
            asks = answer.code == UNAUTHORIZED and not self._token
            advice = ": give --token or SANDKEEPER_TOKEN" if asks else ""
            return NotAllowed(f"{self.url} does not allow it: {said or 'no token'}{advice}")
        if said is None:
            return NoServer(
                f"what answers at {self.url} is no server of this API (status {answer.code})",
                answer.code,
            )
        return Refused(str(said), answer.code, details)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (--url or SANDKEEPER_URL names another server)"
    if isinstance(error, (socket.gaierror, UnicodeError)):  # the latter: a part that is too long
        return "there is no host of that name"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "what answers there does not speak TLS as it should (is it http:// there?)"
    if isinstance(error, OSError):
        return str(error.strerror or error).lower()
    return "the answer breaks off" if str(error) else type(error).__name__
