"""The law of `/filesystem-changes` while a program goes on changing the tree."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import Server
from tests.watch import storm
from tests.watch.test_changes import Copy, check, copied

from sandkeeper.watch.changes import Difference


@contextmanager
def stopped(program: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Have a program do nothing for a while."""
    program.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED)
    try:
        yield
    finally:
        program.send_signal(signal.SIGCONT)


def test_whenever_a_cursor_is_taken_the_answer_leads_from_there_to_here(
    server: Server, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    seed = random.Random().randrange(1 << 30)
    asked = 0

    def ask(since: str) -> tuple[Difference, str]:
        reply = server.client.get(f"/filesystem-changes/{root}", params={"since": since})
        found = reply.raise_for_status().json()
        kinds = [[os.fsencode(p) for p in found[k]] for k in ("created", "changed", "deleted")]
        return Difference("", found["reset"], *kinds), found["cursor"]

    taken: list[tuple[str, Copy]] = []
    _, cursor = ask("")
    program = subprocess.Popen([sys.executable, storm.__file__, str(root), str(seed)])
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until or asked < 10:
            with stopped(program):
                now = copied(root)
                for since, then in taken[-4:]:
                    answer, cursor = ask(since)
                    asked += not answer.reset
                    if not answer.reset:  # the kernel may have dropped notices of such a storm
                        check(answer, then, now)
                _, cursor = ask(cursor)
                taken.append((cursor, now))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}") from error
    finally:
        program.kill()
        program.wait()
