"""Makes the bundle: one folder with all that a server needs, for machines that have no Python.

    dist/sandkeeper-<version>-linux-<machine>.tar.zst, .tar.gz   and .sha256 beside each
    dist/sandkeeper-<version>-linux-<machine>.cdx.json           what it consists of

The same sources give the same bytes (archives.py; compiled modules are checked by nothing and name
no folder). Run by scripts/bundle with the Python of .venv.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import archives
import gccruntime
import sbom

import interpreter

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
REQUIREMENTS = ("requirements-run.txt", "requirements-bundle.txt")
GLIBC = ("2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
WIREGUARD = "golang.zx2c4.com/wireguard"
ABOUT = "bundle.json"
WORTH_BYTES = 200_000


def main() -> None:
    """Make the bundle of the machine this runs on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel of this project")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--tree", type=Path, help="where to leave the folder itself")
    options = parser.parse_args()
    moment = archives.source_date(ROOT)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "sandkeeper"
        about = make(tree, options.wheel, moment)
        write(tree, about, moment, options.output)
        if options.tree:
            shutil.copytree(tree, options.tree, symlinks=True)


def make(tree: Path, wheel: Path, moment: int) -> dict[str, str]:
    """Build the folder; returns what it says of itself in bundle.json."""
    machine = platform.machine()
    python = interpreter.fetch(machine)
    tree.mkdir(parents=True)
    python.place(tree)
    site = tree / "lib" / python.name / "site-packages"
    _install(tree, site, python, machine)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    _launcher(tree, python)
    _complete(tree, python)
    gccruntime.place(tree, machine)
    modules = [python.origin, _wireguard(tree, machine)]
    _compile(tree, python, moment)
    shutil.copy(ROOT / "LICENSE", tree / "LICENSE")
    version = wheel.name.split("-")[1]
    about = {
        "name": "sandkeeper",
        "version": version,
        "machine": machine,
        "python": f"libexec/{python.name}",
    }
    (tree / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    lock = ROOT / "console/package-lock.json"
    document = sbom.describe(tree, python, modules[1:], lock, version)
    (tree / "sbom.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
    return about


def _install(tree: Path, site: Path, python: interpreter.Interpreter, machine: str) -> None:
    """Install the locked wheels, as files of that Python and of the oldest glibc we promise."""
    platforms = [f"manylinux_{version}_{machine}" for version in GLIBC]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    command = [ROOT / "scripts/pip", sys.executable, "install", "--quiet", "--require-hashes"]
    command += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--target", site]
    command += ["--implementation", "cp", "--python-version", python.version]
    command += [word for one in platforms for word in ("--platform", one)]
    command += [word for one in REQUIREMENTS for word in ("--requirement", ROOT / one)]
    subprocess.run(command, check=True)
    # Found beside the interpreter (search/ripgrep.py); other commands serve nobody here.
    shutil.move(site / "bin/rg", tree / "libexec/rg")
    shutil.rmtree(site / "bin")
    for stub in site.rglob("*.pyi"):  # for checkers of types, of which there is none
        stub.unlink()
    for module in sorted(site.rglob("*.so")):
        _strip(module)


def _strip(module: Path) -> None:
    """Leave out what only a debugger reads, where that is much: uvloop's is 12 of its 13 MB.

    Where it is little, the module stays as its makers tried it.
    """
    with tempfile.TemporaryDirectory() as name:
        smaller = Path(name) / module.name
        command = [os.environ.get("STRIP", "strip"), "--strip-unneeded", "-o", smaller, module]
        subprocess.run(command, check=True)
        if module.stat().st_size - smaller.stat().st_size > WORTH_BYTES:
            module.write_bytes(smaller.read_bytes())


def _launcher(tree: Path, python: interpreter.Interpreter) -> None:
    (tree / "bin").mkdir()
    names = [f'-DPYTHON="libexec/{python.name}"', '-DSTART="libexec/start.pyc"']
    command = [*_compiler(), "-static", "-Os", *names]
    subprocess.run([*command, "-o", tree / "bin/sandkeeper", HERE / "launcher.c"], check=True)


def _complete(tree: Path, python: interpreter.Interpreter) -> None:
    """Add what the interpreter's headers did not know: kernelcalls.c says what, and why."""
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise SystemExit(f"sandkeeper: {headers} has no Python.h: install python3-dev")
    library = tree / "lib" / python.name
    module = library / "lib-dynload" / "_kernelcalls.abi3.so"
    module.parent.mkdir(exist_ok=True)
    command = [*_compiler(), "-shared", "-fPIC", "-O2", f"-I{headers}"]
    subprocess.run([*command, "-o", module, HERE / "kernelcalls.c"], check=True)
    with (library / "signal.py").open("a") as file:
        file.write((HERE / "kernelcalls.txt").read_text())


def _compiler() -> list[str]:
    flags = ["-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none"]
    return [os.environ.get("CC", "cc"), *flags]


def _wireguard(tree: Path, machine: str) -> interpreter.Module:
    """Build wireguard-go, for kernels without WireGuard (docs/tunnel.md)."""
    folder = HERE / "wireguard"
    told = interpreter.module(folder, WIREGUARD)
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": interpreter.GO_MACHINES[machine],
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }
    flags = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="]
    command = ["go", "build", *flags, "-o", tree / "libexec/wireguard-go", WIREGUARD]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return told


def _compile(tree: Path, python: interpreter.Interpreter, moment: int) -> None:
    """Compile every module, so that nothing is compiled, or looked at, where it runs.

    Hash-based and unchecked (PEP 552): the time of a file, which unpacking may change, does not
    count. In one process with one seed, since what marshal writes depends on the order of work.
    Without columns of code, which only underline a word in a traceback and cost 0.4 MB of memory.
    What a start imports goes into one file besides (start/start.py).
    """
    for made in sorted((tree / "lib").rglob("__pycache__")):
        shutil.rmtree(made)
    # -B: what this imports is not written as it is imported. -P, -s and -S, but not -I: the seed
    # is told by the environment, which has nothing else.
    runs = [tree / "libexec" / python.name, "-B", "-P", "-s", "-S", "-X", "no_debug_ranges"]
    unlooked = ["--invalidation-mode", "unchecked-hash", "-s", tree, "-p", ""]
    compiles = [*runs, "-m", "compileall", "-q", *unlooked]
    environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(moment)}
    start = Path(shutil.copy(HERE / "start" / "start.py", tree / "libexec"))
    pack = start.with_suffix(".pack")
    for command in (
        [*compiles, tree / "lib"],
        [*compiles, "-b", start],
        [*runs, HERE / "start" / "record.py", start, pack],
    ):
        subprocess.run(command, env=environment, check=True)


def write(tree: Path, about: dict[str, str], moment: int, output: Path) -> None:
    """Write the archives, their checksums and the list of what is inside."""
    output.mkdir(parents=True, exist_ok=True)
    base = f"sandkeeper-{about['version']}-linux-{about['machine']}"
    data = archives.pack(tree, "sandkeeper", moment, first=(ABOUT,))
    for ending, compressed in (("tar.zst", archives.zst), ("tar.gz", archives.gz)):
        path = output / f"{base}.{ending}"
        path.write_bytes(compressed(data))
        checksum = archives.note_checksum(path)
        print(f"{path.stat().st_size / 1e6:.1f} MB  {checksum[:12]}  {path}")
    shutil.copy(tree / "sbom.cdx.json", output / f"{base}.cdx.json")


if __name__ == "__main__":
    main()
