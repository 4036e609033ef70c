"""The place of a request in a trace (W3C Trace Context)."""

from collections.abc import Callable

from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.subject import request_id
from sandkeeper.log.access import Request
from sandkeeper.tracecontext import CURRENT, Trace, Tracing, parsed

__all__ = ["Traces"]

TRACE = "sandkeeper.trace"


class Traces:
    """Notes the place of each request that has one; `ended` is told of those that are over."""

    def __init__(self, tracing: Tracing, ended: Callable[[Request], None] | None = None) -> None:
        self._tracing = tracing
        self._ended = ended

    def begin(self, scope: Scope) -> None:
        """Note where a request stands: below what its head says, or first of a trace of ours."""
        if not self._tracing.is_on and b"traceparent" not in first_fields(scope):
            return
        sent = [value for name, value in scope["headers"] if name == b"traceparent"]
        states = [value for name, value in scope["headers"] if name == b"tracestate"]
        scope[TRACE] = self._tracing.begin(parsed(sent, states))

    def enter(self, scope: Scope) -> None:
        """Have what is started from here on be below it; in a task of the request's own."""
        if TRACE not in scope:
            self.begin(scope)
        if (trace := self.of(scope)) is not None:
            CURRENT.set(trace)

    def of(self, scope: Scope) -> Trace | None:
        """Return the place of a request."""
        found: Trace | None = scope.get(TRACE)
        return found

    def told(self, scope: Scope, path: str, status: int, seconds: float, size: int) -> Request:
        """Return a request that is over now, by the path that may be shown of it."""
        return Request(
            scope.get("method", "GET"),  # a WebSocket has none
            path,
            scope["query_string"].decode("latin-1"),
            status,
            size,
            seconds,
            (scope.get("client") or ("",))[0],
            request_id(scope),
            scope.get(TRACE),
        )

    def ended(self, request: Request) -> None:
        """Tell of a request that is over."""
        if self._ended is not None:
            self._ended(request)
