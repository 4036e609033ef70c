"""Who asks: the gateway's identity headers of a request, for audit lines only."""

from starlette.requests import HTTPConnection

from sandkeeper.services.access import Caller

__all__ = ["caller"]


def caller(request: HTTPConnection) -> Caller:
    """Read the identity headers; the request id is made up when there is none."""
    headers = request.headers
    named = {
        "subject_id": headers.get("x-blaxel-subject-id") or headers.get("x-subject-id", ""),
        "subject_type": headers.get("x-blaxel-subject-type") or headers.get("x-subject-type", ""),
        "auth_method": headers.get("x-blaxel-auth-method", ""),
    }
    request_id = headers.get("x-request-id", "")
    return Caller(**named, request_id=request_id) if request_id else Caller(**named)
