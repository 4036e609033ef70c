"""An exchange that may end in another protocol (101, RFC 9110, section 7.8)."""

import asyncio

import httptools

from sandkeeper.network.channel import Channel
from sandkeeper.network.upstream import Upstream

__all__ = ["SWITCHED", "Switching"]

SWITCHED = 101


class Switching(Upstream):
    """A request for an upgrade: `response` may have the status 101, and then `join` goes on."""

    def __init__(self) -> None:
        super().__init__(head_request=False)
        self._ahead = b""

    def join(self, channel: Channel) -> None:
        """Leave the connection to a channel, with what the server has said there already."""
        assert self._transport is not None
        ahead = self._ahead + self._intake.drop()
        end = channel.server
        transport, self._transport = self._transport, None
        end.connection_made(transport)
        if transport.is_closing():
            asyncio.get_running_loop().call_soon(end.connection_lost, None)
        else:
            transport.set_protocol(end)
        if ahead:
            end.data_received(ahead)
        end.read(on=not channel.client.full)

    def data_received(self, data: bytes) -> None:
        """Keep what is of the other protocol."""
        if self._status == SWITCHED:
            self._ahead += data
        else:
            super().data_received(data)

    def on_headers_complete(self) -> None:
        """Take 101 for the answer that it is here."""
        if self._parser.get_status_code() != SWITCHED:
            super().on_headers_complete()
            return
        if not self._parser.should_upgrade():
            self._broken("it answers 101 and names no protocol")
            return
        self._status = SWITCHED
        self._wake()

    def on_message_complete(self) -> None:
        """Pass over the end of a head behind which the other protocol begins."""
        if self._status != SWITCHED:
            super().on_message_complete()

    def _feed_parser(self, data: bytes) -> None:
        try:
            super()._feed_parser(data)
        except httptools.HttpParserUpgrade as end:
            self._ahead += data[end.args[0] :]
            self._hold()

    def _may_parse(self) -> bool:
        return super()._may_parse() and self._status != SWITCHED
