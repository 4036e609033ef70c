"""The watched directories of a tree, each below the one in which it was last found."""

__all__ = ["Node"]


class Node:
    """A watched directory; without a parent it is the root, or has been moved somewhere."""

    __slots__ = ("children", "name", "parent", "watch")

    def __init__(self, watch: int, parent: "Node | None", name: bytes) -> None:
        self.watch = watch
        self.parent = parent
        self.name = name
        self.children: dict[bytes, Node] = {}

    def detach(self, name: bytes) -> "Node | None":
        """Take from a child its name, also from one that was found here ahead of its notices.

        What is told of it meanwhile was elsewhere, and it is read when it has a name again.
        """
        child = self.children.pop(name, None)
        if child is not None:
            child.parent = None
        return child

    def is_above(self, other: "Node") -> bool:
        """Say whether `other` is this one, or somewhere below it."""
        above: Node | None = other
        while above is not None:
            if above is self:
                return True
            above = above.parent
        return False

    def below(self, root: "Node") -> bytes | None:
        """Return the path below the root with a leading slash; None while it is on the move."""
        parts: list[bytes] = []
        node = self
        while node is not root:
            parts.append(node.name)
            if node.parent is None:
                return None
            node = node.parent
        parts.append(b"")
        parts.reverse()
        return b"/".join(parts)
