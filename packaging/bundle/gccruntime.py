"""libgcc_s and libstdc++, for images that have a C library and nothing else (distroless, say).

Wheels take them for granted: manylinux counts them to the system. Here they are Debian 11's, which
ask for no later C library than the oldest we promise; mmdebstrap fetches the packages and checks
their signatures. Modules that need them are told, relative to themselves, where they lie; nothing
else finds them, and so nobody else uses them in place of the system's.
"""

import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

__all__ = ["LIBRARIES", "VERSION", "place"]

SUITE, VERSION = "bullseye", "10.2.1"
PACKAGES = "libgcc-s1,libstdc++6"
FOLDER = "lib/gcc"
LIBRARIES = {
    "x86_64": {
        "libgcc_s.so.1": "2d771c2e232fce107c7ec7f9a64b9a804e6d6737063088a2d8096b149a0af8cd",
        "libstdc++.so.6": "0e83d02a0144c726f05de850b71165691e380bd90205d22dd04bc8f788625507",
    },
}
"""Their SHA-256: that suite does not change any more."""


def place(tree: Path, machine: str) -> None:
    """Put the libraries into the bundle, and have its modules find them; raises SystemExit."""
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "root.tar"
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", SUITE]
        subprocess.run([*command, archive], check=True)
        for library, checksum in LIBRARIES[machine].items():
            data = _member(archive, library)
            found = hashlib.sha256(data).hexdigest()
            if found != checksum:
                raise SystemExit(f"{library} of {SUITE} has the SHA-256 {found}, not {checksum}")
            (folder / library).write_bytes(data)
    for module in sorted((tree / "lib").rglob("*.so")):
        if _needs(module) & LIBRARIES[machine].keys():
            way = os.path.relpath(folder, module.parent)
            subprocess.run(["patchelf", "--set-rpath", f"$ORIGIN/{way}", module], check=True)
    way = ["patchelf", "--set-rpath", "$ORIGIN", folder / "libstdc++.so.6"]
    subprocess.run(way, check=True)


def _member(archive: Path, library: str) -> bytes:
    """Read a library; its name leads to the file of a version."""
    with tarfile.open(archive) as opened:
        stem = library.partition(".so")[0]
        for member in opened:
            name = member.name.rpartition("/")[2]
            if member.isreg() and name.startswith(f"{stem}.so.") and not name.endswith(".py"):
                file = opened.extractfile(member)
                return file.read() if file else b""
    raise SystemExit(f"{SUITE} has no {library}")


def _needs(module: Path) -> set[str]:
    done = subprocess.run(
        ["patchelf", "--print-needed", module], stdout=subprocess.PIPE, text=True, check=True
    )
    return set(done.stdout.split())
