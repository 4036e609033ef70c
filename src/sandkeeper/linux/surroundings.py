"""Whether this machine is a sandbox: made to be reached from outside, by whoever runs it.

A server without a token listens everywhere in a sandbox and on loopback elsewhere, so every sign
here is one that a desktop does not bear: not "some virtual machine", but a container's mark or a
machine monitor that runs no desktops. Containers that people work in on their own desktop, on its
network, do not count.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.mounts import parse_mounts

__all__ = ["platform_sign", "sandbox_sign"]

PLATFORM_VARIABLES = (
    *("BL_ENV_VAR_PATH", "BL_METADATA_PATH", "BL_NETWORKING_CONFIG", "BL_DRIVE_FILER"),
    *("BL_WORKSPACE_ID", "BL_ARCHIVE_IMPORT_URL", "BL_SANDBOX_API_ISOLATION", "BL_CLOUD"),
)
"""Set by the contract's platform inside of a sandbox; what its clients need (`BL_WORKSPACE`,
`BL_API_KEY`, `BL_REGION`, `BL_ENV`) stands on developers' machines as well."""

CONTAINER_FILES = (
    *(".dockerenv", "run/.containerenv", "run/host/container-manager"),
    *("run/systemd/container", "var/run/secrets/kubernetes.io/serviceaccount/token"),
)
DESKTOP_FILES = ("run/.toolboxenv", "run/.distroboxenv", ".flatpak-info")
DESKTOP_VARIABLES = ("TOOLBOX_PATH", "DISTROBOX_ENTER_PATH", "FLATPAK_ID", "WSL_DISTRO_NAME")
DESKTOP_CONTAINERS = frozenset({"flatpak", "wsl"})
CONTAINER_GROUPS = ("docker", "containerd", "kubepods", "libpod", "/lxc", "garden", "ecs/")
CONTAINER_LAYERS = ("/docker/", "/containerd/", "/containers/storage/", "io.containerd.")
MICROVM_VENDORS = {"cloud hypervisor": "Cloud Hypervisor", "firecracker": "Firecracker"}
MICROVM_WORDS = {
    "init=/init.krun": "a guest of libkrun",
    "systemd.unit=kata-containers.target": "a guest of Kata",
    "virtio_mmio.device=": "a microVM with devices that no bus tells of",
}
KUBERNETES_HOSTS = "# Kubernetes-managed hosts file"
FIRECRACKER_OEM = b"FIRECK"
READ_BYTES = 64 << 10


def platform_sign(environ: Mapping[str, str]) -> str:
    """Return a variable by which the contract's platform tells that it runs us, or ""."""
    return next((name for name in PLATFORM_VARIABLES if environ.get(name)), "")


def sandbox_sign(root: Path, environ: Mapping[str, str], pid: int) -> str:
    """Return what shows that process `pid` runs in a sandbox, in words for a log; else "".

    `root` is `/` (tests give a tree of their own), `environ` the process's environment. Files that
    may not be read (/proc/1/environ of another user) show nothing.

    In this order: process 1 of its namespace; the platform's variables; containers by the marks
    that Docker, Podman, systemd-nspawn, LXC and Kubernetes leave (`container=` is systemd's
    Container Interface; /etc/hosts of a Pod is the kubelet's, whose variables do not count, for
    tools set them on desktops; groups in /proc/1/cgroup and layers in /proc/1/mountinfo are the
    engines'); microVMs by DMI, ACPI and the kernel's command line. Firecracker gives its guests no
    DMI table, and ACPI tables of the OEM `FIRECK`, which only root may read; the command line that
    it documents has `reboot=k`, which is of no use to a desktop. Cloud Hypervisor tells its name by
    DMI, Kata and libkrun theirs on the command line. A unikernel of the contract's has /uk.
    """
    if pid == 1:
        return "it is process 1"
    if name := platform_sign(environ):
        return f"{name} is set"
    if not _is_desktop(root, environ):
        for sign in _container(root, environ):
            return sign
    return next(_microvm(root), "")


def _is_desktop(root: Path, environ: Mapping[str, str]) -> bool:
    """Say whether this is somebody's desktop in the shape of a container, on its own network."""
    if any(environ.get(name) for name in DESKTOP_VARIABLES):
        return True
    if any((root / name).exists() for name in DESKTOP_FILES):
        return True
    if b"microsoft" in _read(root / "proc/sys/kernel/osrelease").lower():
        return True
    kinds = {environ.get("container", ""), _text(root / "run/systemd/container").strip()}
    return not kinds.isdisjoint(DESKTOP_CONTAINERS)


def _container(root: Path, environ: Mapping[str, str]) -> Iterator[str]:
    for name in CONTAINER_FILES:
        if os.path.lexists(root / name):
            yield f"/{name} exists"
    if kind := environ.get("container"):
        yield f"container={kind} is set"
    for pair in _read(root / "proc/1/environ").split(b"\0"):
        if pair.startswith(b"container=") and len(pair) > len(b"container="):
            yield f"{pair.decode('utf-8', 'replace')} is set for process 1"
    if _text(root / "etc/hosts").startswith(KUBERNETES_HOSTS):
        yield "/etc/hosts is of Kubernetes"
    groups = _text(root / "proc/1/cgroup")
    for word in CONTAINER_GROUPS:
        if word in groups:
            yield f"/proc/1/cgroup names {word.strip('/')}"
    if _has_layers(root):
        yield "the root file system is made of a container's layers"


def _has_layers(root: Path) -> bool:
    """Say whether / is an overlay of an engine's layers (proc_pid_mountinfo(5))."""
    for mount in parse_mounts(_text(root / "proc/1/mountinfo")):
        if mount.path == "/" and mount.kind == "overlay":
            return any(word in option for word in CONTAINER_LAYERS for option in mount.options)
    return False


def _microvm(root: Path) -> Iterator[str]:
    vendor = _text(root / "sys/class/dmi/id/sys_vendor").strip()
    for known, name in MICROVM_VENDORS.items():
        if known in vendor.lower():
            yield f"this is a guest of {name}"
    for table in ("FACP", "DSDT"):
        if _read(root / "sys/firmware/acpi/tables" / table)[10:16] == FIRECRACKER_OEM:
            yield "this is a guest of Firecracker"
    words = _text(root / "proc/cmdline").split()
    for known, name in MICROVM_WORDS.items():
        if any(word.startswith(known) for word in words):
            yield f"this is {name}"
    if "reboot=k" in words and not (root / "sys/class/dmi/id/sys_vendor").exists():
        yield "this is a microVM"
    if (root / "uk/libukp").is_dir() or "unikraft" in _text(root / "proc/version").lower():
        yield "this is a unikernel"


def _read(path: Path) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(READ_BYTES)
    return b""


def _text(path: Path) -> str:
    return _read(path).decode("utf-8", "replace")
