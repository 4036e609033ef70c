"""Port monitors on their own: when registrations end, what their limits are."""

import asyncio
import os
import socket
import subprocess

import pytest
from tests.harness import until

from sandkeeper.errors import BadInput, Unprocessable
from sandkeeper.linux.procs import group_members
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.network import monitors
from sandkeeper.network.monitors import PortMonitors

NOWHERE = "http://127.0.0.1:9/"


def log() -> Log:
    return Log(Sink(os.open("/dev/null", os.O_WRONLY), dropped_line=lambda _: b""))


async def settled(watch: PortMonitors, registrations: int) -> None:
    async with asyncio.timeout(60):
        while watch.statistics()["registrations"] != registrations:
            await asyncio.sleep(0.01)


def test_a_registration_ends_with_its_process_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "LOOK_SECONDS", 0.01)

    async def run() -> None:
        watch = PortMonitors(log())
        child = subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & exec sleep 1000"], process_group=0)
        until(lambda: len(group_members(child.pid)) == 2)
        await watch.add(child.pid, NOWHERE)
        await watch.add(os.getpid(), NOWHERE)
        child.kill()
        child.wait()
        await watch._look_once()
        assert watch.statistics()["registrations"] == 2  # the group still has a member
        os.killpg(child.pid, 9)
        await settled(watch, 1)
        await watch.close()

    asyncio.run(run())


def test_a_reused_pid_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "LOOK_SECONDS", 0.01)

    async def run() -> None:
        watch = PortMonitors(log())
        await watch.add(os.getpid(), NOWHERE)
        for registration in watch._registered.values():
            registration.started = 1
        await settled(watch, 0)
        await watch.close()

    asyncio.run(run())


def test_registrations_and_notices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "MAX_REGISTRATIONS", 2)
    monkeypatch.setattr(monitors, "LOOK_SECONDS", 0.01)

    async def run() -> None:
        watch = PortMonitors(log())
        watch._notices = asyncio.Queue(1)
        watch._run = lambda: None  # type: ignore[method-assign]
        for number in (1, 2):
            await watch.add(os.getpid(), f"{NOWHERE}{number}")
        await watch.add(os.getpid(), f"{NOWHERE}2")
        with pytest.raises(Unprocessable):
            await watch.add(os.getpid(), f"{NOWHERE}3")
        with pytest.raises(BadInput):
            await watch.add(os.getpid(), "ftp://127.0.0.1/")
        with socket.create_server(("127.0.0.1", 0)):
            await watch._look_once()
        told = watch.statistics()
        assert (told["queued"], told["dropped"] >= 1) == (1, True)
        watch.remove(os.getpid())
        assert watch.statistics()["registrations"] == 0
        await watch.close()

    asyncio.run(run())


def test_the_same_callback_again_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "MAX_REGISTRATIONS", 1)

    async def run() -> None:
        watch = PortMonitors(log())
        watch._run = lambda: None  # type: ignore[method-assign]
        with socket.create_server(("127.0.0.1", 0)):
            told = []
            for _ in range(2):
                await watch.add(os.getpid(), NOWHERE)
                await watch._look_once()
                await watch._look_once()
                told.append(watch.statistics()["queued"])
        assert told[0] >= 1
        assert told[1] == 2 * told[0]
        await watch.close()

    asyncio.run(run())
