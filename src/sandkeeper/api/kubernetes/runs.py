"""Programs on these wires: processes of the registry, their output read from a journal."""

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandkeeper.api.kubernetes.root import Root
from sandkeeper.errors import TooLarge
from sandkeeper.files.work import FileWork, by_errno
from sandkeeper.journal.cursor import tails
from sandkeeper.journal.segment import STDERR, STDOUT
from sandkeeper.linux.paths.entering import enter_folder
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access, Caller
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.spec import ProcessSpec

__all__ = ["OUTPUT_BYTES", "Ended", "Runs", "exit_code"]

OUTPUT_BYTES = 16 << 20
"""So much of both streams together is answered in one message."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: `code` is -1 after a signal; `late`: its time was up."""

    code: int
    late: bool
    stdout: bytes
    stderr: bytes


class Runs:
    """Starts programs below a root."""

    def __init__(
        self, *, processes: Processes, work: FileWork, users: Users, root: Root, access: Access
    ) -> None:
        self._processes = processes
        self._work = work
        self._users = users
        self._access = access
        self.root = root

    async def folder(self, given: str) -> str:
        """Return where a program is to run; raises Forbidden outside of the root, NotFound."""
        path = await self._work.run(self.root.inside, given)
        try:
            await self._work.own(enter_folder, path, self._users.current())
        except (OSError, ValueError) as error:
            raise by_errno(given or path, error) from None
        return path

    async def start(
        self,
        words: Sequence[str],
        who: Caller,
        *,
        env: Mapping[str, str] | None = None,
        folder: str = "",
        seconds: float | None = None,
        stdin: bool = False,
    ) -> Process:
        """Start a program; raises Unprocessable when it cannot be started, and as `folder` does."""
        place = await self.folder(folder)
        command = shlex.join(words)
        self._access.audit("process_exec", who, command=command, working_dir=place)
        spec = ProcessSpec(
            command=command,
            argv=list(words),
            working_dir=place,
            env=dict(env or {}),
            timeout=seconds,
            stdin=stdin,
        )
        process, _ = await self._processes.start(spec)
        return process

    async def ended(self, process: Process) -> Ended:
        """Wait for the end of a program and read all it wrote; raises TooLarge."""
        await process.wait()
        meta, journal = process.meta, process.journal
        total = journal.totals[STDOUT] + journal.totals[STDERR]
        if total > OUTPUT_BYTES:
            raise TooLarge(
                f"the output has {total} bytes, an answer {OUTPUT_BYTES} at most: it is kept as "
                f"that of the process {meta.pid}"
            )
        found = await asyncio.to_thread(tails, journal, (STDOUT, STDERR), OUTPUT_BYTES)
        out, err = (b"".join(part for _, part in found[kind][0]) for kind in (STDOUT, STDERR))
        return Ended(max(-1, exit_code(process)), process.timed_out, out, err)


def exit_code(process: Process) -> int:
    """Return the code of an exit, the negative number of a signal, -1 where nobody knows."""
    meta = process.meta
    return -(meta.exit_signal or 0) or (-1 if meta.exit_code is None else meta.exit_code)
