"""The bundle's interpreter: CPython as python-build-standalone makes it, which a Go module carries.

Those builds ask for glibc 2.17, find themselves wherever they lie, and are optimised with profiles
(PGO, LTO). The version stands in interpreter/go.mod, and go checks what it fetches against go.sum.

Of the distribution the bundle has what a server needs, laid out so that the bundle's own folder is
`sys.prefix`: getpath looks for lib/pythonX.Y/os.py from the executable's folder upwards.

    bin/…                nothing that would come before the workload's own python on a PATH
    libexec/pythonX.Y    the interpreter, with lib/libpythonX.Y.so.1.0
    lib/pythonX.Y        the standard library
"""

import fnmatch
import gzip
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GO_MACHINES", "Interpreter", "fetch", "module"]

MODULE = "github.com/kluctl/go-embed-python"
FOLDER = Path(__file__).parent / "interpreter"
GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

UNWANTED = (
    *("test/*", "idlelib/*", "lib2to3/*", "tkinter/*", "turtledemo/*", "turtle.py", "ensurepip/*"),
    *("pydoc_data/*", "__phello__/*", "config-*", "distutils/*", "site-packages/*"),
    *("crypt.py", "lib-dynload/_crypt*"),
    *(
        "lib-dynload/_test*",
        "lib-dynload/xx*",
        "lib-dynload/_ctypes_test*",
        "lib-dynload/_tkinter*",
    ),
    *("*/__pycache__/*", "__pycache__/*", "*/test/*", "*/tests/*"),
)
"""What no server imports: tests, user interfaces, what builds extensions, pip."""


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module as go knows it, and the folder where its files are."""

    name: str
    version: str
    sum: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where the interpreter of a machine comes from; `version` is X.Y.Z."""

    source: Path
    version: str
    origin: Module

    @property
    def name(self) -> str:
        """Return pythonX.Y."""
        return "python" + ".".join(self.version.split(".")[:2])

    def place(self, root: Path) -> None:
        """Put what a server needs below the bundle's folder."""
        entries = json.loads((self.source / "files.json").read_text())
        for entry in entries.get("files") or entries["Files"]:
            target = self._target(entry["name"])
            file = self.source / (entry["name"] + (".gz" if entry.get("compressed") else ""))
            if target is None or entry.get("symlink") or not file.is_file():
                continue
            place = root / target
            place.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes()
            place.write_bytes(gzip.decompress(data) if entry.get("compressed") else data)
            place.chmod(0o755 if entry["perm"] & 0o100 else 0o644)
            if place.parent.name != self.name and place.read_bytes()[:4] == b"\x7fELF":
                subprocess.run([os.environ.get("STRIP", "strip"), place], check=True)

    def _target(self, name: str) -> str | None:
        """Return where a file of the distribution belongs; None for one that is left out."""
        if name == f"bin/{self.name}":
            return f"libexec/{self.name}"
        if name == f"lib/lib{self.name}.so.1.0":  # where an interpreter looks that is a shell of it
            return name
        library = f"lib/{self.name}/"
        inside = name.removeprefix(library)
        if inside == name or any(fnmatch.fnmatchcase(inside, one) for one in UNWANTED):
            return None
        return name


def module(folder: Path, name: str) -> Module:
    """Fetch the module `name` of the go.mod in `folder`, as go.sum vouches for it."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", name],
        cwd=folder,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        stdout=subprocess.PIPE,
        check=True,
    )
    told = json.loads(done.stdout)
    return Module(told["Path"], told["Version"], told["Sum"], Path(told["Dir"]))


def fetch(machine: str) -> Interpreter:
    """Return the interpreter for `machine` (as uname -m calls it)."""
    origin = module(FOLDER, MODULE)
    source = origin.folder / "python" / "internal" / "data" / f"linux-{GO_MACHINES[machine]}"
    found = re.search(r"-(\d+\.\d+\.\d+)-\d{8}", origin.version)
    if found is None or not source.is_dir():
        raise SystemExit(f"{origin.name} {origin.version} has no CPython for linux on {machine}")
    return Interpreter(source, found[1], origin)
