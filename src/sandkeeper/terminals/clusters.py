"""Grapheme clusters: what belongs into one cell (UAX 29), and how many columns it takes.

Boundaries and widths are wcwidth's. A cluster never gets narrower: the columns that its first
character took are taken.
"""

from wcwidth import grapheme_boundary_before, wcwidth, width

__all__ = ["MOST_CHARACTERS", "columns_of", "is_lead", "joins"]

MOST_CHARACTERS = 32
"""Characters of one cell; without an end to them each costs as much as all before."""


def joins(cluster: str, char: str) -> bool:
    """Say whether a character goes on with a cluster, by the rules of UAX 29."""
    return grapheme_boundary_before(cluster + char, len(cluster) + 1) < len(cluster)


def columns_of(text: str) -> int:
    """Return the columns of a character or a cluster: 0, 1 or 2; -1 for a control character."""
    return wcwidth(text) if len(text) == 1 else min(2, width(text, control_codes="ignore"))


def is_lead(text: str) -> bool:
    """Say whether a cell's text begins with what takes no column and has nothing before it."""
    return text != "" and wcwidth(text[0]) == 0
