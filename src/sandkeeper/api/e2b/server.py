"""What answers on E2B's wire: who asks, which call it is, and every failure in E2B's words."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandkeeper.api.e2b import connect
from sandkeeper.api.e2b.files import FileCalls, Unacceptable
from sandkeeper.api.e2b.filesystem import FilesystemService
from sandkeeper.api.e2b.people import People
from sandkeeper.api.e2b.process import ProcessService
from sandkeeper.api.e2b.sentences import sentence
from sandkeeper.api.e2b.signatures import BadSignature, operation_of, standing_by_signature
from sandkeeper.api.e2b.system import SystemCalls
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import plain_json, status_of, utf8
from sandkeeper.api.edge.rights import Right, standing_of
from sandkeeper.errors import SandkeeperError, Unprocessable
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.users import UnknownUser, Users
from sandkeeper.settings import RightsSettings

__all__ = ["E2bServer"]

Handler = Callable[[Request], Awaitable[Response]]
PROCESS, FILESYSTEM = "/process.Process/", "/filesystem.Filesystem/"


class E2bServer:
    """The table of calls; `away` says why a sandbox of an id is not here, empty when it is."""

    def __init__(
        self,
        *,
        process: ProcessService,
        filesystem: FilesystemService,
        files: FileCalls,
        system: SystemCalls,
        people: People,
        users: Users,
        rights: RightsSettings,
        away: Callable[[str], Awaitable[str]],
    ) -> None:
        self._away = away
        self._people = people
        self._users = users
        self._rights = rights
        self._unary: Mapping[str, Handler] = {
            PROCESS + "List": process.list,
            PROCESS + "Update": process.update,
            PROCESS + "SendInput": process.send_input,
            PROCESS + "SendSignal": process.send_signal,
            PROCESS + "CloseStdin": process.close_stdin,
            FILESYSTEM + "Stat": filesystem.stat,
            FILESYSTEM + "ListDir": filesystem.list_dir,
            FILESYSTEM + "MakeDir": filesystem.make_dir,
            FILESYSTEM + "Move": filesystem.move,
            FILESYSTEM + "Remove": filesystem.remove,
            FILESYSTEM + "CreateWatcher": filesystem.create_watcher,
            FILESYSTEM + "GetWatcherEvents": filesystem.get_watcher_events,
            FILESYSTEM + "RemoveWatcher": filesystem.remove_watcher,
        }
        self._streams: Mapping[str, Handler] = {
            PROCESS + "Start": process.start,
            PROCESS + "Connect": process.connect,
            PROCESS + "StreamInput": process.stream_input,
            FILESYSTEM + "WatchDir": filesystem.watch_dir,
        }
        self._plain: Mapping[tuple[str, str], Handler] = {
            ("GET", "/files"): files.read,
            ("POST", "/files"): files.write,
            ("POST", "/files/compose"): files.compose,
            ("GET", "/envs"): system.envs,
            ("POST", "/init"): system.init,
            ("GET", "/e2b/metrics"): system.metrics,
        }

    async def answer(self, request: Request) -> Response:
        """Answer a request of one of the routes."""
        path = request.url.path
        if why := await self._away(request.headers.get("e2b-sandbox-id", "")):
            return _failed(502, f"The sandbox {why}")
        if path == "/e2b/health":
            return Response(None, 204)
        try:
            self._check_right(request)
        except BadSignature as error:
            return _failed(401, str(error))
        if path in self._unary:
            return await self._call(request, self._unary[path])
        if path in self._streams:
            return await self._stream(request, self._streams[path])
        return await self._http(request, self._plain[request.method, path])

    def _check_right(self, request: Request) -> None:
        """Raise BadSignature unless a token, or the signature of one file, opens this."""
        if request.url.path == "/files":
            operation = operation_of(request.method)
            signed = standing_by_signature(self._rights, query_of(request), operation)
            if signed is not None:
                signed.into(request.scope)
        if standing_of(request).right < Right.USER:
            raise BadSignature("missing or wrong token: send it as X-Access-Token")

    async def _call(self, request: Request, handler: Handler) -> Response:
        refusal = connect.unsupported(request, connect.UNARY_TYPE)
        if refusal is not None:
            return refusal
        try:
            seconds = connect.deadline_of(request)
            return await connect.within(seconds, self._as_user(request, handler))
        except Exception as error:  # noqa: BLE001 - `failure_of` raises what is none of a call's
            return connect.refused(connect.failure_of(error))

    async def _stream(self, request: Request, handler: Handler) -> Response:
        refusal = connect.unsupported(request, connect.STREAM_TYPE)
        if refusal is not None:
            return refusal
        try:
            return await self._as_user(request, handler)
        except Exception as error:  # noqa: BLE001 - as above
            return connect.failed_stream(connect.failure_of(error))

    async def _http(self, request: Request, handler: Handler) -> Response:
        try:
            return await self._as_user(request, handler)
        except Unacceptable as error:
            return _failed(406, str(error))
        except UnknownUser as error:
            return _failed(401, str(error))
        except Unprocessable as error:
            return _failed(400, sentence(error))
        except SandkeeperError as error:
            return _failed(status_of(error), sentence(error))

    async def _as_user(self, request: Request, handler: Handler) -> Response:
        """Have a call, and the sending of its answer, be done as the user that it names."""
        person = self._people.of(request, query_of(request).get("username", ""))
        with self._users.acting_as(person.identity):
            response = await handler(request)
        return _Sent(response, self._users, person.identity)


class _Sent(Response):
    """An answer that is made while it is sent, by work of a user's."""

    def __init__(self, inner: Response, users: Users, identity: Identity | None) -> None:
        super().__init__()
        self._inner = inner
        self._users = users
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._users.acting_as(self._identity):
            await self._inner(scope, receive, send)


def _failed(status: int, message: str) -> Response:
    return plain_json({"code": status, "message": utf8(message)}, status)
