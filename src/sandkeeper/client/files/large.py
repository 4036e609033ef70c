"""One large file: sent in one request from its beginning on, and after a stop from where it was.

The kernel sends it (sendfile(2)): no byte of it enters this process. What the server has of an
earlier run is compared by its digest before more is put behind it.
"""

import hashlib
import os
from typing import Any, BinaryIO

from sandkeeper.client.connection import FilePart, Server
from sandkeeper.client.failures import Absence, ClientError, NoServer, Refused
from sandkeeper.client.files.parts import PartsUpload
from sandkeeper.client.files.paths import absolute, file_route
from sandkeeper.client.files.transfer import Moved, blocks_of

__all__ = ["LargeUpload"]

UPLOADS = "/filesystem-multipart"
DIGEST_SECONDS = 3600.0
GONE, ELSEWHERE = 404, 409


class LargeUpload:
    """An upload of `size` bytes to `path`; `moved` is told of what need not be sent, too."""

    def __init__(
        self, server: Server, file: BinaryIO, size: int, path: str, mode: str, moved: Moved
    ) -> None:
        self._server = server
        self._file = file
        self._size = size
        self._path = path
        self._mode = mode
        self._moved = moved
        self._told = 0
        self._absence = Absence()

    def run(self) -> None:
        """Send what the server has not; raises ClientError."""
        session = self._begun()
        if session is None:
            initiate = file_route(f"{UPLOADS}/initiate", self._path)
            session = self._server.value("POST", initiate, {"permissions": self._mode})
            if self._state(session) is None:
                session["parts"] = {}
        if session.get("parts") is not None:
            PartsUpload(self._server, self._file, self._size, session, self._moved).run()
            return
        route = f"{UPLOADS}/{session['uploadId']}"
        self._send(f"{route}/content", session.get("contentSize", 0))
        self._complete(f"{route}/complete")

    def _begun(self) -> dict[str, Any] | None:
        """Return an upload of an earlier run to go on with: of parts, or of what is the same."""
        place = absolute(self._server, self._path)
        for one in reversed(self._server.value("GET", UPLOADS)["uploads"]):
            if one["path"] != place or f"{one['permissions']:o}" != self._mode:
                continue
            if one["parts"]:
                return dict(one)
            if 0 < one.get("contentSize", 0) <= self._size and self._is_same(one):
                return {"uploadId": one["uploadId"], "contentSize": one["contentSize"]}
        return None

    def _is_same(self, session: dict[str, Any]) -> bool:
        """Say whether what an upload has is what is here; not while somebody else sends it."""
        state = self._state(session, digest="sha256")
        if state is None or state["arriving"] or not 0 < state["size"] <= self._size:
            return False
        session["contentSize"] = state["size"]
        found = hashlib.sha256()
        self._file.seek(0)
        for block in blocks_of(self._file, lambda _count: None, state["size"]):
            found.update(block)
        return found.hexdigest() == str(state["sha256"])

    def _state(self, session: dict[str, Any], digest: str | None = None) -> dict[str, Any] | None:
        """Return how much the server has; None of one that knows nothing of it."""
        route, query = f"{UPLOADS}/{session['uploadId']}/content", {"digest": digest}
        try:
            return dict(self._server.value("GET", route, query=query, seconds=DIGEST_SECONDS))
        except Refused as error:
            if error.code != GONE:
                raise
        except NoServer as error:
            if error.code != GONE:  # a router's own words are no JSON of ours
                raise
        return None

    def _send(self, route: str, here: int) -> None:
        """Send what follows the first `here` bytes, again and again until all is there.

        What left here is no sign of life: a line may break each time before the server has it.
        """
        while True:
            self._moved(here - self._told)
            self._told = here
            if here == self._size or (wrong := self._put(route)) is None:
                return
            self._absence.wait(wrong)
            before, here = here, self._here(route)
            if here > before:
                self._absence.heard()

    def _put(self, route: str) -> ClientError | None:
        """Send the rest; returns what is wrong, None where it is there."""
        body = FilePart(self._file, self._told, self._size - self._told, self._count)
        try:
            self._server.ask("PUT", route, body, query={"offset": self._told})
        except NoServer as error:
            return error
        except Refused as error:
            told = error.details if isinstance(error.details, dict) else {}
            if error.code != ELSEWHERE or "size" not in told:
                return error
            return NoServer(str(error))  # it still writes what an earlier request brought
        return None

    def _here(self, route: str) -> int:
        """Wait for the server, and ask how much it has."""
        while True:
            try:
                return int(self._server.value("GET", route)["size"])
            except ClientError as error:
                self._absence.wait(error)

    def _count(self, more: int) -> None:
        self._told += more
        self._moved(more)

    def _complete(self, route: str) -> None:
        if os.fstat(self._file.fileno()).st_size < self._size:
            raise ClientError(f"{self._file.name}: it was cut while it was read")
        was_lost = False
        while True:
            try:
                self._server.value("POST", route, {"size": self._size})
                return
            except ClientError as error:
                if was_lost and isinstance(error, Refused) and error.code == GONE:
                    raise ClientError(
                        f"{self._path}: the line was lost at its end; look whether it is there"
                    ) from None
                self._absence.wait(error)
            was_lost = True
