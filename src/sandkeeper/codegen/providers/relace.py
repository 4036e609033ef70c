"""Relace: `RELACE_API_KEY`, optionally `RELACE_BASE_URL`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sandkeeper.codegen.providers.base import (
    Document,
    Host,
    Ranking,
    post_json,
    scored,
    timeout_of,
)
from sandkeeper.errors import Unprocessable

__all__ = ["Relace"]

BASE = "https://models.relace.ai"
MODEL = "relace-apply-3"


@dataclass(frozen=True, slots=True)
class Relace:
    """The models of Relace over HTTP."""

    base: str
    key: str
    seconds: float
    name: str = "relace"

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when there is a key."""
        key = host.environment.get("RELACE_API_KEY")
        base = host.environment.get("RELACE_BASE_URL").rstrip("/") or BASE
        return cls(base, key, timeout_of(host)) if key else None

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge an edit; an empty or `auto` model is the default one."""
        answer = await self._post(
            "/v1/code/apply",
            {
                "initial_code": original,
                "edit_snippet": edit,
                "model": MODEL if model in {"", "auto"} else model,
                "stream": False,
            },
        )
        merged = answer.get("mergedCode") if isinstance(answer, dict) else None
        if not isinstance(merged, str) or not merged:
            raise Unprocessable("relace API answered without merged code")
        return merged

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank by relevance; Relace itself keeps the token limit."""
        answer = await self._post(
            "/v2/code/rank",
            {
                "query": query,
                "codebase": [{"filename": item.path, "content": item.text} for item in documents],
                "token_limit": token_limit,
            },
        )
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            raise Unprocessable("relace API answered without results")
        positions = {item.path: index for index, item in enumerate(documents)}
        return scored(
            (
                (positions.get(str(item.get("filename"))), item.get("score"))
                for item in results
                if isinstance(item, dict)
            ),
            len(documents),
        )

    async def _post(self, path: str, payload: dict[str, Any]) -> Any:
        return await post_json(
            self.base + path, payload, key=self.key, name="relace", seconds=self.seconds
        )
