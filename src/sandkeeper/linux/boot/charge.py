"""Being process 1 of a machine (a microVM whose kernel starts us): mounts, names, the end.

In a container somebody has done all that, and /proc is there. Where it is not, nobody has, and the
machine is ours: `take_charge` sets it up and `MachineInit.end` switches it off, for a kernel whose
process 1 exits panics. Nothing here may keep the server from starting: what fails is told. Reaping
is the server's anyway (`linux.children.orphans`).
"""

import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sandkeeper.linux import libc
from sandkeeper.linux.boot.network import loopback_up, set_up_network
from sandkeeper.linux.boot.power import obey_button
from sandkeeper.linux.clocks import uptime
from sandkeeper.linux.mounts import mounts

__all__ = ["MachineInit", "in_charge", "take_charge"]

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
CALM = MS_NOSUID | MS_NODEV | MS_NOEXEC
MOUNTS = (
    ("proc", "/proc", CALM, ""),  # its source is OURS
    ("sysfs", "/sys", CALM, ""),
    ("devtmpfs", "/dev", MS_NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", CALM, "nsdelegate"),
)
"""Kind, place, flags, options: what every program expects, in this order (file-hierarchy(7))."""

LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
VARIABLES = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}
"""A kernel gives process 1 HOME=/ and TERM=linux, and no PATH."""

OURS = "sandkeeper"
"""The source that /proc is mounted from says whose machine this is: the bundle's launcher mounts it
before there is an interpreter, and an upgrade in place makes another program process 1."""

CTRL_ALT_DEL_OFF, POWER_OFF = 0, 0x4321FEDC
END_SECONDS = 5.0


@dataclass(slots=True)
class MachineInit:
    """A machine that is ours; `told` is what went wrong when it was set up."""

    told: list[str] = field(default_factory=list)

    def end(self) -> None:
        """End every process, write everything to the disks and switch the machine off."""
        with suppress(OSError):
            os.kill(-1, signal.SIGTERM)
        _reap_all(END_SECONDS)
        with suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        _reap_all(1.0)
        os.sync()
        libc.call("reboot", ctypes.c_int(POWER_OFF))


@contextmanager
def in_charge() -> Iterator[list[str]]:
    """Set the machine up if that is ours to do, and end it afterwards; gives what went wrong."""
    machine = take_charge() if os.getpid() == 1 else None
    if machine is None:
        yield []
        return
    try:
        yield machine.told
    finally:
        machine.end()


def take_charge() -> MachineInit | None:
    """Set the machine up; None where somebody else has."""
    if os.path.exists("/proc/self") and not _is_ours("/proc"):
        return None
    machine = MachineInit()
    if os.path.ismount("/sys") and os.path.ismount("/run"):
        return machine  # the version before us has done it
    for step in (_mount_all, _link_devices, _standard_streams, _name, _variables):
        machine.told += step()
    machine.told += loopback_up() + set_up_network(_read("/proc/cmdline"))
    with suppress(OSError):
        libc.call("reboot", ctypes.c_int(CTRL_ALT_DEL_OFF))  # then it is a SIGINT to us
    obey_button()
    return machine


def _is_ours(place: str) -> bool:
    return any(mount.path == place and mount.source == OURS for mount in mounts())


def _mount_all() -> list[str]:
    told: list[str] = []
    for kind, place, flags, options in MOUNTS:
        try:
            os.makedirs(place, exist_ok=True)
            if os.path.ismount(place):
                continue  # the kernel, an initrd or the launcher has
            source = OURS if kind == "proc" else kind
            words = source.encode(), os.fsencode(place), kind.encode()
            libc.call("mount", *words, flags, options.encode())
        except OSError as error:
            told.append(f"{place} cannot be mounted: {error.strerror}")
    return told


def _link_devices() -> list[str]:
    for name, target in LINKS.items():
        with suppress(OSError):
            os.symlink(target, f"/dev/{name}")
    return []


def _standard_streams() -> list[str]:
    """Open what the kernel could not: a root without /dev/console has no standard streams."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            for device in ("/dev/console", "/dev/null"):
                with suppress(OSError):
                    opened = os.open(device, os.O_RDWR | os.O_NOCTTY)
                    if opened != fd:
                        os.dup2(opened, fd)
                        os.close(opened)
                    os.set_inheritable(fd, True)
                    break
    return []


def _name() -> list[str]:
    name = _read("/etc/hostname").strip() or "sandbox"
    try:
        socket.sethostname(name)
    except OSError as error:
        return [f"the machine cannot be called {name}: {error.strerror}"]
    return []


def _variables() -> list[str]:
    """Set what a login would; settings/environment.py is not there yet and reads these after."""
    for name, value in VARIABLES.items():
        if name == "HOME" or name not in os.environ:  # noqa: TID251 - before any setting is read
            os.environ[name] = value  # noqa: TID251
    return []


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(64 << 10)
    return ""


def _reap_all(seconds: float) -> None:
    """Wait until there is no child left, or the time is over."""
    deadline = uptime() + seconds
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while (left := deadline - uptime()) > 0:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.1))
        except ChildProcessError:
            return
