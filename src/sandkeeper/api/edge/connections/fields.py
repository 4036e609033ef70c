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
    first: dict[bytes, bytes]
    try:
        of, first = scope[LAID_OUT]
    except KeyError:
        of = None
    if of is not sent:
        first = dict(reversed(sent))
        scope[LAID_OUT] = sent, first
    return first
