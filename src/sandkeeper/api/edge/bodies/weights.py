"""What a client would rather have: fields such as Accept, read once for all (RFC 9110, 12.4.2)."""

from sandkeeper.numerals import decimal

__all__ = ["media_type", "weights_of"]


def weights_of(header: str) -> dict[str, float]:
    """Return the weight of each name in a field, in lower case; 0 is what is not wanted."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = decimal(value.strip()) or 0.0
        if name:
            weights[name] = weight
    return weights


def media_type(content_type: str) -> str:
    """Return what a Content-Type names, in lower case and without its parameters."""
    return content_type.partition(";")[0].strip().lower()
