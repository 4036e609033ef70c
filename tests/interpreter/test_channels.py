"""What the scribe hears from a kernel's sockets, whatever is sent there."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zmq

from sandkeeper.interpreter.scribe.channels import Channel, opened_socket
from sandkeeper.interpreter.scribe.engine import EngineFailed
from sandkeeper.interpreter.scribe.messages import Message
from sandkeeper.interpreter.scribe.telling import Teller
from sandkeeper.journal.segment import Stream


def short(tmp_path: Path) -> Path:
    """Return a place whose name a socket can have."""
    folder = Path("/tmp") / f"channels-{os.getpid()}-{abs(hash(tmp_path)) % 10**8}"
    folder.mkdir()
    return folder


def test_a_message_that_is_too_large_is_told_as_a_loss_and_the_next_is_heard(
    tmp_path: Path,
) -> None:
    folder = short(tmp_path)
    heard: list[list[bytes]] = []

    async def hear() -> None:
        context = zmq.Context()
        publisher = context.socket(zmq.XPUB)
        publisher.linger = 0
        publisher.bind(f"ipc://{folder}/one")
        lost, came = asyncio.Event(), asyncio.Event()

        def take(frames: list[bytes]) -> None:
            heard.append(frames)
            came.set()

        opened = opened_socket(f"{folder}/one", os.geteuid())
        channel = Channel(zmq.SUB, opened, b"x", take, lost=lost.set, most=1 << 20)
        try:
            async with asyncio.timeout(30):
                await asyncio.to_thread(publisher.recv)  # its subscription
                publisher.send(b"small")
                await came.wait()
                came.clear()
                publisher.send(b"x" * (2 << 20))
                await lost.wait()
                while not came.is_set():  # what nobody has subscribed to yet is dropped
                    publisher.send(b"after")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await came.wait()
        finally:
            channel.close()
            publisher.close()
            context.term()
            for one in folder.iterdir():
                one.unlink()
            folder.rmdir()

    asyncio.run(hear())

    assert heard[0] == [b"small"]
    assert set(map(tuple, heard[1:])) == {(b"after",)}


def test_only_sockets_of_the_kernels_own_user_are_connected_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink("/dev/null", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "link", "pipe"):
        with pytest.raises(EngineFailed):
            opened_socket(str(tmp_path / name), os.geteuid())
    with pytest.raises(FileNotFoundError):
        opened_socket(str(tmp_path / "nothing"), os.geteuid())


class _Told:
    """Keeps the counts of events."""

    def __init__(self) -> None:
        self.counts: list[Any] = []

    def text(self, stream: Stream, data: bytes) -> None:
        raise AssertionError((stream, data))

    def event(self, kind: str, **fields: Any) -> None:
        self.counts.append((kind, fields.get("executionCount")))


@pytest.mark.parametrize("count", [True, -1, 10**30, 1.5, "7", None])
def test_a_count_that_is_none_is_not_recorded(count: Any) -> None:
    async def scene() -> None:
        told = _Told()
        teller = Teller(told)
        raw = json.dumps({"execution_count": count, "data": {}}).encode()
        for kind in ("execute_input", "execute_result"):
            teller.hear(Message(kind, "", raw))
        assert told.counts == [("started", None), ("result", None)]
        assert teller.outcome({"status": "ok", "execution_count": count}).execution_count is None

    asyncio.run(scene())
