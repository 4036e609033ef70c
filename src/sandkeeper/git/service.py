"""Git: what can be asked of it, checked first, then done as one bounded operation."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from sandkeeper.errors import BadInput
from sandkeeper.files.service import Files
from sandkeeper.git import changing, fields, looking, records, remotes
from sandkeeper.git.addresses import Credential, folder_name
from sandkeeper.git.operations import Operation, Operations
from sandkeeper.git.progress import Progress
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.users import Users
from sandkeeper.settings import Environment

__all__ = ["Git", "Work"]

T = TypeVar("T")
Work = Callable[[Progress], Awaitable[T]]
"""Something that is checked and not yet begun; it tells its progress."""

LOCAL_SECONDS = 60.0
REMOTE_SECONDS = 600.0
SECONDS_MOST = 86400.0
PIECES_AHEAD = 2
DEFAULT_USER = "git"


class Git:
    """Each method checks what is wanted (raises BadInput) and returns the work."""

    def __init__(
        self, children: Children, files: Files, users: Users, environment: Environment
    ) -> None:
        self.operations = Operations(children, files, users, environment)
        self._files = files
        self._users = users
        self._environment = environment

    # Looking

    def status(self, wanted: fields.StatusFields) -> Work[records.Status]:
        """Tell what has changed."""
        return self._work("status", wanted, lambda do: looking.status(do, wanted, self._files))

    def diff(self, wanted: fields.DiffFields) -> Work[records.Diff]:
        """Compare."""
        looking.check_diff(wanted)
        return self._work("diff", wanted, lambda do: looking.diff(do, wanted))

    async def patch(self, wanted: fields.DiffFields) -> AsyncGenerator[bytes, None]:
        """Yield a comparison as a patch, in full; git waits for whoever takes it."""
        looking.check_diff(wanted)
        pieces: asyncio.Queue[bytes] = asyncio.Queue(PIECES_AHEAD)

        async def doing(operation: Operation) -> None:
            async for piece in looking.patch(operation, wanted):
                await pieces.put(piece)

        work = asyncio.ensure_future(self._work("diff", wanted, doing)(Progress()))
        try:
            while not (work.done() and pieces.empty()):
                piece = asyncio.ensure_future(pieces.get())
                await asyncio.wait({work, piece}, return_when=asyncio.FIRST_COMPLETED)
                if piece.done():
                    yield piece.result()
                piece.cancel()
            work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def history(self, wanted: fields.HistoryFields) -> Work[records.History]:
        """Tell commits."""
        return self._work("log", wanted, lambda do: looking.history(do, wanted))

    def branches(self, wanted: fields.PlaceFields) -> Work[records.Branches]:
        """Tell branches."""
        return self._work("branch", wanted, lambda do: looking.branches(do, wanted))

    # Changing

    def add(self, wanted: fields.AddFields) -> Work[records.Added]:
        """Put files into the index."""
        changing.check_add(wanted)
        return self._work("add", wanted, lambda do: changing.add(do, wanted))

    def commit(self, wanted: fields.CommitFields) -> Work[records.Committed]:
        """Make a commit."""
        changing.check_commit(wanted)
        return self._work("commit", wanted, lambda do: changing.commit(do, wanted))

    def branch(self, wanted: fields.BranchFields) -> Work[records.BranchChanged]:
        """Make a branch."""
        changing.check_branch(wanted)
        return self._work("branch", wanted, lambda do: changing.branch(do, wanted))

    def remove_branch(self, wanted: fields.BranchFields) -> Work[records.BranchChanged]:
        """Delete a branch."""
        changing.check_branch(wanted)
        return self._work("branch", wanted, lambda do: changing.remove_branch(do, wanted))

    def checkout(self, wanted: fields.CheckoutFields) -> Work[records.CheckedOut]:
        """Change the working tree."""
        changing.check_checkout(wanted)
        return self._work("checkout", wanted, lambda do: changing.checkout(do, wanted))

    def abort(self, wanted: fields.PlaceFields) -> Work[records.Aborted]:
        """Give up what was begun."""
        return self._work("abort", wanted, lambda do: changing.abort(do, wanted, self._files))

    # Remotes

    def clone(self, wanted: fields.CloneFields, given: Credential | None) -> Work[records.Cloned]:
        """Make a repository of another."""
        credential = self._credential(wanted.credentials, given)
        remotes.check_clone(wanted, credential)
        target = self._files.resolve_text(wanted.path or folder_name(wanted.url)).absolute
        _, seconds = self._place(wanted, REMOTE_SECONDS)

        async def work(progress: Progress) -> records.Cloned:
            begun = self.operations.begin("clone", target, "/", seconds, progress)
            async with begun as operation:
                return await remotes.clone(operation, wanted, credential)

        return work

    def fetch(self, wanted: fields.FetchFields, given: Credential | None) -> Work[records.Fetched]:
        """Bring what a remote has."""
        remotes.check_remote(wanted)
        return self._remote("fetch", wanted, given, remotes.fetch)

    def pull(self, wanted: fields.PullFields, given: Credential | None) -> Work[records.Pulled]:
        """Fetch and merge."""
        remotes.check_pull(wanted)
        return self._remote("pull", wanted, given, remotes.pull)

    def push(self, wanted: fields.PushFields, given: Credential | None) -> Work[records.Pushed]:
        """Send."""
        remotes.check_push(wanted)
        return self._remote("push", wanted, given, remotes.push)

    def _remote(
        self,
        action: str,
        wanted: Any,
        given: Credential | None,
        do: Callable[[Operation, Any, Credential | None], Awaitable[T]],
    ) -> Work[T]:
        credential = self._credential(wanted.credentials, given)
        doing: Callable[[Operation], Awaitable[T]] = lambda one: do(one, wanted, credential)  # noqa: E731
        return self._work(action, wanted, doing, REMOTE_SECONDS)

    def _work(
        self,
        action: str,
        wanted: fields.PlaceFields,
        do: Callable[[Operation], Awaitable[T]],
        usual: float = LOCAL_SECONDS,
    ) -> Work[T]:
        folder, seconds = self._place(wanted, usual)
        return partial(self._done, action, folder, seconds, do)

    async def _done(
        self,
        action: str,
        folder: str,
        seconds: float,
        do: Callable[[Operation], Awaitable[T]],
        progress: Progress,
    ) -> T:
        async with self.operations.begin(action, folder, folder, seconds, progress) as operation:
            return await do(operation)

    def _place(self, wanted: fields.PlaceFields, usual: float) -> tuple[str, float]:
        """Return the folder in full and the time; raises BadInput."""
        seconds = usual if wanted.timeout is None else wanted.timeout
        if not 0 < seconds <= SECONDS_MOST:
            raise BadInput(f"invalid timeout: a number of seconds up to {SECONDS_MOST:g}")
        if "\0" in wanted.path:
            raise BadInput("invalid path: it has a NUL byte")
        return self._files.resolve_text(wanted.path).absolute, seconds

    def _credential(
        self, named: fields.CredentialFields | None, given: Credential | None
    ) -> Credential | None:
        """Return who logs in: what the head says, or the variables that are named; BadInput."""
        if named is None or given is not None:
            return given
        if not named.password_variable:
            raise BadInput("credentials: passwordVariable is required")
        apart = self._users.current() is not None
        known = self._environment.for_workload(apart=apart)
        name = named.username or known.get(named.username_variable, "") or DEFAULT_USER
        password = known.get(named.password_variable, "")
        if not password:
            raise BadInput(f"credentials: the variable {named.password_variable!r} is not set")
        return credential_of(name, password)

    async def close(self) -> None:
        """End what is running: the server stops."""
        await self.operations.close()


def credential_of(username: str, password: str) -> Credential:
    """Return a credential; raises BadInput for what no line can carry."""
    raw = [text.encode("utf-8", "surrogateescape") for text in (username, password)]
    if any(b"\n" in one or b"\0" in one or b"\r" in one for one in raw):
        raise BadInput("invalid credentials: a name or a password has no line breaks")
    return Credential(*raw)
