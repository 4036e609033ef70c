"""Installing a version beside the running one: an environment of its own below the state folder.

    <state>/versions/<version>-<checksum>/    a virtual environment: the wheel and what it lacks,
                                              or a bundle, which lacks nothing
    <state>/versions/.incoming/               the package while it is fetched

The environment sees the packages of the first installation, the *base*, and holds only what the new
version needs in other versions. The base itself is never changed, so the way back is always open;
and an upgraded version is built on the base again, not on the version before it. A bundle stands
alone; where the base lies is noted in its file `base`.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import sandkeeper
from sandkeeper.errors import Internal, Unprocessable
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.paths.statefiles import make_private_folder
from sandkeeper.upgrade.source import PROJECT, is_bundle

if TYPE_CHECKING:
    from sandkeeper.upgrade.fetch import Fetched

__all__ = ["Installation", "Versions", "package_roots"]

PIP_SECONDS = 600.0
SITE_NAMES = {"site-packages", "dist-packages"}
BASE = "base"


class Installation(msgspec.Struct, frozen=True):
    """A version with an interpreter of its own."""

    folder: Path
    python: Path
    version: str


class Versions:
    """The folder of installed versions."""

    def __init__(self, state: Path, children: Children) -> None:
        self.path = state / "versions"
        self._children = children

    @property
    def running(self) -> Path | None:
        """The folder of the version that runs; None for the base."""
        prefix = Path(sys.prefix)
        return prefix if prefix.parent == self.path.absolute() else None

    def incoming(self) -> Path:
        """Return an empty folder to fetch into; raises OSError or UntrustedFile."""
        make_private_folder(self.path)
        incoming = self.path / ".incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(mode=0o700)
        return incoming

    async def install(self, wheel: "Fetched", env: Mapping[str, str], index: str) -> Installation:
        """Install a package; raises Unprocessable with what is wrong, Internal, or OSError.

        Packages that a wheel lacks come from `index`; an empty one means that there must be none.
        """
        folder = self.path.absolute() / f"{wheel.version}-{wheel.sha256[:12]}"
        if is_bundle(wheel.path.name):
            python = await asyncio.to_thread(self._place, folder, wheel.path)
            return Installation(folder, python, wheel.version)
        made = Installation(folder, folder / "bin" / "python", wheel.version)
        missing = await asyncio.to_thread(self._unpack, folder, wheel.path)
        if missing:
            if not index:
                raise Unprocessable(f"it requires {', '.join(missing)}, and no index is permitted")
            pip = [*await self._pip(), "--python", str(made.python), "install", "--no-input"]
            # No sdist: building one runs its code, and nothing has vouched for that.
            limits = ["--quiet", "--no-cache-dir", "--only-binary=:all:", "--retries", "2"]
            await self._run(
                [*pip, *limits, "--index-url", index, f"{PROJECT}=={wheel.version}"], env
            )
        return made

    def _place(self, folder: Path, bundle: Path) -> Path:
        """Unpack a bundle; returns its interpreter."""
        from sandkeeper.upgrade.bundle import unpack_bundle  # seldom needed

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        python = unpack_bundle(bundle, folder)
        (folder / BASE).write_text("".join(f"{path}\n" for path in self._base_paths()))
        return python

    def _unpack(self, folder: Path, wheel: Path) -> list[str]:
        """Make the environment and put the wheel into it; returns what it requires besides."""
        import sysconfig
        import venv
        import zipfile

        shutil.rmtree(folder, ignore_errors=True)
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
        variables = {"base": str(folder), "platbase": str(folder)}
        site = Path(sysconfig.get_path("purelib", "venv", variables))
        base = self._base_paths()
        (site / "base.pth").write_text("".join(f"{path}\n" for path in base))
        with zipfile.ZipFile(wheel) as archive:
            if any(name.split("/")[0].endswith(".data") for name in archive.namelist()):
                raise Unprocessable("it holds more than a package of Python modules")
            archive.extractall(site)
        return _missing(site, base)

    def _base_paths(self) -> list[str]:
        """Return where the base's packages lie."""
        if self.running is not None and (note := self.running / BASE).exists():
            return note.read_text().splitlines()
        return [
            path
            for path in sys.path
            if os.path.basename(path) in SITE_NAMES
            and not Path(path).is_relative_to(self.path.absolute())
        ]

    async def _pip(self) -> list[str]:
        """Return how to start pip: ours, or that of the Python our environment was made with."""
        for python in dict.fromkeys((sys.executable, sys._base_executable)):  # type: ignore[attr-defined]
            argv = [python, "-I", "-m", "pip"]
            if (await self._children.run_tool([*argv, "--version"], env={}, cwd="/")).ok:
                return argv
        raise Internal("pip is needed to install an upgrade, and this Python has none")

    async def _run(self, argv: list[str], env: Mapping[str, str]) -> None:
        keep = (
            "PATH",
            "HOME",
            "SSL_CERT_FILE",
            "HTTPS_PROXY",
            "https_proxy",
            "NO_PROXY",
            "no_proxy",
        )
        clean = {name: env[name] for name in keep if name in env}
        clean |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull}
        try:
            done = await self._children.run_tool(argv, env=clean, cwd="/", timeout=PIP_SECONDS)
        except TimeoutError:
            raise Unprocessable(f"pip did not end within {PIP_SECONDS:.0f} s") from None
        if not done.ok:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise Unprocessable(f"it cannot be installed: {said[-1500:]}")

    def base_version(self) -> str:
        """Return the version of the first installation; empty if that has no metadata."""
        from importlib import metadata

        found = metadata.distributions(name=PROJECT, path=self._base_paths())
        return next((one.version for one in found), "")

    def clean(self, *keep: Path) -> None:
        """Remove all versions but these; failures leave them for the next time."""
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.absolute() not in keep:
                    shutil.rmtree(entry, ignore_errors=True)


def _missing(site: Path, base: list[str]) -> list[str]:
    """Return the requirements of the package in `site` that the base does not meet."""
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {
        canonicalize_name(found.name): found.version
        for found in metadata.distributions(path=base[::-1])
    }
    (ours,) = metadata.distributions(name=PROJECT, path=[str(site)])
    missing: list[str] = []
    for line in ours.requires or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = there.get(canonicalize_name(wanted.name))
        if version is None or wanted.extras or not wanted.specifier.contains(version, True):
            missing.append(f"{wanted.name}{wanted.specifier}")
    return missing


def package_roots() -> list[str]:
    """Return the folders our own package and its dependencies are imported from."""
    return list(
        dict.fromkeys(
            str(Path(module.__file__ or "").parent.parent) for module in (sandkeeper, msgspec)
        )
    )
