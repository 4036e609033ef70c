"""Whether one path lies below another: by their texts, which are clean and absolute."""

__all__ = ["is_below", "is_within"]


def is_below(path: str, tree: str) -> bool:
    """Say whether a path is in a tree, and not the tree itself."""
    return path != tree and path.startswith(tree.rstrip("/") + "/")


def is_within(path: str, tree: str) -> bool:
    """Say whether a path is a tree or in it."""
    return path == tree or path.startswith(tree.rstrip("/") + "/")
