"""A large file in parts, for servers that know nothing better, and what was begun so."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import ClientError
from sandkeeper.client.files.transfer import Moved, blocks_of, send_whole

__all__ = ["PartsUpload"]

PART_BYTES = 32 << 20
PARTS_MOST = 10_000
PARTS_AT_ONCE = 3
"""The server hashes each, which one processor does at the speed of a disk."""


class PartsUpload:
    """One large file: parts that the server has already, by their MD5, are not sent again.

    `session` is the upload as the server lists it.
    """

    def __init__(
        self, server: Server, file: BinaryIO, size: int, session: Mapping[str, Any], moved: Moved
    ) -> None:
        self._server = server
        self._file = file
        self._size = size
        self._id = str(session["uploadId"])
        self._known = {
            int(part["partNumber"]): str(part["etag"])
            for part in (session.get("parts") or {}).values()
        }
        self._moved = moved
        self._part = max(PART_BYTES, -(-size // PARTS_MOST))
        self._is_over = False

    def run(self) -> None:
        """Send what is not there and have all put together; raises ClientError."""
        numbers = range(1, -(-self._size // self._part) + 1)
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            try:
                etags = list(pool.map(self._sent, numbers))
            except BaseException:
                self._is_over = True  # those that are under way end at their next block
                raise
        parts = [
            {"partNumber": number, "etag": etag}
            for number, etag in zip(numbers, etags, strict=True)
        ]
        complete = f"/filesystem-multipart/{self._id}/complete"
        self._server.value("POST", complete, {"parts": parts})

    def _sent(self, number: int) -> str:
        """Send a part that the server has not; returns its ETag."""
        start = (number - 1) * self._part
        length = min(self._part, self._size - start)
        with self._opened(start) as file:
            etag = self._known.get(number, "")
            if etag and etag == self._digest(file, length):
                self._count(length)
                return etag
            file.seek(start)
            route = f"/filesystem-multipart/{self._id}/part"
            query = {"partNumber": number}
            raw = send_whole(self._server, file, length, route, {}, self._count, query)
            return str(json.loads(raw)["etag"])

    def _opened(self, start: int) -> BinaryIO:
        """Open the file once more, for a reader with a place of its own."""
        file = open(self._file.name, "rb")  # noqa: SIM115 - the caller closes it
        ours, theirs = os.fstat(self._file.fileno()), os.fstat(file.fileno())
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
            file.close()
            raise ClientError(f"{self._file.name}: it was replaced while it was read")
        file.seek(start)
        return file

    def _count(self, more: int) -> None:
        if self._is_over:
            raise ClientError("given up")
        self._moved(more)

    def _digest(self, file: BinaryIO, length: int) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for block in blocks_of(file, lambda _count: None, length):
            digest.update(block)
        return digest.hexdigest()
