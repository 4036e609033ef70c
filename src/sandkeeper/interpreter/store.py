"""Folders of contexts and their executions; all functions block.

<state>/code/scribe.sock, scribe.log      where the scribe listens, what it complains of
<state>/code/contexts/<id>/meta.json      what a context is; without it the folder is to go
<state>/code/contexts/<id>/<execution>/   interpreter.scribe.recorder
<places>/<id>/                            the workload's: sockets, connection files, pipes
"""

import os
import shutil
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.interpreter.scribe.finishing import read_execution
from sandkeeper.interpreter.specs import ContextMeta, ExecutionMeta
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import Damaged, SetAside, decoded, make_folder, read_plain
from sandkeeper.processes.runs import is_id, places_folder

__all__ = ["CodeStore"]


class CodeStore:
    """The folder `<state>/code` and what belongs to it."""

    def __init__(self, state: Path, runtime: str) -> None:
        self.folder = state / "code"
        self.contexts = self.folder / "contexts"
        self.socket = self.folder / "scribe.sock"
        self.log = self.folder / "scribe.log"
        self._state = state
        self._runtime = runtime

    def prepare(self, aside: SetAside) -> None:
        """Make the folders; raises OSError."""
        for folder in (self.folder, self.contexts):
            make_folder(folder, aside)

    def place(self, context: str) -> Path:
        """Return the folder of a context's sockets; raises OSError."""
        return places_folder(self._state, self._runtime) / context[-16:]

    def make(self, meta: ContextMeta, identity: Identity | None) -> Path:
        """Make the folders of a context; returns its place. Raises OSError."""
        self.contexts.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.contexts / meta.id).mkdir(mode=0o700)
        place = self.place(meta.id)
        place.mkdir(mode=0o700)
        if identity is not None and not identity.is_ours:
            os.chown(place, identity.uid, identity.gid)
        return place

    def save(self, meta: ContextMeta) -> None:
        """Replace a context's record; raises OSError."""
        folder = self.contexts / meta.id
        temporary = folder / "meta.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(meta))
        finally:
            os.close(fd)
        os.rename(temporary, folder / "meta.json")

    def load(
        self, aside: SetAside, tell: Callable[[str], None]
    ) -> list[tuple[ContextMeta, list[ExecutionMeta]]]:
        """Return what earlier servers left, each context alone; what is broken is set aside."""
        found = []
        for path in sorted(self.contexts.iterdir()):
            try:
                if is_id(path.name) and (meta := self._context(path, aside)) is not None:
                    found.append((meta, self._executions(path, aside)))
            except Exception:  # noqa: BLE001 - one context must not keep the others away
                tell(f"cannot take up code context {path.name}: {traceback.format_exc()}")
        return found

    def _context(self, path: Path, aside: SetAside) -> ContextMeta | None:
        record = path / "meta.json"
        try:
            meta = decoded(read_plain(record), ContextMeta)
        except FileNotFoundError:
            self.remove(path.name)
            return None
        except (OSError, Damaged) as error:
            aside.put(path, error)
            return None
        meta.id = path.name
        if meta.version != 1:
            raise ValueError(f"its record is of version {meta.version}")
        return meta

    def _executions(self, path: Path, aside: SetAside) -> list[ExecutionMeta]:
        found = []
        for folder in sorted(path.iterdir()):
            if not is_id(folder.name):
                continue
            try:
                found.append(read_execution(folder))
            except (OSError, Damaged) as error:
                aside.put(folder, error)
        return found

    def forget(self, context: str) -> None:
        """Have a context be gone, whenever its folder goes."""
        (self.contexts / context / "meta.json").unlink(missing_ok=True)

    def remove(self, context: str) -> None:
        """Remove everything of a context."""
        self.forget(context)
        shutil.rmtree(self.contexts / context, ignore_errors=True)
        with suppress(OSError):
            shutil.rmtree(self.place(context), ignore_errors=True)

    def remove_execution(self, meta: ExecutionMeta) -> None:
        """Remove an execution that is over."""
        shutil.rmtree(self.contexts / meta.context / meta.id, ignore_errors=True)
