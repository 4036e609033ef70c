"""What a kernel answers to questions, in our words."""

from typing import Any

__all__ = ["completion"]


def completion(found: dict[str, Any]) -> dict[str, Any]:
    """Return matches with their kinds, where the kernel tells them."""
    extra = found.get("metadata")
    typed = extra.get("_jupyter_types_experimental") if isinstance(extra, dict) else None
    kinds = {
        str(one.get("text")): str(one.get("type", ""))
        for one in (typed if isinstance(typed, list) else [])
        if isinstance(one, dict)
    }
    return {
        "matches": [
            {"text": str(text), "type": kinds.get(str(text), "")}
            for text in found.get("matches") or []
        ],
        "start": found.get("cursor_start", 0),
        "end": found.get("cursor_end", 0),
    }
