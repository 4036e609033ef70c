"""Wire structs of fast apply and reranking."""

import msgspec

__all__ = ["ApplyEditRequest", "ApplyEditResponse", "RankedFile", "RerankingResponse"]


class ApplyEditRequest(msgspec.Struct, rename="camel"):
    """An edit to merge into a file."""

    code_edit: str = ""
    model: str = ""


class ApplyEditResponse(msgspec.Struct, rename="camel"):
    """The file before and after."""

    success: bool
    path: str
    original_content: str
    updated_content: str
    provider: str
    message: str


class RankedFile(msgspec.Struct):
    """A relevant file."""

    path: str
    content: str
    score: float


class RerankingResponse(msgspec.Struct, omit_defaults=True):
    """Relevant files, best first; `truncated` stands only where a limit ended the search."""

    success: bool
    files: list[RankedFile]
    message: str
    truncated: bool = False
