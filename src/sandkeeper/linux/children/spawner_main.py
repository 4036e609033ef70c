"""The spawner's own process: starts programs as another user. Run by path, not imported by it.

It belongs to the server's user and holds nothing of the server's but one end of a socket. For each
order it makes a process that is the server's child and not its own (CLONE_PARENT, clone(2)), and
that process gives up its rights and becomes the program. Between the two it belongs to the
workload, which may stop it (kill(2)); it then holds what the program is to have and its end of
`report`, and nobody waits for it without a deadline.

An order is one packet of a SOCK_SEQPACKET socket with descriptors: a memfd with an `Order`
(marshal), `report`, and those that the order counts. On `report` (a pipe) come the child's pid (4
bytes) and its end; before the end, if it did not become the program, an errno (4 bytes) and the
stage at which it failed: `prepare`, `folder` or `exec`.

It imports little on purpose: it lives beside the server, and every start copies its page tables.
`typing`, and `signal` and `socket` for their `enum`, would be half of its start and a third of its
pages.
"""

import _signal  # type: ignore[import-not-found] # CPython's, as `_socket` is
import _socket
import array
import ctypes
import errno
import fcntl
import gc
import marshal
import os
import resource
import struct
import sys
import termios
from collections.abc import Iterable

MAX_FDS = 32
NUMBER = struct.Struct("<i")
CLONE_PARENT = 0x8000
CLONE_CALLS = {  # clone(2); the order of its arguments does not matter where all others are 0
    "x86_64": 56,
    "aarch64": 220,
    "riscv64": 220,
    "ppc64le": 120,
    "armv7l": 120,
}


class Order:
    """What to start; descriptors are indexes into those of the packet, -1 is none (/dev/null).

    On its way it is the dictionary of its fields.
    """

    argv: list[bytes]
    paths: list[bytes]
    env: dict[bytes, bytes]
    stdio: tuple[int, int, int]
    folder: int
    cgroups: tuple[int, ...]
    rlimits: dict[int, int]
    uid: int
    gid: int
    groups: tuple[int, ...]
    oom_score: int | None
    nofile: int | None
    new_session: bool
    terminal: bool

    def __init__(self, **fields: object) -> None:
        if fields.keys() != Order.__annotations__.keys():
            raise TypeError(f"fields of an order: {sorted(fields)}")
        vars(self).update(fields)


def enter_cgroups(entrances: Iterable[int]) -> None:
    """Have this process enter groups by their open `cgroup.procs` (cgroups(7)); raises OSError."""
    for fd in entrances:
        os.write(fd, b"0")


def limit_resources(limits: dict[int, int]) -> None:
    """Bound this process's resources (setrlimit(2)), never above a hard limit it has."""
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def become_terminal() -> None:
    """Make standard input the controlling terminal; for a new session's leader, before exec."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def limit_files(soft: int) -> None:
    """Set the soft limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def score(value: int) -> None:
    """Set this process's OOM score (proc_pid_oom_score_adj(5)), where the kernel lets us."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"%d" % value)
        os.close(fd)
    except OSError:
        pass


def clone() -> int:
    """Make a child of our parent; returns its pid, and 0 in the child. Raises OSError.

    The raw call passes the C library by, which is safe while this process has one thread.
    """
    number = CLONE_CALLS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    pid = int(_libc.syscall(number, CLONE_PARENT | _signal.SIGCHLD, 0, 0, 0, 0))
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


def become(order: Order, fds: list[int], report: int) -> None:
    """Become the program; in the child. Only returns by ending the process."""
    stage = b"prepare"
    try:
        if order.new_session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        os.write(report, NUMBER.pack(os.getpid()))
        if order.oom_score is not None:
            score(order.oom_score)
        enter_cgroups(fds[index] for index in order.cgroups)
        for target, index in enumerate(order.stdio):
            os.dup2(fds[index] if index >= 0 else _null, target)
        if order.terminal:
            become_terminal()
        stage = b"folder"
        if order.folder >= 0:
            os.fchdir(fds[order.folder])
        stage = b"prepare"
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them for its own sake
            _signal.signal(number, _signal.SIG_DFL)
        os.setgroups(order.groups)
        os.setresgid(order.gid, order.gid, order.gid)
        os.setresuid(order.uid, order.uid, order.uid)
        limit_resources(order.rlimits)
        if order.nofile is not None:
            limit_files(order.nofile)
        stage = b"exec"
        execute(order)
    except OSError as error:
        os.write(report, NUMBER.pack(error.errno or errno.EIO) + stage)
    except MemoryError:  # its own limit
        os.write(report, NUMBER.pack(errno.ENOMEM) + stage)
    finally:
        os._exit(255)


def execute(order: Order) -> None:
    """Try the places of a program one after another, as execvp(3); raises OSError."""
    found: OSError | None = None
    for path in order.paths:
        try:
            os.execve(path, order.argv, order.env)
        except OSError as error:
            if found is None or error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                found = error
    if found is not None:
        raise found


def receive(sock: _socket.socket) -> tuple[bytes, list[int]]:
    """Take one packet; its descriptors end at an exec, which `socket.recv_fds` cannot be told."""
    fds = array.array("i")
    space = _socket.CMSG_LEN(MAX_FDS * fds.itemsize)
    message, found, _flags, _address = sock.recvmsg(16, space, _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in found:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds)


def obey(sock: _socket.socket) -> bool:
    """Take one order; False when the server is gone."""
    message, fds = receive(sock)
    if not message:
        return False
    try:
        document, report, *rest = fds
        order = Order(**marshal.loads(os.pread(document, os.fstat(document).st_size, 0)))
        try:
            if clone() == 0:
                sock.close()
                become(order, rest, report)
        except OSError as error:
            os.write(report, NUMBER.pack(0) + NUMBER.pack(error.errno) + b"prepare")
    finally:
        for fd in fds:
            os.close(fd)
    return True


if __name__ == "__main__":
    _libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL: the child need not take a lock back
    _null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    ours = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(ours.fileno(), False)
    gc.disable()
    gc.freeze()
    while obey(ours):
        pass
