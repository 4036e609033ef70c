"""The server's end of the scribe, when nobody is at the other."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from sandkeeper.errors import Unavailable
from sandkeeper.interpreter.link import Link
from sandkeeper.interpreter.orders import Detach, Hello, framed
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.localsockets import short_name
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink


def test_a_scribe_that_does_not_answer_keeps_nobody_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "scribe.sock"

    sink = Sink(2, dropped_line=lambda count: b"%d\n" % count)

    async def scene() -> None:
        link = Link(
            *(path, tmp_path / "log", Children(), Log(sink), {}),
            news=lambda _: None,
            lost=lambda: None,
            seconds=0.1,
        )
        asking = asyncio.ensure_future(link.ask(Detach(context="x")))
        peer, _ = await asyncio.to_thread(listener.accept)
        peer.sendall(framed(Hello(pid=os.getpid(), born=0)))
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match="does not answer"):
                await asking
        await link.close()
        peer.close()

    with socket.socket(socket.AF_UNIX) as listener:
        with short_name(path) as name:
            listener.bind(name)
        listener.listen()
        asyncio.run(scene())
