"""The fields of a request's head, laid out once for all who ask for one by its name."""

from starlette.types import Scope

__all__ = ["first_fields"]

LAID_OUT = "sandkeeper.fields"


def first_fields(scope: Scope) -> dict[bytes, bytes]:
    """Return the fields of a request by their names; of one that came twice the first value.

    Where it has as many entries as the head has fields, none came twice. It is not to be changed;
    a scope that gets another list of fields gets another of these.
    """
    sent = scope["headers"]
    laid_out: tuple[object, dict[bytes, bytes]] | None = scope.get(LAID_OUT)
    if laid_out is None or laid_out[0] is not sent:
        laid_out = scope[LAID_OUT] = sent, dict(reversed(sent))
    return laid_out[1]
