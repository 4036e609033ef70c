"""Real servers for tests: each in its own process, with its own state directory."""

import contextlib
import functools
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandkeeper.processes.runs import pipes_folder, places_folder
from tests import nursery

__all__ = [
    "ALONE",
    "BASE_PYTHON",
    "FirstProcess",
    "Server",
    "alive",
    "cases",
    "children_of",
    "debian",
    "fill",
    "free_port",
    "make_files",
    "needs_root",
    "open_files",
    "over",
    "resident",
    "small_disk",
    "start",
    "state_of",
    "stop_all_of",
    "until",
    "words_of",
    "zombies_of",
]

BASE_PYTHON = f"{sys.base_prefix}/bin/python3"
"""The Python below ours. Whatever `python3` is found may be a manager of versions, which does more
after an installation, and one at a time."""

APT = Path(__file__).parents[1] / "scripts/apt"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it changes users, owners, mounts or namespaces"
)


def cases(full: int) -> int:
    """Return how many random cases to try: a third of `full`, or so many times it as is asked for.

    `SANDKEEPER_TEST_FULL=1` tries all, 10 ten times as many.
    """
    return max(1, round(full * float(os.environ.get("SANDKEEPER_TEST_FULL") or 1 / 3)))


ALONE = {"sandkeeper.processes.oom.COUNTS": os.devnull}
"""For servers whose processes are killed: other tests run out of memory, which the kernel counts
for the whole machine."""


def debian(*packages: str) -> None:
    """Install Debian packages that are missing; who may not do that skips the test."""
    done = subprocess.run([APT, *packages], capture_output=True, text=True, check=False)
    if done.returncode and os.geteuid():
        pytest.skip(done.stderr.strip() or f"cannot install {packages}")
    assert done.returncode == 0, done.stderr


@functools.cache
def _ports() -> Iterator[int]:
    """Return ports that are this process's alone: whoever binds to port 0 gets others (ip(7))."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    # Above 10080, the highest that no browser connects to (the Fetch standard's bad ports).
    low, high = (10_081, first) if first > 20_000 else (last + 1, 1 << 16)
    each = (high - low) // 12
    low += (1 + int(worker.removeprefix("gw")) % 11 if worker else 0) * each
    # Another run on this machine begins elsewhere.
    place = random.SystemRandom().randrange(each)
    return itertools.cycle([*range(low + place, low + each), *range(low, low + place)])


def free_port() -> int:
    """Return a TCP port that nothing listens on now, and that nobody else is given meanwhile."""
    for port in _ports():
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", port))
            return port
    raise AssertionError("unreachable")


def until(check: Any, timeout: float = 100.0, every: float = 0.0) -> Any:
    """Return the first true value of `check()`; fails after `timeout` seconds.

    Without `every` it looks less often the longer it waits, for looking takes CPU time from others.
    """
    deadline = time.monotonic() + timeout
    pause = every or 0.002
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(pause)
        pause = every or min(pause * 1.25, 0.03)
    raise AssertionError(f"not within {timeout} s: {check}")


def state_of(pid: int) -> str:
    """Return the letter of a process's state (proc(5)); empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Say whether a process runs: one that has ended and only waits for its parent does not."""
    return state_of(pid) not in {"", "Z", "X"}


def children_of(pid: int, name: str = "") -> set[int]:
    """Return the children of a process, zombies too: all, or those of a name."""
    found: set[int] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            found |= set(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    return {child for child in found if not name or _name_of(child) == name}


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def words_of(pid: int) -> list[bytes]:
    """Return the command line of a process; nothing of one that is a zombie or gone."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return line.removesuffix(b"\0").split(b"\0") if line else []


def zombies_of(pid: int) -> set[int]:
    """Return the children of a process that have ended and were not reaped."""
    return {child for child in children_of(pid) if state_of(child) == "Z"}


def open_files(pid: int) -> list[str]:
    """Return what the descriptors of a process lead to."""
    links: list[str] = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links


def resident(pid: int) -> int:
    """Return the memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int, inodes: int = 0) -> Iterator[Path]:
    """Mount a tmpfs of a few megabytes (and inodes, if given) on `folder`; needs root."""
    folder.mkdir()
    options = f"size={megabytes}m,nr_inodes={inodes}"  # 0: no limit
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def make_files(folder: Path, names: Iterable[str]) -> None:
    """Make empty files, many of them."""
    fd = os.open(folder, os.O_RDONLY)
    for name in names:
        os.mknod(name, 0o644, dir_fd=fd)
    os.close(fd)


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(fd, b"b" * 4096):
            pass
    os.close(fd)


_STOPPER = """
import os, signal, sys
os.setgroups([])
os.setresgid(*[int(sys.argv[1])] * 3)
os.setresuid(*[int(sys.argv[1])] * 3)
print(flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""


def stop_all_of(uid: int) -> subprocess.Popen[bytes]:
    """Start a program of a user that stops every other process of that user, over and over.

    kill(2) with -1 leaves its caller out. Needs root; the caller kills it and waits for it.
    """
    argv = [sys.executable, "-I", "-S", "-c", _STOPPER, str(uid)]
    stopper = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert stopper.stdout is not None
    with stopper.stdout:
        stopper.stdout.readline()
    return stopper


class Server:
    """One sandkeeper process; use as a context manager.

    `constants` are constants of its modules with other values, by their full names: what a test
    would wait for only because it is long. Tests have it forked from the nursery, unless `cold`;
    `forker` is another one, for servers that differ in what an interpreter reads at its start.
    """

    warm = False

    def __init__(
        self,
        folder: Path,
        *,
        env: dict[str, str] | None = None,
        args: Any = (),
        constants: dict[str, Any] | None = None,
        cold: bool = False,
        forker: nursery.Nursery | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.workdir = folder / "work"
        # Shells read files there: whoever runs the tests has their own, which may take a minute.
        self.home = folder / "home"
        for place in (self.workdir, self.home):
            place.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.args = list(args)
        self.module = "sandkeeper"
        self.constants = constants or {}
        self.warm = self.warm and not cold
        self.forker = forker
        self.stdout = subprocess.DEVNULL
        self.kills = 0
        self.env = {
            **os.environ,
            "SANDKEEPER_STATE_DIR": str(self.state),
            "SANDKEEPER_LOG": str(self.log_path),
            "WORKDIR": str(self.workdir),
            # Uploads in parts would be seen by the servers of all tests.
            "TMPDIR": str(self._made("tmp")),
            "HOME": str(self.home),
            "SHELL": "/bin/bash",
            **(env or {}),
        }
        self.process: subprocess.Popen[bytes] | nursery.Forked | None = None
        # It speaks no TLS: what would check certificates takes longer to make than most requests.
        self.client = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, verify=False)

    def _made(self, name: str) -> Path:
        made = self.folder / name
        made.mkdir(exist_ok=True)
        return made

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop it and remove what would stay of it outside of its folder."""
        self.stop()
        self.client.close()
        self.let_go()
        # What processes that go on still have open stays in memory for them; the names need not.
        runtime = self.env.get("XDG_RUNTIME_DIR", "")
        shutil.rmtree(pipes_folder(self.state, runtime), ignore_errors=True)
        shutil.rmtree(places_folder(self.state, runtime), ignore_errors=True)

    def let_go(self) -> None:
        """Have the keeper end, and with the terminals it holds the shells in them."""
        (self.state / "keeper.sock").unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait for /health."""
        args = ["--host", "127.0.0.1", "--port", str(self.port), *self.args]
        with open(self.folder / "stderr.log", "ab") as stderr, open(os.devnull, "r+b") as null:
            stdout = null.fileno() if self.stdout == subprocess.DEVNULL else self.stdout
            warm = None
            if self.warm and self.module == "sandkeeper":
                warm = self.forker or nursery.nursery()
            if warm is not None and warm.fits(self.env):
                streams = (null.fileno(), stdout, stderr.fileno())
                self.process = warm.start(args, self.env, streams, self.constants)
            else:
                self.process = subprocess.Popen(
                    [*self._cold_command(), *args],
                    env=self.env,
                    stdin=null,
                    stdout=stdout,
                    stderr=stderr,
                )
        until(self._answers)

    def _cold_command(self) -> list[str]:
        if not self.constants:
            return [sys.executable, "-m", self.module]
        return [sys.executable, "-P", nursery.__file__, json.dumps(self.constants)]

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(
                f"server exited with {self.process.returncode}: "
                + (self.folder / "stderr.log").read_text()[-2000:]
            )
        # Asked every few milliseconds: what follows redirects and proxies would cost a multiple.
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            asking.request("GET", "/health")
            return asking.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asking.close()

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill9(self) -> None:
        """Kill it as hard as the kernel can."""
        assert self.process is not None
        self.kills += 1
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again on the same port and state."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.start()

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of the server's log; each kill -9 may have torn one."""
        lines: list[dict[str, Any]] = []
        torn = 0
        for line in self.log_path.read_bytes().split(b"\n")[:-1]:
            try:
                lines.append(json.loads(line))
            except ValueError:
                torn += 1
        assert torn <= self.kills
        return lines

    def run(self, command: str, **fields: Any) -> dict[str, Any]:
        """POST a process that is waited for; returns its record."""
        body = {"command": command, "waitForCompletion": True, **fields}
        reply = self.client.post("/process", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()


class FirstProcess(Server):
    """A server that is process 1 of a pid namespace, whose numbers are its own."""

    def start(self) -> None:
        """Start it and wait for /health."""
        outer = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "--"]
        inner = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1"]
        with open(self.folder / "stderr.log", "ab") as stderr:
            self.process = subprocess.Popen(
                [*outer, *inner, "--port", str(self.port)], env=self.env, stderr=stderr
            )
        until(self._answers)

    def stop(self) -> int:
        """Kill the namespace with its first process."""
        assert self.process is not None
        self.process.kill()
        return self.process.wait(60)


def start(server: Server, command: str, **fields: Any) -> dict[str, Any]:
    """POST a process that is not waited for; returns its record."""
    reply = server.client.post("/process", json={"command": command, **fields})
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


def over(server: Server, identifier: str, seconds: int = 60) -> dict[str, Any]:
    """Wait for the end of a process; returns its record, of which the status may say otherwise."""
    url = f"/process/{identifier}/wait?timeout={seconds}"
    record: dict[str, Any] = server.client.get(url, timeout=seconds + 30).json()
    return record
