"""Finding again, at start, what an earlier server left: every run, running or over."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandkeeper.core.adopted import Adopted, boot_id, pid_of_pidfd, start_time
from sandkeeper.core.journal import Journal
from sandkeeper.core.lifecycle import TERMINAL, State
from sandkeeper.core.segment import STDERR, STDOUT
from sandkeeper.core.source import Source
from sandkeeper.core.stage import Stage
from sandkeeper.services.launch import Workshop
from sandkeeper.services.process import Process
from sandkeeper.services.runs import RunFolder, RunMeta, RunStore

__all__ = ["recover", "restore_stage"]


@dataclass(slots=True)
class Found:
    """One run of an earlier server, its pipes open again if it has them, its pidfd if it lives."""

    folder: RunFolder
    meta: RunMeta
    journal: Journal
    sources: tuple[Source, ...]
    pidfd: int


def restore_stage(stage: Path, store: RunStore) -> None:
    """Put bytes that a killed server held in its stage where they belong."""
    staged = Stage.recover(stage)
    if staged is not None:
        run, offset, data = staged
        folder = store.runs / run
        if folder.is_dir():
            Journal.restore(folder, offset, data)
    stage.unlink(missing_ok=True)


async def recover(shop: Workshop, store: RunStore) -> list[Process]:
    """Return the processes of earlier servers, oldest first, those that run supervised again."""
    found = await asyncio.to_thread(_scan, shop, store)
    return [_revive(shop, item) for item in found]


def _scan(shop: Workshop, store: RunStore) -> list[Found]:
    boot = boot_id()
    found: list[Found] = []
    for path in sorted(store.runs.iterdir()):
        folder = store.folder(path.name)
        try:
            meta = folder.load()
            if meta is None:
                folder.remove()
            else:
                found.append(_open(shop, folder, meta, boot))
        except (OSError, ValueError) as error:  # left as it is: another server may read it
            shop.log.error(f"cannot take up run {path.name} again: {error}")
    found.sort(key=lambda item: item.meta.started_at)
    return found


def _open(shop: Workshop, folder: RunFolder, meta: RunMeta, boot: str) -> Found:
    journal = Journal.recover(folder.path, segment_bytes=shop.budget.segment_bytes)
    over = State(meta.state) in TERMINAL
    if over and meta.exit_offset is not None:
        journal.exit_offset = meta.exit_offset
        journal.sealed = meta.sealed
    sources: tuple[Source, ...] = ()
    pidfd = -1
    held = False
    if not meta.sealed and folder.fifos[0].exists():
        kept = shop.keeper.get(meta.id)
        held = len(kept) >= 2
        try:
            out, err = folder.open_readers()
            # A pipe without writers tells its end only to readers that were there before the last.
            for fd in folder.open_writers():
                os.close(fd)
            sources = (
                Source(meta.id, journal, STDOUT, out),
                Source(meta.id, journal, STDERR, err),
            )
            if not over and meta.state != State.BACKOFF:
                pidfd = kept.pop() if len(kept) == 3 else _prove(folder, meta, boot)
                _identify(meta, pidfd)
            if over:
                shop.keeper.put(meta.id, (out, err))
        finally:
            for fd in kept:
                os.close(fd)
    elif over:
        if any(fifo.exists() for fifo in folder.fifos):  # killed while it put them away
            shop.keeper.drop(meta.id)
            folder.drop_fifos()
        journal.sealed = True
        journal.exit_offset = journal.tail if meta.exit_offset is None else meta.exit_offset
    if not over and meta.state != State.BACKOFF and pidfd < 0 and not held:
        meta.uncertain = True
        shop.log.warning(f"run {meta.id} ended while nobody held its pipes: output may be missing")
    return Found(folder, meta, journal, sources, pidfd)


def _identify(meta: RunMeta, pidfd: int) -> None:
    """Find the pid of a run whose server was killed before it wrote it down."""
    if not meta.leader and pidfd >= 0:
        meta.leader = pid_of_pidfd(pidfd)
        meta.leader_start = start_time(meta.leader) if meta.leader else 0
    meta.pid = meta.pid or (str(meta.leader) if meta.leader else meta.id)


def _prove(folder: RunFolder, meta: RunMeta, boot: str) -> int:
    """Return a pidfd of the run's process if it still runs and is the same; else -1."""
    pid, began = meta.leader, meta.leader_start
    if not pid:
        pid, began = _holder(folder), 0
        meta.leader = pid
    elif meta.boot != boot:
        return -1
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        if began in {0, start_time(pid)}:
            return pidfd
        os.close(pidfd)
    return -1


def _holder(folder: RunFolder) -> int:
    """Return the leader of the group that has a run's pipe open; 0 if nobody has.

    For a server that was killed between starting a child and writing its pid down.
    """
    target = str(folder.fifos[0])
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if os.readlink(f"/proc/{entry.name}/fd/1") == target:
                return os.getpgid(int(entry.name))
    return 0


def _revive(shop: Workshop, found: Found) -> Process:
    meta = found.meta
    process = Process(shop, found.folder, meta, found.journal)
    shop.budget.enlist(found.journal)
    if State(meta.state) in TERMINAL:
        process.was_over(found.sources)
    elif found.pidfd >= 0:
        shop.children.adopt(meta.leader)
        process.adopt(Adopted(meta.leader, found.pidfd), found.sources)
    else:
        process.resume_without_process(found.sources)
    return process
