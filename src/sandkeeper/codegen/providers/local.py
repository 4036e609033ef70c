"""Without any key: edits merged by rule, files ranked by BM25. `SANDKEEPER_LOCAL_CODEGEN=1`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from sandkeeper.codegen.providers.base import (
    Document,
    Host,
    Ranking,
    scored,
    timeout_of,
    within_tokens,
)
from sandkeeper.codegen.providers.merge import merge
from sandkeeper.errors import Unprocessable
from sandkeeper.settings import truthy

__all__ = ["Local"]

ANSWER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Local:
    """Deterministic, offline, free; the scores are relative to the best file, which has 1."""

    host: Host
    seconds: float
    name: str = "local"

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when the operator switched it on."""
        if not truthy(host.environment.get("SANDKEEPER_LOCAL_CODEGEN")):
            return None
        return cls(host, timeout_of(host))

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge an edit by rule; an ambiguous one is refused."""
        return await asyncio.to_thread(merge, original, edit)

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank with BM25 in a process of its own.

        For a second it needs all the texts in pieces: in the server that memory would never come
        back, and the work would hold the interpreter's lock.
        """
        job = {"query": query, "documents": [f"{item.path}\n{item.text}" for item in documents]}
        source = os.memfd_create("rank", os.MFD_CLOEXEC)
        try:
            _fill(source, msgspec.json.encode(job))
            result = await self.host.children.run_tool(
                # Isolated, or it would import what somebody put into our working directory.
                [sys.executable, "-I", "-m", "sandkeeper.search.bm25"],
                env=self.host.environment.for_children(),
                cwd="/",
                timeout=self.seconds,
                limit=ANSWER_BYTES,
                stdin=source,
            )
        except TimeoutError:
            raise Unprocessable(f"ranking took longer than {self.seconds:g} s") from None
        finally:
            os.close(source)
        if not result.ok:
            text = result.stderr[-300:].decode("utf-8", "replace").strip()
            raise Unprocessable(f"ranking failed: {text}")
        ranking = scored(map(tuple, msgspec.json.decode(result.stdout)), len(documents))
        return within_tokens(ranking, documents, token_limit)


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
