"""Finding again, at start, what an earlier server left: every run, running or over."""

import asyncio
import os
import select
import stat
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.journal.exported import read_positions
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import STDERR, STDOUT, is_scarcity, put_back
from sandkeeper.journal.source import Source
from sandkeeper.journal.stage import Stage
from sandkeeper.linux.children.adopted import Adopted, boot_id, pid_of_pidfd, start_time
from sandkeeper.linux.paths.statefiles import Damaged, SetAside
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.lifecycle import TERMINAL, State
from sandkeeper.processes.process import Process
from sandkeeper.processes.record import RunMeta
from sandkeeper.processes.runs import RunFolder, RunStore, is_id

__all__ = ["prepare_state", "recover"]


class Found(msgspec.Struct):
    """One run of an earlier server, its pipes open again if it has them, its pidfd if it lives."""

    folder: RunFolder
    meta: RunMeta
    journal: Journal
    sources: tuple[Source, ...]
    pidfd: int


def prepare_state(shop: Workshop, store: RunStore, *, trial: bool) -> None:
    """Make ready what runs live in, and find the keeper; blocks.

    Raises OSError when nothing can be kept. A trial leaves the keeper and the groups alone.
    """
    aside = shop.state.aside
    store.prepare(aside)
    for stage in store.stages:
        _restore_stage(stage, store, aside)
    if trial:
        return
    shop.confinements.prepare()
    try:
        shop.keeper.open()
    except OSError as error:
        shop.log.warning(f"no keeper: output may be lost if the server is killed: {error}")


def _restore_stage(stage: Path, store: RunStore, aside: SetAside) -> None:
    """Put bytes that a killed server held in its stage where they belong."""
    try:
        staged = Stage.recover(stage)
        if staged is not None:
            run, offset, data = staged
            if is_id(run) and store.folder(run).path.is_dir():
                put_back(store.folder(run).path, offset, data)
    except OSError as error:
        aside.put(stage, error.strerror)
    stage.unlink(missing_ok=True)


async def recover(shop: Workshop, store: RunStore) -> list[Process]:
    """Return the processes of earlier servers, oldest first, those that run supervised again.

    Each stands alone: what is broken of one is told, set aside and costs the others nothing.
    """
    found = await asyncio.to_thread(_scan, shop, store)
    revived = []
    for item in found:
        try:
            revived.append(_revive(shop, item))
        except Exception:  # noqa: BLE001 - one run must not keep the others away
            _tell(shop, item.folder.id)
    return revived


def _scan(shop: Workshop, store: RunStore) -> list[Found]:
    boot = boot_id()
    found: list[Found] = []
    for path in sorted(store.runs.iterdir()):
        try:
            item = _look(shop, store.folder(path.name), boot)
        except ValueError as error:  # left as it is: another server may read it
            shop.log.error(f"cannot take up run {path.name} again: {error}")
        except Exception:  # noqa: BLE001 - one run must not keep the others away
            _tell(shop, path.name)
        else:
            found += [item] if item is not None else []
    found.sort(key=lambda item: item.meta.started_at)
    return found


def _tell(shop: Workshop, run: str) -> None:
    shop.log.error(f"cannot take up run {run} again: {traceback.format_exc()}")


def _look(shop: Workshop, folder: RunFolder, boot: str) -> Found | None:
    """Take up one run; None for what never was one, or is none any more."""
    if not stat.S_ISDIR(os.lstat(folder.path).st_mode):
        shop.state.aside.put(folder.path, "it is not a folder")
        return None
    try:
        meta = folder.load()
        if meta is None and is_id(folder.id) and folder.is_announced:
            raise Damaged("it is empty")
    except (OSError, Damaged) as error:
        return _without_record(shop, folder, boot, error)
    if meta is None:
        folder.remove()
        return None
    return _open(shop, folder, meta, boot)


def _without_record(
    shop: Workshop, folder: RunFolder, boot: str, error: OSError | Damaged
) -> Found | None:
    """Go on with a run by what else is left of it: its output, its pipes, its process."""
    record = folder.path / "meta.jsonl"
    if isinstance(error, OSError) and is_scarcity(error):
        raise error
    if not is_id(folder.id):
        shop.state.aside.put(folder.path, error)
        return None
    if os.path.lexists(record):
        shop.state.aside.put(record, error)
    meta = folder.lost_record()
    shop.log.warning(f"the record of run {folder.id} is lost; its output is kept under that id")
    try:
        folder.save(msgspec.json.encode(meta))
    except OSError as failure:
        shop.log.error(f"cannot save {folder.id}: {failure.strerror}")
    return _open(shop, folder, meta, boot)


def _journal(shop: Workshop, folder: RunFolder, meta: RunMeta) -> Journal:
    journal = Journal.recover(
        folder.path, segment_bytes=shop.budget.segment_bytes, aside=shop.state.aside
    )
    if State(meta.state) in TERMINAL and meta.exit_offset is not None:
        missing = journal.expect(max(meta.exit_offset, meta.end_offset or 0))
        if missing:
            shop.log.warning(f"{missing} bytes at the end of the output of {folder.id} are lost")
        journal.exit_offset = meta.exit_offset
        journal.sealed = meta.sealed
    for exported in folder.exported:
        try:
            read_positions(exported, journal.tail)
        except (OSError, Damaged) as error:
            if isinstance(error, OSError) and is_scarcity(error):
                raise
            shop.state.aside.put(exported, error)
    return journal


def _open(shop: Workshop, folder: RunFolder, meta: RunMeta, boot: str) -> Found:
    journal = _journal(shop, folder, meta)
    over = State(meta.state) in TERMINAL
    if meta.state == State.BACKOFF and meta.boot != boot:
        meta.boot, meta.due_uptime = boot, 0.0
    sources: tuple[Source, ...] = ()
    pidfd = -1
    held = False
    if not meta.sealed and folder.has_pipes(shop.state.aside):
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
                shop.confinements.renew(meta)
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
    if not over and meta.state != State.BACKOFF and not held and _has_ended(pidfd):
        meta.uncertain = True
        shop.log.warning(f"run {meta.id} ended while nobody held its pipes: output may be missing")
    return Found(folder, meta, journal, sources, pidfd)


def _has_ended(pidfd: int) -> bool:
    """Say whether a process is over: gone, or a zombie, whose pidfd is readable (pidfd_open(2))."""
    if pidfd < 0:
        return True
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _identify(meta: RunMeta, pidfd: int) -> None:
    """Find the pid of a run whose server was killed before it wrote it down.

    The kernel knows it better than a record: signals go to that number.
    """
    held = pid_of_pidfd(pidfd) if pidfd >= 0 else 0
    if held and held != meta.leader:
        meta.leader, meta.leader_start = held, start_time(held)
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
