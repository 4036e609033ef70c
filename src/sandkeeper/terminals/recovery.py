"""Finding again, at start, the terminals of an earlier server. Each stands alone."""

import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import is_scarcity
from sandkeeper.linux.children.adopted import pid_of_pidfd, start_time
from sandkeeper.linux.paths.statefiles import Damaged, make_folder
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.runs import is_id
from sandkeeper.terminals.store import TerminalFolder, TerminalMeta

__all__ = ["find_terminals", "keeper_key", "recover_journal", "tell_failure"]


def find_terminals(
    shop: Workshop, terminals: Path
) -> list[tuple[TerminalMeta, TerminalFolder, list[int]]]:
    """Return every session with what holds it: its terminal and its pidfd, if it goes on.

    Blocks; raises OSError when the folder cannot be made or read.
    """
    make_folder(terminals, shop.state.aside)
    found: list[tuple[TerminalMeta, TerminalFolder, list[int]]] = []
    for path in sorted(terminals.iterdir()):
        folder = TerminalFolder(terminals, path.name)
        try:
            meta = _meta(shop, folder)
            if meta is not None:
                found.append((meta, folder, _held(shop, meta, folder)))
        except Exception:  # noqa: BLE001 - one session must not keep the others away
            tell_failure(shop, path.name)
    return found


def tell_failure(shop: Workshop, terminal: str) -> None:
    """Log that a session is not taken up, inside of an `except`."""
    shop.log.error(f"cannot take up terminal {terminal} again: {traceback.format_exc()}")


def _meta(shop: Workshop, folder: TerminalFolder) -> TerminalMeta | None:
    """Return what a session is; where its record is lost, what else can be told of it."""
    try:
        meta = folder.load()
        if meta is None and is_id(folder.path.name) and any(folder.journal.glob("*.seg")):
            raise Damaged("its meta.json is missing")
    except (OSError, Damaged) as error:
        if isinstance(error, OSError) and is_scarcity(error):
            raise
        record = folder.path / "meta.json"
        whole = not is_id(folder.path.name) or not folder.path.is_dir()
        if whole or os.path.lexists(record):
            shop.state.aside.put(folder.path if whole else record, error)
        return None if whole else folder.lost_meta()
    if meta is None:
        folder.remove()
    return meta


def _held(shop: Workshop, meta: TerminalMeta, folder: TerminalFolder) -> list[int]:
    """Return the descriptors of a session that goes on; without them it is over."""
    if meta.ended_at:
        return []
    fds = shop.keeper.get(keeper_key(meta))
    if len(fds) == 2:
        # The kernel knows it better than a record: signals go to that number.
        leader = pid_of_pidfd(fds[1])
        if leader and leader != meta.leader:
            meta.leader, meta.leader_start = leader, start_time(leader)
        if meta.leader:
            return fds
    for fd in fds:
        os.close(fd)
    # Nobody held the terminal: the kernel has hung its session up.
    meta.ended_at = time.time()
    try:
        folder.save(meta)
    except OSError as error:
        shop.log.error(f"cannot save terminal {meta.id}: {error.strerror}")
    return []


def recover_journal(shop: Workshop, folder: TerminalFolder, segment_bytes: int) -> Journal:
    """Open what a session showed; an empty journal where it is lost."""
    try:
        return Journal.recover(folder.journal, segment_bytes=segment_bytes, aside=shop.state.aside)
    except OSError as error:
        if os.path.lexists(folder.journal):
            shop.state.aside.put(folder.journal, error.strerror)
        with suppress(OSError):
            folder.journal.mkdir(mode=0o700)
        shop.log.warning(f"what terminal {folder.path.name} showed is lost")
        return Journal(folder.journal, segment_bytes=segment_bytes)


def keeper_key(meta: TerminalMeta) -> str:
    """Return the name under which the keeper holds a session."""
    return f"tty-{meta.id}"
