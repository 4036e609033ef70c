"""A local file into the sandbox, the way that fits what it is."""

import os
import stat as modes
from pathlib import Path

from sandkeeper.client.connection import Server
from sandkeeper.client.files.large import LargeUpload
from sandkeeper.client.files.paths import file_route
from sandkeeper.client.files.transfer import Moved, put_stream, send_whole

__all__ = ["upload"]

LARGE_BYTES = 64 << 20
"""From here on an upload that stopped goes on where it was, also in another run."""


def upload(server: Server, source: Path, path: str, moved: Moved) -> None:
    """Write a local file with its mode; a large one goes on where it stopped."""
    with source.open("rb") as file:
        about = os.fstat(file.fileno())
        mode = f"{modes.S_IMODE(about.st_mode):o}"
        if not modes.S_ISREG(about.st_mode) or not about.st_size:
            # FIFOs have no length, and files of /proc have another one than they say.
            put_stream(server, path, file, moved, mode if modes.S_ISREG(about.st_mode) else "")
            return
        if about.st_size >= LARGE_BYTES:
            LargeUpload(server, file, about.st_size, path, mode, moved).run()
            return
        send_whole(
            server,
            file,
            about.st_size,
            file_route("/filesystem", path),
            {"permissions": mode},
            moved,
        )
