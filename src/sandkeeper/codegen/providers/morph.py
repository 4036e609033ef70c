"""Morph: `MORPH_API_KEY`; `SANDKEEPER_MORPH_BASE_URL` points it at a gateway of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

from sandkeeper.codegen.providers.base import Document, Ranking, scored, within_tokens
from sandkeeper.codegen.providers.remote import Remote

__all__ = ["Morph"]


@dataclass(frozen=True, slots=True)
class Morph(Remote):
    """The models of Morph over HTTP."""

    name = "morphllm"
    word = "morph"
    key_variable = "MORPH_API_KEY"
    base_variable = "SANDKEEPER_MORPH_BASE_URL"
    default_base = "https://api.morphllm.com/v1"

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge an edit through the chat route."""
        content = f"<code>{original}</code>\n<update>{edit}</update>"
        payload = {
            "model": model or "auto",
            "messages": [{"role": "user", "content": content}],
            "stream": False,
        }
        return await self.post_for_merged(
            "/chat/completions", payload, "choices", 0, "message", "content"
        )

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank by relevance; Morph knows no token limit, so it is kept here."""
        texts = {"model": "morph-rerank-v3", "documents": [item.text for item in documents]}
        results = await self.post_for_results("/rerank", query, texts)
        pairs = ((item.get("index"), item.get("relevance_score")) for item in results)
        return within_tokens(scored(pairs, len(documents)), documents, token_limit)
