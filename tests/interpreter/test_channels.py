"""What the scribe hears from a kernel's sockets, whatever is sent there."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zmq

from sandkeeper.interpreter.scribe import ending
from sandkeeper.interpreter.scribe.channels import KernelChannel, opened_socket
from sandkeeper.interpreter.scribe.engine import EngineFailed, Lost
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
        channel = KernelChannel(zmq.SUB, opened, b"x", take, lost=lost.set, most=1 << 20)
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


READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB"
"""A command of ZMTP 3.0 (rfc.zeromq.org/spec/23): a frame with flags, its size, and properties."""
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def test_a_message_without_end_is_let_go_and_another_is_heard(tmp_path: Path) -> None:
    folder = short(tmp_path)

    async def hear() -> None:
        heard: asyncio.Queue[list[bytes]] = asyncio.Queue()
        lost, met, ends = asyncio.Event(), 0, asyncio.Semaphore(0)

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal met
            met += 1
            writer.write(GREETING + READY)
            with contextlib.suppress(ConnectionError):
                if met > 1:
                    writer.write(b"\0\4good")
                while met == 1:
                    writer.write(b"\1\4more" * 1000)
                    await writer.drain()
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            ends.release()

        async with await asyncio.start_unix_server(meet, f"{folder}/one"):
            opened = opened_socket(f"{folder}/one", os.geteuid())
            channel = KernelChannel(zmq.SUB, opened, b"x", heard.put_nowait, lost=lost.set)
            async with asyncio.timeout(60):
                channel.look()
                while not lost.is_set():
                    await asyncio.sleep(0)
                    if met:
                        channel.relieve()
                assert await heard.get() == [b"good"]
                channel.close()
                for _ in range(met):
                    await ends.acquire()

    try:
        asyncio.run(hear())
    finally:
        (folder / "one").unlink(missing_ok=True)
        folder.rmdir()


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


def test_a_process_that_ends_ends_the_waiting_whoever_notices_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "SILENCE_SECONDS", 0.01)

    async def wait() -> None:
        reply, gone = (asyncio.get_running_loop().create_future() for _ in range(2))
        woken, told = asyncio.Event(), _Told()

        async def behind() -> None:
            await asyncio.wait([gone])
            raise Lost

        waiting = ending.Ending(reply, Teller(told), gone, wake=woken.set, behind=behind)
        heard = asyncio.ensure_future(waiting.heard(lost=True))
        await woken.wait()
        gone.set_result(None)
        with pytest.raises(Lost):
            await heard
        assert told.counts == []

    asyncio.run(wait())
