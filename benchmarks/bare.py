"""A bare uvicorn application to compare with: `python -m benchmarks.bare PORT FOLDER`.

`GET /same` answers the bytes that were put to it; `/file/NAME` is a file of FOLDER, which PUT
writes beside and renames and GET reads, by hand and on the loop.
"""

import os
import sys
from typing import Any

import uvicorn

JSON = (b"content-type", b"application/json; charset=utf-8")


class Bare:
    """The application."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.same = b"{}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path = scope["path"]
        if scope["method"] == "PUT":
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            if path == "/same":
                self.same = body
            else:
                self.write(path[6:], body)
            answer = b'{"message":"written"}'
        else:
            answer = self.same if path == "/same" else self.read(path[6:])
        headers = [(b"content-length", str(len(answer)).encode()), JSON]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def write(self, name: str, data: bytes) -> None:
        """Write a file as a whole."""
        target = os.path.join(self.folder, name)
        fd = os.open(target + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(target + ".new", target)

    def read(self, name: str) -> bytes:
        """Read a file as a whole."""
        fd = os.open(os.path.join(self.folder, name), os.O_RDONLY)
        try:
            return os.read(fd, 1 << 20)
        finally:
            os.close(fd)


if __name__ == "__main__":
    app: Any = Bare(sys.argv[2])
    options: dict[str, Any] = {"access_log": False, "log_level": "critical", "lifespan": "off"}
    options |= {"loop": "uvloop", "http": "httptools"}
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), **options)
