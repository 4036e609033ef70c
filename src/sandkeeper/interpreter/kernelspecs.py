"""The kernels that a sandbox has: `kernel.json` files where Jupyter looks for them.

https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs and
https://docs.jupyter.org/en/latest/use/jupyter-directories.html. They are the workload's files, read
as its user.
"""

import stat
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.linux.paths import useros as os

__all__ = ["Kernelspec", "choose", "find_kernels", "full_name"]

SPEC_BYTES = 1 << 20
MOST = 200
ALIASES = {
    "py": "python",
    "python3": "python",
    "ipython": "python",
    "js": "javascript",
    "node": "javascript",
    "nodejs": "javascript",
    "ts": "typescript",
    "c++": "c++",
    "cpp": "c++",
    "golang": "go",
}
SYSTEM = ("/usr/local/share/jupyter", "/usr/share/jupyter")


class _File(msgspec.Struct):
    """What a `kernel.json` says, as far as it is used."""

    argv: list[str]
    display_name: str = ""
    language: str = ""
    interrupt_mode: str = "signal"
    env: dict[str, str] = {}
    kernel_protocol_version: Any = None


TCP_ONLY = frozenset({"deno"})
ALSO_SPOKEN = {"javascript": "typescript"}
"""Whoever speaks the second understands the first."""
PLAIN = {"NO_COLOR": "1"}
"""Deno colours its results else."""


@dataclass(frozen=True, slots=True)
class Kernelspec:
    """A kernel: how it is started, and whether it is interrupted by `messages`."""

    name: str
    language: str
    display_name: str
    argv: Sequence[str]
    folder: str
    env: Mapping[str, str] = field(default_factory=dict)
    messages: bool = False

    @property
    def knows_tcp_only(self) -> bool:
        """Whether it cannot listen on Unix sockets, whatever its connection file says."""
        return os.path.basename(self.argv[0]) in TCP_ONLY

    @property
    def prefix(self) -> str:
        """The installation it belongs to: what lies above `share/jupyter/kernels/<name>`."""
        return str(Path(self.folder).parents[3]) if len(Path(self.folder).parents) > 3 else ""

    def command(self, connection: str) -> list[str]:
        """Return its program with the path of a connection file.

        A bare `python` is that of its own installation, if there is one.
        """
        given = {
            "{connection_file}": connection,
            "{resource_dir}": self.folder,
            "{prefix}": self.prefix,
        }
        words = [_filled(word, given) for word in self.argv]
        own = os.path.join(self.prefix, "bin", words[0])
        if words[0].startswith("python") and "/" not in words[0] and os.path.exists(own):
            words[0] = own
        return words

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that it asks for; `${NAME}` stands for one that there is."""
        made = {
            name: string.Template(value).safe_substitute(env) for name, value in self.env.items()
        }
        return {**PLAIN, **made} if self.knows_tcp_only else made


def _filled(word: str, given: Mapping[str, str]) -> str:
    for mark, value in given.items():
        word = word.replace(mark, value)
    return word


def find_kernels(env: Mapping[str, str], home: str) -> list[Kernelspec]:
    """Return what there is, by the order in which Jupyter would take them; blocks, raises nothing.

    Of those with the same name the first counts. One that makes no sense is no kernel.
    """
    found: dict[str, Kernelspec] = {}
    for folder in dict.fromkeys(_folders(env, home)):
        try:
            names = sorted(os.listdir(folder))[:MOST]
        except OSError:
            continue
        for name in names:
            if name.lower() not in found and (spec := _read(folder, name)) is not None:
                found[name.lower()] = spec
    return list(found.values())


def _folders(env: Mapping[str, str], home: str) -> Iterator[str]:
    yield from _kernels(env.get("JUPYTER_PATH", "").split(":"))
    own = env.get("JUPYTER_DATA_DIR") or os.path.join(
        env.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"), "jupyter"
    )
    yield from _kernels([own])
    for place in env.get("PATH", "").split(":"):
        if place.endswith("/bin"):
            yield from _kernels([os.path.join(place[:-4] or "/", "share", "jupyter")])
            program = os.path.realpath(os.path.join(place, "python3"))
            yield from _kernels([os.path.join(os.path.dirname(program), "..", "share", "jupyter")])
    yield from _kernels(SYSTEM)
    yield from _kernels([os.path.join(sys.prefix, "share", "jupyter")])


def _kernels(data: Sequence[str]) -> Iterator[str]:
    for place in data:
        if place.startswith("/"):
            yield os.path.normpath(os.path.join(place, "kernels"))


def _read(folder: str, name: str) -> Kernelspec | None:
    place = os.path.join(folder, name)
    try:
        fd = os.open(os.path.join(place, "kernel.json"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            said = msgspec.json.decode(os.read(fd, SPEC_BYTES), type=_File)
        finally:
            os.close(fd)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError):
        return None
    if not said.argv or not all(said.argv[:1]):
        return None
    return Kernelspec(
        name,
        said.language.lower(),
        said.display_name or name,
        tuple(said.argv),
        place,
        said.env,
        said.interrupt_mode == "message",
    )


def full_name(language: str) -> str:
    """Return what a language is called that may be named in short."""
    return ALIASES.get(language.lower(), language.lower())


def choose(kernels: Sequence[Kernelspec], language: str) -> Kernelspec | None:
    """Return the kernel of a name, else the first of a language; None where there is none."""
    wanted = language.lower()
    for one in kernels:
        if one.name.lower() == wanted:
            return one
    wanted = full_name(language)
    speaking = [one for one in kernels if one.language == wanted] or [
        one for one in kernels if one.language == ALSO_SPOKEN.get(wanted)
    ]
    first = "python3" if wanted == "python" else ""
    return min(speaking, key=lambda one: one.name.lower() != first, default=None)
