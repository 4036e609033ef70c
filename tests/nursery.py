"""Starts servers from a process that has loaded their modules already: a fork instead of 0.4 s.

Half of the suite's CPU time would be the same imports, some hundred times. What is forked runs the
command's `main` as `python -m sandkeeper` does: its own working directory, arguments, environment
and standard streams. Where a new process would inherit or read anything else than the nursery did
(signals, limits, variables of the interpreter), and with `SANDKEEPER_TEST_COLD=1` for all, servers
are started by an interpreter of their own (`tests.harness`).
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Forked", "Nursery", "nursery"]

LOADED = (
    "sandkeeper.__main__",
    "sandkeeper.cli",
    "sandkeeper.api.app",
    "sandkeeper.api.blaxel.*",
    "sandkeeper.api.code.*",
    "sandkeeper.api.control.*",
    "sandkeeper.api.e2b.*",
    "sandkeeper.api.port.*",
    "sandkeeper.api.edge.connections.frames",
    "sandkeeper.api.edge.connections.listening",
    "sandkeeper.api.edge.connections.server",
    "sandkeeper.api.mcp.code",
    "sandkeeper.api.mcp.server",
    "sandkeeper.linux.allocator",
    "sandkeeper.linux.dispositions",
    "sandkeeper.linux.paths.statelock",
    "sandkeeper.sandbox",
    "sandkeeper.terminals.cells",
    "uvicorn.lifespan.off",
)
"""What serving loads at its start, and what its first calls load: 50 ms of most servers."""

ORDER_BYTES = 1 << 17
INHERITED = frozenset({"Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapBnd", "Seccomp"})


def _inherited() -> tuple[object, ...]:
    """Return what a new process has from the one that starts it, but for what orders carry."""
    status = Path("/proc/self/status").read_text().splitlines()
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return (
        [line for line in status if line.partition(":")[0] in INHERITED],
        [resource.getrlimit(getattr(resource, name)) for name in names],
        [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in os.listdir("/proc/self/ns")],
        os.getpriority(os.PRIO_PROCESS, 0),
    )


def _read_early(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that count before any of our code does."""
    early = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")
    return {name: text for name, text in env.items() if name.startswith(early)}


class Forked:
    """A server of the nursery, with what the tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, owner: "Nursery") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._owner = owner
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return its exit status when it has ended, else None."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("sandkeeper", timeout or 0)
            self.returncode = self._owner.reap(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Our end of the process that forks servers."""

    def __init__(self, loaded: Sequence[str] = LOADED) -> None:
        self._lock = threading.Lock()
        self._inherited = _inherited()
        self._early = _read_early(os.environ)
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            # Without -P the folder of this file would be on the path of modules.
            argv = [sys.executable, "-P", __file__, "--nursery", str(its.fileno()), *loaded]
            self._process = subprocess.Popen(
                argv, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL
            )
        atexit.register(self.close)

    def fits(self, env: Mapping[str, str]) -> bool:
        """Say whether a server with these variables would be the same as one started afresh."""
        return self._early == _read_early(env) and self._inherited == _inherited()

    def start(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        streams: tuple[int, int, int],
        constants: Mapping[str, Any],
        folder: Path | None = None,
    ) -> Forked:
        """Fork a server in a folder, else in the current working directory."""
        order = [list(args), dict(env), str(folder or os.getcwd()), dict(constants)]
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(order).encode()], streams)
            return Forked(int(self._socket.recv(64)), self)

    def reap(self, pid: int) -> int:
        """Return the exit status of a server that has ended."""
        with self._lock:
            self._socket.send(str(pid).encode())
            return int(self._socket.recv(64))

    def close(self) -> None:
        """Have the nursery end; its servers go on."""
        self._socket.close()
        self._process.wait()


@functools.cache
def nursery() -> Nursery:
    """Return the nursery of this process."""
    return Nursery()


# The process that forks


def _serve_orders(sock: socket.socket, loaded: Sequence[str]) -> Sequence[str]:
    """Fork a server for each order; returns in the servers only, with their arguments."""
    gc.disable()
    for name in loaded:
        _load(name)
    # A collection in a server would touch, and by that copy, every page of what is loaded here.
    gc.collect()
    gc.freeze()
    _count_frozen_once()
    gc.enable()
    while True:
        message, fds, _flags, _address = socket.recv_fds(sock, ORDER_BYTES, 3)
        if not message:
            os._exit(0)
        order = json.loads(message)
        if isinstance(order, int):
            sock.send(str(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1])).encode())
            continue
        pid = os.fork()
        if pid == 0:
            sock.close()
            return _become(*order, fds)
        for fd in fds:
            os.close(fd)
        sock.send(str(pid).encode())


def _count_frozen_once() -> None:
    """Have a server that asks how much was frozen before it be told: to count it takes it 17 ms."""
    count, frozen = gc.get_freeze_count, gc.get_freeze_count()

    def told() -> int:
        gc.get_freeze_count = count
        return frozen

    gc.get_freeze_count = told


def _load(name: str) -> None:
    """Load a module; with `.*` at its end a package and all that is in it."""
    package = importlib.import_module(name.removesuffix(".*"))
    if name.endswith(".*"):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)


def _become(
    args: list[str], env: dict[str, str], folder: str, constants: dict[str, Any], fds: list[int]
) -> list[str]:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    for fd in fds:
        if fd > 2:
            os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    # As `python -m sandkeeper` has it.
    sys.path.insert(0, folder)
    _set(constants)
    return args


def _set(constants: Mapping[str, Any]) -> None:
    """Give constants of modules other values: `{"sandkeeper.x.y.SECONDS": 0.5}`."""
    for name, value in constants.items():
        place, _, last = name.rpartition(".")
        module = importlib.import_module(place)
        if not hasattr(module, last):
            raise AttributeError(name)
        setattr(module, last, value)


def _main() -> int:
    if sys.argv[1] == "--nursery":
        args = _serve_orders(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    else:
        _set(json.loads(sys.argv[1]))
        sys.path.insert(0, os.getcwd())
        args = sys.argv[2:]
    from sandkeeper import __main__, entry

    sys.argv = [__main__.__file__, *args]
    return entry.main()


def _end(status: int) -> NoReturn:
    """End as the interpreter does, but without taking apart what the nursery has loaded."""
    threading._shutdown()  # type: ignore[attr-defined] # ends the idle threads of executors
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    warm = sys.argv[1] == "--nursery"
    status = _main()
    if warm:
        _end(status)
    raise SystemExit(status)
