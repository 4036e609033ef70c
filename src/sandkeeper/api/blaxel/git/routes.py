"""Repositories: look, change, exchange with remotes; what runs, and its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.git.streams import events
from sandkeeper.api.edge.long_answers import LongAnswer
from sandkeeper.api.edge.query import Query, query_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import encode_json, json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import Handler, route
from sandkeeper.api.edge.streaming import (
    SSE,
    StreamResponse,
    stream_type,
    until_disconnect,
    wants_stream,
)
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.errors import BadInput
from sandkeeper.git import fields
from sandkeeper.git.addresses import Credential
from sandkeeper.git.progress import Progress
from sandkeeper.git.service import DEFAULT_USER, Git, Work
from sandkeeper.journal.turns import Turns
from sandkeeper.log.access import Access
from sandkeeper.numerals import decimal, whole

__all__ = ["GitHandlers", "routes"]

T = TypeVar("T", bound=fields.PlaceFields)
PATCH = "text/x-diff"
BLOCK_BYTES = 64 << 10


class GitHandlers:
    """Handlers of `/git`."""

    def __init__(
        self, *, git: Git, access: Access, turns: Turns, stopping: asyncio.Event, body_limit: int
    ) -> None:
        self._git = git
        self._access = access
        self._turns = turns
        self._stopping = stopping
        self._body_limit = body_limit

    # Looking

    async def status(self, request: Request) -> Response:
        """Tell what has changed."""
        return await self._answer(request, self._git.status(_queried(request, fields.StatusFields)))

    async def diff(self, request: Request) -> Response:
        """Compare: files and the patch's beginning, or with `Accept: text/x-diff` all of it."""
        wanted = _queried(request, fields.DiffFields)
        work = self._git.diff(wanted)
        if PATCH not in request.headers.get("accept", ""):
            return await self._answer(request, work)
        pieces = self._git.patch(wanted)
        # What is wrong shows before the first piece, and is answered as an error.
        try:
            first = await until_disconnect(request, anext(pieces, b""), self._stopping)
        except BaseException:
            await pieces.aclose()
            raise
        return StreamResponse(_from(first, pieces), PATCH)

    async def history(self, request: Request) -> Response:
        """Tell commits."""
        return await self._answer(
            request, self._git.history(_queried(request, fields.HistoryFields))
        )

    async def branches(self, request: Request) -> Response:
        """Tell branches."""
        return await self._answer(
            request, self._git.branches(_queried(request, fields.PlaceFields))
        )

    # Changing

    async def add(self, request: Request) -> Response:
        """Put files into the index."""
        return await self._change(request, "git_add", fields.AddFields, self._git.add)

    async def commit(self, request: Request) -> Response:
        """Make a commit."""
        return await self._change(request, "git_commit", fields.CommitFields, self._git.commit)

    async def branch(self, request: Request) -> Response:
        """Make a branch."""
        return await self._change(request, "git_branch", fields.BranchFields, self._git.branch)

    async def remove_branch(self, request: Request) -> Response:
        """Delete a branch."""
        wanted = _queried(request, fields.BranchFields)
        work = self._git.remove_branch(wanted)
        self._access.audit(
            "git_branch_delete", caller(request), path=wanted.path, branch=wanted.name
        )
        return await self._answer(request, work)

    async def checkout(self, request: Request) -> Response:
        """Change the working tree."""
        return await self._change(
            request, "git_checkout", fields.CheckoutFields, self._git.checkout
        )

    async def abort(self, request: Request) -> Response:
        """Give up what was begun."""
        return await self._change(request, "git_abort", fields.PlaceFields, self._git.abort)

    # Remotes

    async def clone(self, request: Request) -> Response:
        """Make a repository of another."""
        credential = _credential(request)
        return await self._change(
            request,
            "git_clone",
            fields.CloneFields,
            lambda wanted: self._git.clone(wanted, credential),
        )

    async def fetch(self, request: Request) -> Response:
        """Bring what a remote has."""
        credential = _credential(request)
        return await self._change(
            request,
            "git_fetch",
            fields.FetchFields,
            lambda wanted: self._git.fetch(wanted, credential),
        )

    async def pull(self, request: Request) -> Response:
        """Fetch and merge."""
        credential = _credential(request)
        return await self._change(
            request,
            "git_pull",
            fields.PullFields,
            lambda wanted: self._git.pull(wanted, credential),
        )

    async def push(self, request: Request) -> Response:
        """Send."""
        credential = _credential(request)
        return await self._change(
            request,
            "git_push",
            fields.PushFields,
            lambda wanted: self._git.push(wanted, credential),
        )

    # What runs

    async def operations(self, _request: Request) -> Response:
        """Tell what git is doing."""
        return json_response({"operations": self._git.operations.running()})

    async def cancel(self, request: Request) -> Response:
        """End an operation."""
        number = segment(request.scope, 2)
        self._access.audit("git_cancel", caller(request), identifier=number)
        self._git.operations.cancel(number)
        return json_response({"message": "Git operation cancelled successfully"})

    async def _change(
        self,
        request: Request,
        action: str,
        model: type[T],
        prepare: Callable[[T], Work[msgspec.Struct]],
    ) -> Response:
        wanted = await read_json(request, model, self._body_limit)
        work = prepare(wanted)
        told = {"url": wanted.url} if isinstance(wanted, fields.CloneFields) else {}
        self._access.audit(action, caller(request), path=wanted.path, **told)
        return await self._answer(request, work)

    async def _answer(self, request: Request, work: Work[msgspec.Struct]) -> Response:
        accept = request.headers.get("accept", "")
        if wants_stream(accept.encode("latin-1")):
            kind = stream_type(accept)
            return StreamResponse(events(work, self._stopping, sse=kind == SSE), kind)
        result = await until_disconnect(request, work(Progress()), self._stopping)
        if not _is_long(result):
            return json_response(result)
        data = await asyncio.to_thread(encode_json, result)
        starts = range(0, len(data), BLOCK_BYTES)
        return LongAnswer([data[start : start + BLOCK_BYTES] for start in starts], self._turns)


def _is_long(result: msgspec.Struct) -> bool:
    """Say whether a result may take some milliseconds to write."""
    lists = (getattr(result, name, ()) for name in ("files", "commits", "branches"))
    return any(len(one) > 100 for one in lists) or len(getattr(result, "patch", "")) > BLOCK_BYTES


async def _from(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _credential(request: Request) -> Credential | None:
    """Return who logs in at the remote, as the head of the request says; raises BadInput."""
    headers = dict(request.scope["headers"])
    password = headers.get(b"x-git-password", b"")
    username = headers.get(b"x-git-username", b"")
    if not password:
        if username:
            raise BadInput("X-Git-Username needs X-Git-Password")
        return None
    return Credential(username or DEFAULT_USER.encode(), password)


_LISTS = ("paths", "paths_base64")


def _queried(request: Request, model: type[T]) -> T:
    """Read what is wanted from the query: names as in bodies, lists by repeating the name.

    Raises BadInput for what is no number or no flag.
    """
    query = query_of(request)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(model):
        name = field.encode_name
        if field.name in _LISTS:
            values[field.name] = query.getlist(name)
        elif name in query:
            values[field.name] = _value(query, name, field.default)
    return model(**values)


def _value(query: Query, name: str, default: Any) -> Any:
    text = query[name]
    if default is None:  # the one that has no default is the time
        seconds = decimal(text)
        if seconds is None:
            raise BadInput(f"invalid {name}: {text[:64]!r} is not a number")
        return seconds
    if isinstance(default, bool):
        return query.flag(name, default)
    return whole(name, text) if isinstance(default, int) else text


def routes(handlers: GitHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    looks: dict[str, Handler] = {
        "status": handlers.status,
        "diff": handlers.diff,
        "log": handlers.history,
        "branch": handlers.branches,
        "operations": handlers.operations,
    }
    changes: dict[str, Handler] = {
        "clone": handlers.clone,
        "add": handlers.add,
        "commit": handlers.commit,
        "branch": handlers.branch,
        "checkout": handlers.checkout,
        "fetch": handlers.fetch,
        "pull": handlers.pull,
        "push": handlers.push,
        "abort": handlers.abort,
    }
    return [
        *(route(f"/git/{name}", handler, need=USER) for name, handler in looks.items()),
        *(route(f"/git/{name}", handler, "POST", need=USER) for name, handler in changes.items()),
        route("/git/branch", handlers.remove_branch, "DELETE", need=USER),
        route("/git/operations/{id}", handlers.cancel, "DELETE", need=USER),
    ]
