"""Relace: `RELACE_API_KEY`, optionally `RELACE_BASE_URL`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sandkeeper.codegen.providers.base import Document, Ranking, scored
from sandkeeper.codegen.providers.remote import Remote

__all__ = ["Relace"]

MODEL = "relace-apply-3"


@dataclass(frozen=True, slots=True)
class Relace(Remote):
    """The models of Relace over HTTP."""

    name = "relace"
    word = "relace"
    key_variable = "RELACE_API_KEY"
    base_variable = "RELACE_BASE_URL"
    default_base = "https://models.relace.ai"

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Merge an edit; an empty or `auto` model is the default one."""
        payload = {
            "initial_code": original,
            "edit_snippet": edit,
            "model": MODEL if model in {"", "auto"} else model,
            "stream": False,
        }
        return await self.post_for_merged("/v1/code/apply", payload, "mergedCode")

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank by relevance; Relace itself keeps the token limit."""
        codebase = [{"filename": item.path, "content": item.text} for item in documents]
        results = await self.post_for_results(
            "/v2/code/rank", query, {"codebase": codebase, "token_limit": token_limit}
        )
        positions = {item.path: index for index, item in enumerate(documents)}
        pairs = ((positions.get(str(item.get("filename"))), item.get("score")) for item in results)
        return scored(pairs, len(documents))
