"""The spawner: starts programs as the workload's user without the server ever waiting for one.

A process that has become the workload's is the workload's to stop, also before its exec. Whoever
waits for that exec, as `subprocess` does, waits as long as the workload likes. So such starts are
made by a process of our own (`spawner_main`), which the workload cannot signal; what becomes of
them is read from a pipe by the event loop, with a deadline, and a child that has not become its
program by then is killed, which the workload cannot prevent.
"""

import asyncio
import errno
import marshal
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from sandkeeper.linux.children import spawner_main
from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable

__all__ = ["START_SECONDS", "Report", "Spawner", "SpawnerGone"]

START_SECONDS = 10.0
AGAIN_SECONDS = 0.005


class SpawnerGone(OSError):
    """The spawner has ended, and made nothing of an order: it may be given to another."""

    def __init__(self) -> None:
        super().__init__(errno.ECHILD, "the spawner has ended")


class Report:
    """What becomes of one start: the reading end of its pipe."""

    def __init__(self, fd: int, program: str, folder: str) -> None:
        self._fd = fd
        self._names = {b"exec": program, b"folder": folder}
        self._seen = b""
        self._over = False

    async def pid(self) -> int:
        """Wait for the child's pid; raises OSError when there is none.

        SpawnerGone is raised where nothing was made: a child tells its pid before it is a program.
        """
        while len(self._seen) < spawner_main.NUMBER.size and not self._over:
            await self._more()
        pid = self._number(0)
        if pid <= 0:
            raise self._failure() or SpawnerGone
        return pid

    def told(self) -> int:
        """Return the child's pid if it has come by now, else 0."""
        if not self._seen:
            with suppress(BlockingIOError):
                self._seen = os.read(self._fd, 256)
        return max(0, self._number(0))

    async def exec(self) -> None:
        """Wait until the child is its program, or killed; raises OSError when it cannot be."""
        while not self._over:
            await self._more()
        failed = self._failure()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    async def _more(self) -> None:
        try:
            data = os.read(self._fd, 256)
        except BlockingIOError:
            await readable(self._fd)
            return
        self._seen += data
        self._over = not data

    def _number(self, place: int) -> int:
        size = spawner_main.NUMBER.size
        found = self._seen[place * size : (place + 1) * size]
        return int(spawner_main.NUMBER.unpack(found)[0]) if len(found) == size else 0

    def _failure(self) -> OSError | None:
        code = self._number(1)
        if not code:
            return None
        stage = self._seen[2 * spawner_main.NUMBER.size :]
        name = self._names.get(stage)
        if name is None:
            return OSError(code, f"it could not be prepared: {os.strerror(code).lower()}")
        return OSError(code, os.strerror(code), name)


class Spawner:
    """Our end of the spawner's socket; event loop's thread only.

    `launch` starts a child of our own. The process is started with the first order and again after
    it has ended.
    """

    def __init__(self, launch: Callable[[Spawn], Child]) -> None:
        self._launch = launch
        self._socket: socket.socket | None = None
        self._child: Child | None = None

    def open(self, spec: Spawn) -> None:
        """Start the process as `spec` says, but for its arguments; raises OSError."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                argv = [sys.executable, "-I", "-S", spawner_main.__file__, str(its.fileno())]
                self._child = self._launch(replace(spec, argv=argv, pass_fds=(its.fileno(),)))
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours

    @property
    def alive(self) -> bool:
        """Whether it runs; reaps it when it does not."""
        child = self._child
        if child is None:
            return False
        if child.has_exited():
            child.reap()
            self.close()
            return False
        return True

    async def order(self, spec: Spawn, folder: int) -> Report:
        """Have a program started; raises OSError (SpawnerGone), ValueError on a NUL byte.

        `folder` is a descriptor of its working directory. The descriptors of `spec` and `folder`
        may be closed as soon as this returns.
        """
        fds: list[int] = []

        def place(fd: int) -> int:
            if fd < 0:
                return -1
            fds.append(fd)
            return len(fds) - 1

        assert spec.identity is not None
        order = spawner_main.Order(
            argv=[os.fsencode(word) for word in spec.argv],
            paths=_paths(spec),
            env={os.fsencode(name): os.fsencode(text) for name, text in spec.env.items()},
            stdio=(place(spec.stdin), place(spec.stdout), place(spec.stderr)),
            folder=place(folder),
            cgroups=tuple(place(fd) for fd in spec.cgroups),
            rlimits=dict(spec.rlimits),
            uid=spec.identity.uid,
            gid=spec.identity.gid,
            groups=spec.identity.groups,
            oom_score=spec.oom_score,
            nofile=spec.nofile,
            new_session=spec.new_session,
            terminal=spec.terminal,
        )
        _check(order)
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(write_end, True)
            document = _document(order)
            try:
                await self._send([document, write_end, *fds])
            finally:
                os.close(document)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return Report(read_end, os.fsdecode(order.argv[0]), spec.cwd or "")

    async def _send(self, fds: list[int]) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while self._socket is not None:
            try:
                socket.send_fds(self._socket, [b"start"], fds)
                return
            except BlockingIOError:  # it has not taken earlier orders yet
                if asyncio.get_running_loop().time() > deadline:
                    raise OSError(errno.ECANCELED, "the spawner does not answer") from None
                await asyncio.sleep(AGAIN_SECONDS)
            except (BrokenPipeError, ConnectionResetError):
                break
        raise SpawnerGone

    @property
    def child(self) -> Child | None:
        """The process that takes orders now."""
        return self._child

    def close(self) -> None:
        """Let it go: it ends when its socket does."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._child = None

    async def end(self) -> None:
        """Let it go and reap it."""
        child = self._child
        self.close()
        if child is not None:
            with suppress(ProcessLookupError):
                child.signal_group(signal.SIGKILL)
            await readable(child.pidfd.number)
            child.reap()


def _paths(spec: Spawn) -> list[bytes]:
    """Return where the program may lie, in order (execvp(3), environ(7))."""
    program = os.fsencode(spec.argv[0])
    if os.path.dirname(program):
        return [program]
    return [os.path.join(os.fsencode(folder), program) for folder in os.get_exec_path(spec.env)]


def _check(order: spawner_main.Order) -> None:
    """Raise ValueError for what execve(2) cannot take."""
    if any(b"\0" in word for word in (*order.argv, *order.env, *order.env.values())):
        raise ValueError("embedded null byte")
    if any(b"=" in name for name in order.env):
        raise ValueError("illegal environment variable name")


def _document(order: spawner_main.Order) -> int:
    """Return a memfd: an environment may be larger than a packet."""
    fd = os.memfd_create("sandkeeper-order", os.MFD_CLOEXEC)
    try:
        data = marshal.dumps(vars(order))
        while data:
            data = data[os.write(fd, data) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
