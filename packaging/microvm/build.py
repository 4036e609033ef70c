"""Makes what a microVM of the bundle is started with: a kernel, an initrd and a root.

    vmlinuz       Debian's kernel for clouds, out of its package
    initrd.img    initrd.c, and the modules that this kernel does not have built in
    root.ext4     a root of Debian, the bundle at /opt/sandkeeper, and answers.c and answers.py to
                  compare with

`build.py OUTPUT --root ROOT.tar --bundle BUNDLE.tar.gz`. What is in OUTPUT already stays, but for
the root, which is made anew. Needs apt-get, dpkg-deb, a C compiler and mkfs.ext4.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
KERNEL = "linux-image-cloud-amd64"
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio-rng",
    "button",
    "evdev",
)
"""In the order in which they are loaded: the disk, the network, randomness, the power button."""
SPARE_MIB = 512


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "vmlinuz").exists() or not (output / "modules").exists():
        kernel(output)
    (output / "initrd.img").write_bytes(initrd(output / "modules"))
    root(output / "root.ext4", options.root, options.bundle)


def kernel(output: Path) -> None:
    """Fetch the kernel's package and take out what is needed; nothing is installed."""
    told = subprocess.run(
        ["apt-cache", "depends", KERNEL], check=True, capture_output=True, text=True
    )
    found = re.search(r"Depends: (linux-image-\S+)", told.stdout)
    if found is None:
        raise SystemExit(f"sandkeeper: no {KERNEL} is known to apt here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        quiet = ["-qq", "-o", "APT::Sandbox::User=root"]
        subprocess.run(["apt-get", *quiet, "download", found[1]], cwd=folder, check=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "tree"], check=True)
        made = output / "modules"
        made.mkdir(exist_ok=True)
        for path in (folder / "tree/lib/modules").rglob("*.ko"):
            if path.stem in MODULES:
                shutil.copy(path, made)
        (image,) = (folder / "tree/boot").glob("vmlinuz-*")
        shutil.copy(image, output / "vmlinuz")


def compiled(source: Path, target: Path) -> None:
    """Compile one file to a program that needs no library."""
    flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", target, source], check=True)


def initrd(modules: Path) -> bytes:
    """Return an archive of /init and the modules; not compressed, for emulation is slow."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "init"
        compiled(HERE / "initrd.c", program)
        members = [("init", 0o100755, program.read_bytes()), ("modules", 0o040755, b"")]
    for number, module in enumerate(MODULES):
        data = (modules / f"{module}.ko").read_bytes()
        members.append((f"modules/{number:02}-{module}", 0o100644, data))
    return b"".join(_newc(members))


def _newc(members: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Yield a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    for number, (name, mode, data) in enumerate([*members, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % one for one in fields) + path
        yield head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def root(
    image: Path, archive: Path, bundle: Path, dress: Callable[[Path], None] = lambda _: None
) -> None:
    """Make the disk; `dress` changes the tree before that."""
    with tempfile.TemporaryDirectory(dir=image.parent) as name:
        tree = Path(name) / "root"
        (tree / "opt").mkdir(parents=True)
        subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
        subprocess.run(["tar", "-C", tree / "opt", "-xf", bundle], check=True)
        compiled(HERE / "answers.c", tree / "usr/local/sbin/answers")
        shutil.copy(HERE / "answers.py", tree / "usr/local/sbin")
        (tree / "etc/hostname").write_text("microvm\n")
        dress(tree)
        # The resolver of the machine that made the root is not that of this one.
        (tree / "etc/resolv.conf").unlink(missing_ok=True)
        used = subprocess.run(["du", "-sm", tree], check=True, capture_output=True, text=True)
        size = int(used.stdout.split()[0]) + SPARE_MIB
        image.unlink(missing_ok=True)
        command = [
            "mkfs.ext4",
            "-q",
            "-F",
            "-L",
            "sandbox",
            "-d",
            str(tree),
            str(image),
            f"{size}M",
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
