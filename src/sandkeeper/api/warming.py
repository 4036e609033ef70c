"""Having ready what first commands and files need, before somebody waits for it.

A start loads only what answers `/health`. What a first command needs besides takes fifty
milliseconds and 1.5 MiB: whoever gets a sandbox of those that a platform keeps warm, or one that
is resumed from a snapshot, finds it done.
"""

import asyncio
from collections.abc import Sequence

from sandkeeper.api.edge.routing import Areas
from sandkeeper.log.redaction import redact_command
from sandkeeper.observability.metrics import Requests

__all__ = ["Warming"]

LOOK_SECONDS = 0.5


class Warming:
    """Loads areas once the first answer was given and half a second has passed since."""

    def __init__(self, areas: Areas, requests: Requests, *, runtime: bool) -> None:
        self._areas = areas
        self._requests = requests
        self._runtime = runtime
        self._seen = 0

    async def begin(self) -> None:
        """Look after a while, again and again until somebody has asked for something."""
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._seen:
            loop.run_in_executor(None, self._load).add_done_callback(self._make)
        else:
            self._seen = self._requests.activity
            loop.call_later(LOOK_SECONDS, self._look)

    def _firsts(self) -> Sequence[str]:
        return ("process", "filesystem", *(["python-runtime"] if self._runtime else []))

    def _load(self) -> None:
        """Import what the areas will, in a thread: it takes longer than others may wait."""
        from sandkeeper.api.blaxel import logs, processes, waiting  # noqa: F401
        from sandkeeper.api.blaxel.files import content, trees  # noqa: F401
        from sandkeeper.api.blaxel.running import figures, stdin  # noqa: F401

        if self._runtime:
            from sandkeeper.api.kubernetes import runtime  # noqa: F401
        redact_command("export NAME=value --name")  # a first one compiles what all others use

    def _make(self, loaded: asyncio.Future[None]) -> None:
        loaded.result()
        for first in self._firsts():
            self._areas.below(first)
