"""Trying a new version: on a port of its own, with a copy of the state, touching nothing else.

The copy holds what runs there were, all of them over, and output as far as it is small; so the
trial reads every record and finds no process to take up. It gets a listening socket the way it will
get the real one. With `Handover.trial` a server does nothing outside of its folders: no keeper,
scale file, tunnel, proxy, drives or startup command.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.errors import Unprocessable
from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.paths.statefiles import Damaged, SetAside
from sandkeeper.linux.servicemanager import SERVICE_VARIABLES
from sandkeeper.processes.lifecycle import TERMINAL, State
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.runs import RunStore
from sandkeeper.race import race
from sandkeeper.upgrade.handover import Handover
from sandkeeper.upgrade.install import Installation

__all__ = ["Trial"]

COPY_BYTES = 32 << 20
"""So much output is copied, newest runs first: enough to meet every kind of record."""

STOP_SECONDS = 5.0


@dataclass(slots=True)
class Trial:
    """One trial; `token` is the server's own, which guards the copy as well."""

    installation: Installation
    runs: Path
    variables: Mapping[str, str]
    token: str
    children: Children
    seconds: float

    async def run(self) -> None:
        """Start it, ask it, end it; raises Unprocessable with what it said, or OSError."""
        folder = self.installation.folder / "trial"
        count = await asyncio.to_thread(self._copy, folder)
        try:
            with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
                child = await asyncio.to_thread(self._start, folder, listener)
                try:
                    await self._ask(child, listener.getsockname()[1], count)
                finally:
                    await _end(child)
        except Unprocessable as error:
            raise Unprocessable(f"the trial failed: {error}{_said(folder)}") from None
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _copy(self, folder: Path) -> int:
        """Copy the runs as ended ones; returns how many."""
        target = RunStore(folder / "state", folder / "pipes")
        for place in (folder, folder / "state", folder / "tmp"):
            place.mkdir(mode=0o700, exist_ok=True)
        target.prepare(SetAside(folder / "state", lambda _: None))
        source = RunStore(self.runs.parent, folder / "pipes")
        room, count = COPY_BYTES, 0
        for path in sorted(self.runs.iterdir(), reverse=True):
            meta = None
            with suppress(OSError, ValueError, Damaged):  # the server does not take it up either
                meta = source.folder(path.name).load()
            if meta is None:
                continue
            into = target.folder(path.name)
            into.create()
            into.save(msgspec.json.encode(_ended(meta)))
            count += 1
            with suppress(OSError):  # a run may go while it is copied; its record is enough
                room -= _copy_output(path, into.path, room)
        return count

    def _start(self, folder: Path, listener: socket.socket) -> Child:
        variables = {
            **{name: value for name, value in self.variables.items() if name not in _OUTSIDE},
            "SANDKEEPER_STATE_DIR": str(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_RUNTIME_DIR": str(folder),
            "BLAXEL_SCALE_FILE": str(folder / "nowhere" / "scale"),
            "SANDKEEPER_LOG": "stderr",
            "SANDBOX_DISABLE_PROCESS_LOGGING": "true",
            "SANDKEEPER_KEEP_FINISHED": "1000000000",
            "SANDKEEPER_KEEP_FINISHED_SECONDS": "1000000000",
        }
        document = Handover(
            listener=listener.fileno(), variables=variables, host="127.0.0.1", trial=True
        ).write()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        argv = [str(self.installation.python), "-I", "-m", "sandkeeper", "--handover"]
        try:
            return self.children.spawn(
                Spawn(
                    [*argv, str(document)],
                    variables,
                    "/",
                    stdout=log,
                    stderr=log,
                    pass_fds=(document, listener.fileno()),
                )
            )
        finally:
            os.close(log)
            os.close(document)

    async def _ask(self, child: Child, port: int, count: int) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        client = await asyncio.to_thread(
            httpx.AsyncClient,
            base_url=f"http://127.0.0.1:{port}",
            headers=headers,
            trust_env=False,
            verify=False,  # it speaks no TLS, and reading certificates takes 50 ms
            timeout=self.seconds,
        )
        try:
            asked = self._answers(client, count)
            ended, answered = await race(readable(child.pidfd.number), asked, seconds=self.seconds)
        finally:
            await client.aclose()
        if answered:
            answered.result()
        elif ended:
            raise Unprocessable("it ended before it answered")
        else:
            raise Unprocessable(f"it did not answer within {self.seconds:g} s")

    async def _answers(self, client: Any, count: int) -> None:
        import httpx

        try:
            health = (await client.get("/health")).json()
            listed = (await client.get("/process")).json()
            version, found = health["version"], len(listed)
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise Unprocessable(f"its answers make no sense: {error!r}") from None
        if version != self.installation.version:
            raise Unprocessable(f"it says that it is version {version}")
        if found != count:
            raise Unprocessable(f"it finds {found} of {count} processes")


_OUTSIDE = {
    *("BL_NETWORKING_CONFIG", "SANDBOX_EXTRA_CA_CERTS", "SANDBOX_PROXY_STATE_FILE"),
    *SERVICE_VARIABLES,
}
"""Variables that make a server reach outside; a trial has none of them."""


def _ended(meta: RunMeta) -> RunMeta:
    """Return the record as that of a run that is over: nothing there may be taken up again."""
    if State(meta.state) in TERMINAL:
        return msgspec.structs.replace(meta, sealed=True)
    return msgspec.structs.replace(
        meta, state=State.FAILED.value, exit_code=-1, exit_reason="unknown", sealed=True,
        keep_alive=False, completed_at=meta.started_at, leader=0,
    )  # fmt: skip


def _copy_output(source: Path, target: Path, room: int) -> int:
    """Copy the files of one journal if they fit; returns their size."""
    files = [file for file in source.iterdir() if file.suffix in {".seg", ".idx"}]
    size = sum(file.stat().st_size for file in files)
    if size > room:
        return 0
    for file in files:
        shutil.copyfile(file, target / file.name)
    return size


async def _end(child: Child) -> None:
    """End the trial and take its status."""
    child.signal_group(signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await readable(child.pidfd.number)
    with suppress(ProcessLookupError):
        child.signal_group(signal.SIGKILL)
    await readable(child.pidfd.number)
    child.reap()


def _said(folder: Path) -> str:
    """Return the end of what it wrote."""
    with suppress(OSError):
        text = (folder / "log").read_bytes()[-1500:].decode("utf-8", "replace").strip()
        return f"\n{text}" if text else ""
    return ""
