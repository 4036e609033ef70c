"""Standstills are told in the log, and kept for the server after this one.

`standstills.json` of the state folder has those of one boot: the next server's `WORK`
(linux.clocks) goes on from there, so that a time limit leaves them out over a restart as well.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from sandkeeper.linux.children.adopted import boot_id
from sandkeeper.linux.clocks import WORK, uptime
from sandkeeper.linux.paths.statefiles import Damaged, decoded, read_plain, write_atomically
from sandkeeper.log.lines import Log

__all__ = ["Standstills"]


class _Saved(msgspec.Struct):
    boot: str
    stills: list[tuple[float, float]]


def _is_sound(stills: list[tuple[float, float]]) -> bool:
    """Say whether they may be true: one after the other, each with an end that has been."""
    end = 0.0
    for began, seconds in stills:
        if began < end or seconds <= 0:
            return False
        end = began + seconds
    return end <= uptime()


class Standstills:
    """Keeps those of `WORK` in a file, written by `writer`."""

    def __init__(self, path: Path, writer: Executor, log: Log) -> None:
        self._path, self._writer, self._log = path, writer, log

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Take up those of the server before, and note each from now on."""
        with suppress(OSError, Damaged):
            saved = decoded(read_plain(self._path), _Saved)
            if saved.boot == boot_id() and _is_sound(saved.stills):
                WORK.stills[:] = saved.stills
        WORK.woken.append(self._woken)
        try:
            yield
        finally:
            WORK.woken.remove(self._woken)

    def _woken(self, seconds: float) -> None:
        if not seconds:
            self._log.info("the clock was put forward: connections are looked at again")
            return
        self._log.info(
            f"nothing ran here for {seconds:.0f} s (a pause, a suspended machine): time limits go "
            "on from where they were, connections are looked at again"
        )
        data = msgspec.json.encode(_Saved(boot_id(), WORK.stills))
        self._writer.submit(self._write, data)

    def _write(self, data: bytes) -> None:
        try:
            write_atomically(self._path, data)
        except OSError as error:
            self._log.warning(f"standstills cannot be noted: {error.strerror}")
