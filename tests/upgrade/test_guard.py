"""The guard of an upgrade, with tiny servers: whatever one of them does, the way back is found."""

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.harness import until

from sandkeeper.upgrade import guard
from sandkeeper.upgrade.handover import Handover, NotAHandover

GOOD = """
import json, os, socket, sys
document = json.loads(os.pread(int(sys.argv[2]), 1 << 20, 0))
listener = socket.socket(fileno=document["listener"])
while True:
    peer, _ = listener.accept()
    peer.recv(65536)
    body = b'{"version": "VERSION"}'
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    peer.close()
"""

BACK = """
import json, os, sys
document = json.loads(os.pread(int(sys.argv[1]), 1 << 20, 0))
document["pid"] = os.getpid()
document["socket"] = os.fstat(document["listener"]).st_ino
with open(sys.argv[2] + ".new", "w") as file:
    json.dump(document, file)
os.rename(sys.argv[2] + ".new", sys.argv[2])
"""


class Change:
    """One change to a server whose module is `text`."""

    def __init__(self, folder: Path, text: str, *, seconds: float = 20.0) -> None:
        package = folder / "sandkeeper"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(text)
        self.back = folder / "back"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.client, kept = socket.socketpair()
        self.verdict, write_end = os.pipe()
        copy = os.dup(self.listener.fileno())
        document = Handover(listener=copy).write()
        written = json.loads(os.pread(document, 1 << 20, 0))
        written["connections"] = [{"fd": kept.fileno()}, {"fd": 999}]
        os.pwrite(document, json.dumps(written).encode(), 0)
        plan = {
            "run": ["--handover", str(document)],
            "paths": [str(folder)],
            "handover": document,
            "listener": self.listener.fileno(),
            "verdict": write_end,
            "address": ["127.0.0.1", self.listener.getsockname()[1], "2.0", seconds],
            "back": {
                "arguments": [sys.executable, "-c", BACK, str(document), str(self.back)],
                "environment": dict(os.environ),
                "plan": os.open("/dev/null", os.O_RDONLY),
            },
        }
        fd = os.memfd_create("plan")
        os.write(fd, json.dumps(plan).encode())
        given = (
            fd,
            document,
            copy,
            write_end,
            plan["listener"],
            kept.fileno(),
            plan["back"]["plan"],
        )
        self.server = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(fd)],
            pass_fds=given,
            stderr=subprocess.DEVNULL,
        )
        self.socket = os.fstat(self.listener.fileno()).st_ino
        self.kept = kept.fileno()
        for number in {*given} - {plan["listener"]}:
            if number != kept.fileno():
                os.close(number)
        kept.close()

    def went_back(self) -> dict[str, Any]:
        """Wait for the way back; returns the document as the earlier server finds it."""
        until(self.back.exists)
        found: dict[str, Any] = json.loads(self.back.read_text())
        assert found["socket"] == self.socket
        return found

    def let_go(self) -> None:
        """Close our end of the socket and wait until the judge has gone, who holds it as well."""
        address = self.listener.getsockname()
        self.listener.close()

        def refused() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(address) != 0

        until(refused)

    def close(self) -> None:
        """End everything."""
        self.server.kill()
        self.server.wait()
        self.listener.close()
        self.client.close()
        os.close(self.verdict)


@pytest.fixture
def change(tmp_path: Path) -> Any:
    made: list[Change] = []

    def make(text: str, **options: Any) -> Change:
        made.append(Change(tmp_path, text, **options))
        return made[0]

    yield make
    made[0].close()


def test_a_server_that_answers_in_its_version_is_told_that_it_may_stay(change: Any) -> None:
    change = change(GOOD.replace("VERSION", "2.0"))

    assert select.select([change.verdict], [], [], 30)[0]
    assert os.read(change.verdict, 16) == b"ok"
    # Nothing of the guard is left: when the server goes, nobody comes back.
    change.server.kill()
    change.server.wait()
    assert os.read(change.verdict, 16) == b""
    assert not change.back.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nothing_of_the_sort", "ModuleNotFoundError"),
        ("raise SystemExit(0)", "SystemExit(0)"),
        ("pass", "it returned"),
    ],
)
def test_a_server_that_ends_by_itself_is_replaced_in_its_own_process(
    change: Any, text: str, why: str
) -> None:
    change = change(text)

    found = change.went_back()
    assert found["pid"] == change.server.pid
    # That one ends soon as well, and nobody is started in its place.
    assert change.server.wait(60) == 0
    change.back.unlink()
    change.let_go()
    assert not change.back.exists()
    assert why in found["failed"]
    # A connection that nobody has taken goes on; a number that stands for none does not.
    assert found["connections"] == [{"fd": change.kept}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import threading; threading.Event().wait()", "not answered"),
        (GOOD, "tells version VERSION, not 2.0"),
    ],
)
def test_a_server_that_does_not_answer_rightly_is_replaced_in_its_own_process(
    change: Any, text: str, why: str
) -> None:
    change = change(text, seconds=0.5 if why == "not answered" else 4.0)

    found = change.went_back()
    assert found["pid"] == change.server.pid
    assert why in found["failed"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os; os._exit(3)", "its process died"),
        ("import os; os.kill(os.getpid(), 9)", "its process died"),
        ("import re; re.match('(a+)+$', 'a' * 64 + 'b')", "was killed"),
    ],
)
def test_a_server_whose_process_is_lost_is_replaced_by_another_process(
    change: Any, text: str, why: str
) -> None:
    # A process that ends by itself may take longer than that on a busy machine.
    change = change(text, **({"seconds": 0.5} if why == "was killed" else {}))

    found = change.went_back()
    assert found["pid"] != change.server.pid
    assert why in found["failed"]


def test_a_server_that_is_told_to_end_before_the_verdict_is_not_replaced(change: Any) -> None:
    change = change("import threading\nprint(end='', flush=True)\nthreading.Event().wait()")
    until(lambda: "T" not in _blocked(change.server.pid))

    change.server.terminate()

    assert change.server.wait(60) == 0
    change.let_go()
    assert not change.back.exists()


def _blocked(pid: int) -> str:
    """Return `T` as long as SIGTERM is not caught by a process (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return "" if int(line.split()[1], 16) & 1 << 14 else "T"
    return "T"


def test_what_is_no_handover_is_refused() -> None:
    fd = os.memfd_create("nothing")
    try:
        with pytest.raises(NotAHandover):
            Handover.read(fd)
        os.write(fd, b'{"format": 2}')
        with pytest.raises(NotAHandover, match="format 2"):
            Handover.read(fd)
    finally:
        os.close(fd)
