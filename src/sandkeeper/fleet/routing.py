"""From the name or the fields of a request to the Pod of its sandbox.

`https://3000-ID.DOMAIN/` and `E2b-Sandbox-Id` with `E2b-Sandbox-Port` both name a sandbox and a
port. All of it goes to the one port of the server in the Pod, as it came: that server knows both
spellings, and reaches what listens on loopback alone. The token of a sandbox, which this program
has given out, is exchanged for the one that the server there asks for. No client has that one: who
sends it, or what was signed with it, has it from another sandbox, and it goes no further. Neither
do API keys, which programs in a sandbox have no business with.

Every request says which sandbox is meant (`api.port.meant`): what is known of a Pod's address may
be old, and the server of another one has the same token.
"""

import hmac
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sandkeeper.api.control.source import PAUSED
from sandkeeper.api.e2b.signatures import BadSignature, operation_of, standing_by_signature
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import plain_json
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.tokens import TOKEN, offers, sift
from sandkeeper.api.edge.urls import PORT_NAME, raw_path
from sandkeeper.api.port.answers import Addressee
from sandkeeper.api.port.door import Door
from sandkeeper.api.port.forwarding import Forwarding, PortTarget
from sandkeeper.api.port.meant import MEANT, MISDIRECTED
from sandkeeper.api.port.proxy import head_of, pass_on
from sandkeeper.api.port.socket import wanted_upgrade
from sandkeeper.errors import BadInput, LoopDetected, SandkeeperError
from sandkeeper.fleet.keys import Keys
from sandkeeper.fleet.objects import ClaimRecord
from sandkeeper.fleet.source import Fleet
from sandkeeper.network.dialing import dial
from sandkeeper.network.hops import MAX_HOPS, Hops
from sandkeeper.network.relay import Relay
from sandkeeper.network.upstream import Headers
from sandkeeper.numerals import natural
from sandkeeper.settings import RightsSettings
from sandkeeper.settings.port_names import E2B_PORT, PortName
from sandkeeper.tracecontext import CURRENT

__all__ = ["Routing", "check", "leads", "mark"]

FIELD = b"e2b-sandbox-id"
PORT_FIELD = b"e2b-sandbox-port"
SAID_ONCE = frozenset({b"host", FIELD, PORT_FIELD})
SANDBOX = "sandkeeper.sandbox"
POD_TOKEN = b"x-access-token"
PLACE = frozenset({b"traceparent", b"tracestate"})
SIGNED = frozenset({b"signature", b"signature_expiration"})


def leads(fields: list[tuple[bytes, bytes]], _own_port: int) -> bool:
    """Say whether a request shows by a field that it is for a sandbox."""
    return any(name == FIELD for name, _ in fields)


def mark(scope: Scope) -> None:
    """Note which sandbox a request is for, and which port of it; nothing for all others.

    Its name comes first: who is called by one cannot be led elsewhere by a field.
    """
    name: PortName | None = scope.get(PORT_NAME)
    if name is not None:
        scope[SANDBOX] = name.host.partition("-")[2].partition(".")[0]
        return
    fields = {key: value for key, value in scope["headers"] if key in {FIELD, PORT_FIELD}}
    if FIELD in fields:
        port = _port(fields[PORT_FIELD]) if PORT_FIELD in fields else E2B_PORT
        scope[SANDBOX] = fields[FIELD].decode("latin-1").strip()
        scope[PORT_NAME] = PortName(port, scope[SANDBOX], "", is_open=False)


def _port(value: bytes) -> int:
    """Return the number of a port; 0 for what is none, which `check` refuses."""
    port = natural(value.strip(), 1 << 16) or 0
    return port if port < 1 << 16 else 0


def check(scope: Scope) -> None:
    """Raise BadInput for a request that names two sandboxes or no port that there is.

    Whoever stands before us, and lets pass by the one, would have it led to the other.
    """
    names = [name for name, _ in scope["headers"] if name in SAID_ONCE]
    if len(names) != len(set(names)):
        raise BadInput("two Host, E2b-Sandbox-Id or E2b-Sandbox-Port fields")
    if not scope[PORT_NAME].port:
        raise BadInput("E2b-Sandbox-Port is no number from 1 to 65535")


class _Credentials:
    """What `Forwarding` asks of a server's doors, for one sandbox: its token stays here.

    So does what `stays` is true for.
    """

    restricted = False

    def __init__(self, token: str, stays: Callable[[bytes], bool]) -> None:
        self.texts: tuple[str, ...] = (token,) if token else ()
        self._token = token.encode()
        self._stays = stays

    def is_shown(self, scope: Scope) -> bool:
        """Say whether a request has the sandbox's token."""
        return any(self._is_it(one) for one in offers(scope))

    def _is_it(self, value: bytes) -> bool:
        return bool(self._token) and hmac.compare_digest(self._token, value)

    def is_page(self, _door: Door) -> bool:
        """Pages below a path are the other server's matter."""
        return False

    def without_credentials(self, scope: Scope, _door: Door) -> tuple[Headers, bytes]:
        """Return fields and query of a request as the Pod may see them."""

        def stays(kind: str, value: bytes) -> bool:
            return kind == TOKEN and (self._is_it(value) or self._stays(value))

        return sift(scope, stays)


class Routing:
    """Answers every request for a sandbox; event loop's thread only."""

    def __init__(self, fleet: Fleet, keys: Keys, relay: Relay, gateways: Gateways) -> None:
        self._fleet = fleet
        self._keys = keys
        self._relay = relay
        self._gateways = gateways
        self._hops = Hops()
        self._token = fleet.settings.rights.token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on to its Pod, and the answer back."""
        name: str = scope[SANDBOX]
        try:
            record = await self._fleet.find(name)
            if why := _away(record):
                self._fleet.figures.unroutable += 1
                await _failed(name, f"The sandbox {why}")(scope, receive, send)
                return
            assert record is not None
            await self._pass(scope, receive, send, record)
        except LoopDetected:
            raise
        except SandkeeperError as error:
            self._fleet.figures.unroutable += 1
            await _failed(name, str(error))(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, record: ClaimRecord) -> None:
        if self._hops.count(scope["headers"]) >= MAX_HOPS:
            raise LoopDetected(f"this request has passed {MAX_HOPS} servers of this kind already")
        door = Door.of(scope)
        assert door is not None
        upgrade = wanted_upgrade(scope)
        target, headers = self._led(scope, record, door)
        head = head_of(scope, target, headers, upgrade)
        connected = await dial(record.address, self._fleet.settings.pod_port)
        if connected is None:
            await _failed(record.id, "The sandbox does not answer")(scope, receive, send)
            return
        self._fleet.figures.routed += 1
        called = target.called.partition(b":")[0].lower()
        audience = Addressee(host=called or b"-", is_whole=True)

        async def watched(message: Message) -> None:
            if message.get("status") == MISDIRECTED:
                self._fleet.doubt(record)
            await send(message)

        await pass_on(
            *(scope, receive, watched, connected, head, audience, self._relay),
            upgrade=bool(upgrade),
        )

    def _led(self, scope: Scope, record: ClaimRecord, door: Door) -> tuple[PortTarget, Headers]:
        """Return where in the Pod a request goes, and with which fields."""
        token = self._fleet.token_of(record.id)
        credentials = _Credentials(token, self._stays)
        _, query = credentials.without_credentials(scope, door)
        is_signed = door.port == E2B_PORT and _is_signed(scope, token)
        if is_signed or _is_signed(scope, self._token):
            query = _without_signature(query)
        host = next((value for key, value in scope["headers"] if key == b"host"), b"")
        if is_signed or not host:
            host = record.host.encode()
        target = PortTarget(door.port, raw_path(scope), query, host)
        headers = Forwarding(credentials, self._gateways, self._hops).headers(scope, target)
        headers.append((MEANT, record.backing.encode()))
        headers = _in_trace(headers)
        if is_signed:  # it opens a file of the server there, not what a name or a field leads to
            headers = [field for field in headers if field[0] != PORT_FIELD]
        if self._token and (is_signed or credentials.is_shown(scope)):
            headers.append((POD_TOKEN, self._token.encode()))
        return target, headers

    def _stays(self, value: bytes) -> bool:
        """Say whether a token is none that a sandbox may see: the servers', or an API key."""
        is_theirs = bool(self._token) and hmac.compare_digest(self._token.encode(), value)
        return is_theirs or self._keys.team_of([value]) is not None


def _in_trace(headers: Headers) -> Headers:
    """Return fields as they are below our own span, where this request has one that is recorded."""
    trace = CURRENT.get()
    if trace is None or not trace.own:
        return headers
    ours = [(name.lower().encode(), value.encode()) for name, value in trace.variables().items()]
    return [field for field in headers if field[0] not in PLACE] + ours


def _is_signed(scope: Scope, token: str) -> bool:
    """Say whether a request for a file was signed with a token."""
    if scope["path"] != "/files":
        return False
    rights, operation = RightsSettings(token=token), operation_of(scope["method"])
    try:
        return standing_by_signature(rights, query_of(scope), operation) is not None
    except BadSignature:
        return False


def _without_signature(query: bytes) -> bytes:
    pairs = query.split(b"&")
    return b"&".join(one for one in pairs if unquote_to_bytes(one.partition(b"=")[0]) not in SIGNED)


def _away(record: ClaimRecord | None) -> str:
    if record is None or not record.is_there:
        return "was not found"
    if record.state == PAUSED:
        return "is paused"
    return "" if record.address else "has no Pod at present"


def _failed(name: str, why: str) -> Response:
    """Answer as E2B's proxy does."""
    body = {"sandboxId": name[:64], "message": why, "code": 502}
    return plain_json(body, 502)
