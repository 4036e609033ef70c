"""Variables of the person's own environment."""

__all__ = ["own_variable", "variable"]


def variable(name: str) -> str:
    """Return a variable, empty for one that is not there."""
    from sandkeeper.settings import Environment

    return Environment().get(name)


def own_variable(name: str) -> str | None:
    """Return a variable to be passed on, None for one that is not there."""
    from sandkeeper.settings import Environment

    return Environment().snapshot().get(name)
