"""Morph: `MORPH_API_KEY`; `SANDKEEPER_MORPH_BASE_URL` points it at a gateway of one's own."""

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
    within_tokens,
)
from sandkeeper.errors import Unprocessable

__all__ = ["Morph"]

BASE = "https://api.morphllm.com/v1"


@dataclass(frozen=True, slots=True)
class Morph:
    """The models of Morph over HTTP."""

    base: str
    key: str
    seconds: float
    name: str = "morphllm"

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when there is a key."""
        key = host.environment.get("MORPH_API_KEY")
        base = host.environment.get("SANDKEEPER_MORPH_BASE_URL").rstrip("/") or BASE
        return cls(base, key, timeout_of(host)) if key else None

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge an edit through the chat route."""
        content = f"<code>{original}</code>\n<update>{edit}</update>"
        answer = await self._post(
            "/chat/completions",
            {
                "model": model or "auto",
                "messages": [{"role": "user", "content": content}],
                "stream": False,
            },
        )
        try:
            merged = answer["choices"][0]["message"]["content"]
        except (TypeError, LookupError):
            merged = None
        if not isinstance(merged, str) or not merged:
            raise Unprocessable("morph API answered without merged code")
        return merged

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank by relevance; Morph knows no token limit, so it is kept here."""
        answer = await self._post(
            "/rerank",
            {
                "model": "morph-rerank-v3",
                "query": query,
                "documents": [item.text for item in documents],
            },
        )
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            raise Unprocessable("morph API answered without results")
        pairs = (
            (item.get("index"), item.get("relevance_score"))
            for item in results
            if isinstance(item, dict)
        )
        return within_tokens(scored(pairs, len(documents)), documents, token_limit)

    async def _post(self, path: str, payload: dict[str, Any]) -> Any:
        return await post_json(
            self.base + path, payload, key=self.key, name="morph", seconds=self.seconds
        )
