"""Makes the pack that start.py reads: `python -S record.py START.PY PACK [MODULE …]`.

Run by the bundle's own Python when its modules are compiled. It imports what a start needs and
notes which files that were, what each of them had executed as text, and what became of its
patterns. Sets and times have no part in it, so that the same bundle gives the same bytes.
"""

import marshal
import sys
from _frozen_importlib_external import PathFinder

start = type(sys)("start")
start.__file__ = sys.argv[1]
with open(sys.argv[1]) as source:
    exec(compile(source.read(), sys.argv[1], "exec"), start.__dict__)

WANTED = (
    "sandkeeper.cli",
    "sandkeeper.entry",
    "sandkeeper.api.app",
    "sandkeeper.api.areas",
    "sandkeeper.api.blaxel.observability",
    "sandkeeper.api.blaxel.system",
    "sandkeeper.api.edge.connections.listening",
    "sandkeeper.api.edge.connections.server",
    "sandkeeper.api.port.door",
    "sandkeeper.api.port.pages",
    "sandkeeper.linux.allocator",
    "sandkeeper.linux.boot.charge",
    "sandkeeper.linux.dispositions",
    "sandkeeper.linux.paths.statelock",
    "sandkeeper.linux.servicemanager",
    "sandkeeper.network.hops",
    "sandkeeper.sandbox",
    "uvicorn.lifespan.off",
    "encodings.ascii",
    "sandkeeper.client.main",
)
"""What a server has at its first answer, some of it imported late, and every client's verb."""

HEAD = 16
"""Bytes before the code of a compiled module (PEP 552)."""

texts = {}
patterns = {}


class Asked:
    """A finder that finds nothing, and notes what was looked for; some fails when imported."""

    def __init__(self):
        self.names = {}

    def find_spec(self, name, path=None, _target=None):
        self.names[name] = path


def importing():
    """Return the name of the module that is being executed."""
    frame = sys._getframe(2)
    while frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame.f_globals["__name__"]


def record_texts(module, mode, run):
    def recording(text, *where):
        if isinstance(text, str):
            code = compile(text, "<string>", mode, dont_inherit=True)
            texts.setdefault(importing(), {})[text] = code
        return run(text, *where)

    setattr(module, mode, recording)


class Programs:
    """In place of `_sre`: keeps the last program that was made."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def compile(self, pattern, flags, code, groups, names, numbers):
        program = [int(one) for one in code]  # some are named numbers, of which marshal knows none
        self.last = (int(flags), program, groups, dict(names), tuple(numbers))
        return self.real.compile(pattern, flags, code, groups, names, numbers)


def record_patterns(compiler):
    programs = compiler._sre = Programs(compiler._sre)
    usual = compiler.compile

    def recording(pattern, flags=0):
        made = usual(pattern, flags)
        if type(pattern) in (str, bytes):
            patterns.setdefault(importing(), {})[pattern, int(flags)] = programs.last
        return made

    compiler.compile = recording


def modules(asked):
    """Yield the name, kind, place and code of each module that has a file in the bundle."""
    for name, path in sorted(asked.names.items()):
        module = sys.modules.get(name)
        spec = module.__spec__ if module else PathFinder.find_spec(name, path)
        if spec is None or spec.name != name or not spec.has_location:
            continue
        kind = start.IN_SITE if spec.origin.startswith(start.SITE + "/") else 0
        base = start.SITE if kind else start.LIBRARY
        if not spec.origin.startswith(base + "/"):
            continue
        place = spec.origin[len(base) + 1 :]
        if not place.endswith(".py"):
            yield name, kind | start.EXTENSION, place, b""
            continue
        if spec.submodule_search_locations is not None:
            kind |= start.PACKAGE
        with open(spec.cached, "rb") as file:
            yield name, kind, place, file.read()[HEAD:]


def main():
    sys.path.append(start.SITE)
    asked = Asked()
    sys.meta_path.insert(0, asked)
    import collections

    record_texts(collections, "eval", eval)
    import re

    record_patterns(re._compiler)
    import dataclasses

    record_texts(dataclasses, "exec", exec)
    for name in sys.argv[3:] or WANTED:
        __import__(name)

    index, data = {}, bytearray()
    for name, kind, place, code in modules(asked):
        if kind & start.EXTENSION:
            index[name] = (kind, place)
            continue
        known = b""
        if name in texts or name in patterns:
            known = marshal.dumps((texts.get(name, {}), patterns.get(name, {})))
        index[name] = (kind, len(data), len(code), len(known))
        data += code + known
    head = marshal.dumps(index)
    with open(sys.argv[2], "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + data)


main()
