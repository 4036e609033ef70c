"""What bin/sandkeeper has the bundle's Python run: the command, its modules out of one file.

A third of a start's work is the same each time: finding six hundred files, compiling what
`dataclass` and `namedtuple` write, compiling regular expressions. What comes of it stands in
`start.pack`, which record.py makes with the bundle. What is not in there, or everything where there
is no such file, goes the usual way. A module of the pack still has its own file and loader, for
tracebacks and whoever asks where it lies.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, SourceFileLoader
from _imp import _fix_co_filename

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    Known = tuple[dict[str, CodeType], dict[tuple[str | bytes, int], tuple[Any, ...]]]

HERE = __file__.rpartition("/")[0]
LIBRARY = f"{HERE.rpartition('/')[0]}/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"{LIBRARY}/site-packages"
PACK = f"{HERE}/start.pack"
SUFFIX = f".{sys.implementation.cache_tag}.pyc"

EXTENSION, PACKAGE, IN_SITE = 1, 2, 4
"""What a module is; without these one file of the standard library."""
NOTHING: "Known" = ({}, {})


class Pack:
    """Finds modules (as importlib.abc.MetaPathFinder), and knows what was compiled before.

    A pack is a number of eight bytes, so many bytes of `marshal`, a dict of what each module is,
    where its code begins, the length of that and of what is known for it, and then all these.
    """

    def __init__(self, path: str) -> None:
        self._fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        length = int.from_bytes(posix.pread(self._fd, 8, 0), "little")
        self._modules: dict[str, tuple[Any, ...]] = self._read(8, length)
        self._behind = 8 + length
        self.known = NOTHING
        """For the module that is being executed: code by its text, programs by their pattern."""
        self._hooks = {
            "collections": self._teach_texts,
            "dataclasses": self._teach_texts,
            "re": self._teach_patterns,
        }

    def _read(self, offset: int, size: int) -> "Any":
        return marshal.loads(posix.pread(self._fd, size, offset))

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> ModuleSpec | None:
        """Return what a module is, if it is in the pack."""
        told = self._modules.get(name)
        if told is None:
            return None
        kind = told[0]
        place = f"{SITE if kind & IN_SITE else LIBRARY}/"
        if kind & EXTENSION:
            place += told[1]
            spec = ModuleSpec(name, ExtensionFileLoader(name, place), origin=place)
        else:
            place += name.replace(".", "/")
            file = f"{place}/__init__.py" if kind & PACKAGE else f"{place}.py"
            spec = ModuleSpec(name, Loader(name, file, self, told), origin=file)
            folder, _, last = file.rpartition("/")
            spec.cached = f"{folder}/__pycache__/{last[:-3]}{SUFFIX}"
            if kind & PACKAGE:
                spec.submodule_search_locations = [place]
        spec.has_location = True
        return spec

    def code(self, _kind: int, offset: int, size: int, _known: int) -> "CodeType":
        """Return a module's code."""
        code: CodeType = self._read(self._behind + offset, size)
        return code

    def knowledge(self, _kind: int, offset: int, size: int, known: int) -> "Known":
        """Return what is known for a module."""
        told: Known = self._read(self._behind + offset + size, known) if known else NOTHING
        return told

    def teach(self, module: "ModuleType") -> None:
        """Have a module that was just executed use what is known, if it is one that compiles."""
        teach = self._hooks.pop(module.__name__, None)
        if teach is not None:
            teach(module)

    def _teach_texts(self, module: "Any") -> None:
        def known_exec(text: str, *where: "Any") -> None:
            exec(self.known[0].get(text, text), *where)

        def known_eval(text: str, *where: "Any") -> "Any":
            return eval(self.known[0].get(text, text), *where)

        module.exec, module.eval = known_exec, known_eval

    def _teach_patterns(self, module: "Any") -> None:
        compiler = module._compiler
        compile_, make = compiler.compile, compiler._sre.compile

        def known_compile(pattern: "Any", flags: int = 0) -> "Any":
            found = None
            if type(pattern) is str or type(pattern) is bytes:
                found = self.known[1].get((pattern, int(flags)))
            return make(pattern, *found) if found is not None else compile_(pattern, flags)

        compiler.compile = known_compile


class Loader(SourceFileLoader):
    """Loads a module of the pack as if from its own file."""

    def __init__(self, name: str, file: str, pack: Pack, told: tuple["Any", ...]) -> None:
        super().__init__(name, file)
        self._pack, self._told = pack, told

    def get_code(self, _name: str) -> "CodeType":
        """Return its code, without a look at the file."""
        code = self._pack.code(*self._told)
        _fix_co_filename(code, self.path)
        return code

    def exec_module(self, module: "ModuleType") -> None:
        """Execute it, with what is known for it."""
        pack = self._pack
        before, pack.known = pack.known, pack.knowledge(*self._told)
        try:
            super().exec_module(module)
        finally:
            pack.known = before
        pack.teach(module)


def main() -> int:
    """Run the command; returns its exit status."""
    sys.path.append(SITE)
    try:
        pack = Pack(PACK)
    except (OSError, ValueError, EOFError, TypeError):
        pass  # the usual way
    else:
        sys.meta_path.insert(0, pack)
    from sandkeeper.entry import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
