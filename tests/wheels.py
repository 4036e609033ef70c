"""Real wheels of this project, with another version and, where wanted, something broken in them."""

import base64
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import marshal
import struct
import sys
import zipfile
from pathlib import Path

import sandkeeper

__all__ = ["digest", "make_small_wheel", "make_wheel"]

PACKAGE = Path(sandkeeper.__file__).parent


def make_wheel(
    folder: Path,
    version: str,
    patches: dict[str, tuple[str, str]] | None = None,
    *,
    requires: tuple[str, ...] = (),
    light: bool = False,
) -> Path:
    """Pack the package as it stands; `patches` maps a module's path to (text, in its place).

    An empty text stands for the beginning of the module. The requirements are the project's own
    and `requires`. A light one holds only what differs and has the rest imported from here.
    """
    changes = {"__init__.py": (sandkeeper.__version__, version), **(patches or {})}
    elsewhere = f"\n__path__.append({str(PACKAGE)!r})\n".encode()
    files: dict[str, bytes] = {}
    for path in sorted(PACKAGE.rglob("*")):
        inside = str(path.relative_to(PACKAGE))
        if not path.is_file() or "__pycache__" in path.parts or (light and inside not in changes):
            continue
        data = path.read_bytes()
        if inside in changes:
            old, new = changes[inside]
            assert old.encode() in data, (inside, old)
            data = data.replace(old.encode(), new.encode(), 1)
        if light and inside == "__init__.py":
            data += elsewhere
        files[f"sandkeeper/{inside}"] = data
        if path.suffix == ".py":
            # An installer would compile them; here it would be done again for every test.
            tag = sys.implementation.cache_tag
            compiled = (
                f"sandkeeper/{path.parent.relative_to(PACKAGE)}/__pycache__/{path.stem}.{tag}.pyc"
            )
            changed = inside in changes
            files[compiled.replace("/./", "/")] = _compiled(inside, data if changed else None)
    return _pack(folder, version, files, "sandkeeper", requires)


def make_small_wheel(folder: Path, version: str, *, name: str = "sandkeeper") -> Path:
    """Pack a wheel that holds nothing but its metadata."""
    return _pack(folder, version, {}, name, ())


def _pack(
    folder: Path, version: str, files: dict[str, bytes], name: str, requires: tuple[str, ...]
) -> Path:
    info = f"sandkeeper-{version}.dist-info"
    own = importlib.metadata.requires("sandkeeper") or []
    wanted = [line for line in own if "extra ==" not in line] + list(requires)
    files[f"{info}/METADATA"] = "\n".join(
        ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        + [f"Requires-Dist: {line}" for line in wanted]
        + ["", ""]
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{path},{_record(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"sandkeeper-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:  # packing takes longer than the disk
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


@functools.cache
def _compiled(name: str, source: bytes | None) -> bytes:
    """Return the .pyc of a module, to be used without a look at its source (PEP 552)."""
    if source is None:  # as it stands, it has been compiled before
        module = "sandkeeper." + name.removesuffix(".py").replace("/", ".")
        module = module.removesuffix(".__init__")
        loader = importlib.machinery.SourceFileLoader(module, str(PACKAGE / name))
        code = loader.get_code(module)
    else:
        code = compile(source, f"sandkeeper/{name}", "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + bytes(8) + marshal.dumps(code)


def digest(wheel: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _record(data: bytes) -> str:
    raw = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={raw}"
