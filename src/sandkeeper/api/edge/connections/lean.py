"""uvicorn's HTTP protocol with no more work for a request than there is to do.

Its part for heads is written out here, so that a scope is made once, when a head is whole; and one
timer looks after a connection, however often that comes to rest. All else is uvicorn's as ever.
"""

import asyncio
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["LeanProtocol"]


class LeanProtocol(HttpToolsProtocol):
    """What `.protocol` sets limits to."""

    _at_rest_since = 0.0

    def on_message_begin(self) -> None:
        """Begin a head."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Begin with the request, unless it waits behind another; a handshake is none."""
        version = self._make_scope()
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        before = self.cycle
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _make_scope(self) -> str:
        """Make the scope of a head that is whole; returns the version of HTTP."""
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        version = self.parser.get_http_version()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": target.path,
            "query_string": target.query or b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        return version

    def on_response_complete(self) -> None:
        """Go on with what waits behind a request that was answered, or rest."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._at_rest_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def _look_after(self, seconds: float) -> None:
        look = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, look)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been at rest for long."""
        self.timeout_keep_alive_task = None
        if not self.is_at_rest:
            return  # the end of what it does now begins anew
        left = self._at_rest_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            super().timeout_keep_alive_handler()

    @property
    def rested(self) -> float:
        """For how many seconds it has been at rest, where it is."""
        return self.loop.time() - self._at_rest_since

    @property
    def is_at_rest(self) -> bool:
        """Whether all that came has been answered."""
        return self.cycle is None or self.cycle.response_complete
