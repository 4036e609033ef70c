"""Variables of the person's own environment."""

__all__ = ["variable"]


def variable(name: str) -> str:
    """Return a variable, empty for one that is not there."""
    from sandkeeper.settings import Environment

    return Environment().get(name)
