"""Where variables come from besides the inherited environment: `.env`, an env file, reloads.

Nothing here is fatal: a bad file is told and the server goes on with what it has. All of it runs
before any setting is read, except reloads, which children see and settings do not.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from sandkeeper.errors import Internal, NotFound
from sandkeeper.linux.identity import Identity, UnusableUser
from sandkeeper.linux.paths.trusted import UntrustedFile, read_trusted
from sandkeeper.log.lines import Log
from sandkeeper.settings import Environment, workload_user

__all__ = ["EnvironmentReload", "Reloaded", "load_dotenv", "load_env_file", "parse_env_file"]

DOCUMENT = "/bl/metadata"
MAX_BYTES = 16 << 20
Hook = Callable[[], Awaitable[None]]


def load_dotenv(
    environment: Environment, folder: Path | None = None, *, user: str = ""
) -> list[str]:
    """Set the variables of `.env` in the working directory that do not exist yet.

    `user` is the workload's of the command line. Returns what went wrong: a file that others can
    have written, or led us to, is not read (`linux.paths.trusted`), for a workload could plant
    there what the next start of a privileged server obeys.
    """
    path = (folder or Path.cwd()) / ".env"
    try:
        values = _trusted_values(environment, path, user, _parse_dotenv)
    except FileNotFoundError:
        return []
    except (OSError, UntrustedFile) as error:
        return [f"{path} is ignored: {getattr(error, 'strerror', None) or error}"]
    return _add_missing(environment, values, str(path))


def _trusted_values(
    environment: Environment, path: Path, user: str, parse: Callable[[bytes], dict[str, str]]
) -> dict[str, str]:
    """Read and parse a file that nobody else can have written, nor the workload's user.

    That may be named by the file itself: it is read again then, as out of that user's reach.
    """
    values = parse(read_trusted(path, MAX_BYTES))
    name = user or workload_user({**values, **environment.snapshot()})
    if not name:
        return values
    try:
        workload = Identity.resolve(name)
    except UnusableUser:
        return values  # the start fails over it, and says so
    return parse(read_trusted(path, MAX_BYTES, workload=workload))


def _parse_dotenv(data: bytes) -> dict[str, str]:
    from io import StringIO

    from dotenv import dotenv_values  # few servers have a .env

    text = data.decode("utf-8", "surrogateescape")
    values = dotenv_values(stream=StringIO(text), interpolate=True)
    return {name: value for name, value in values.items() if value is not None}


def load_env_file(environment: Environment, *, user: str = "") -> list[str]:
    """Set the variables of the file `BL_ENV_VAR_PATH` names that do not exist yet.

    Returns what went wrong: an unreadable file, one that others can have written or led us to, one
    without any pair, names that cannot be set.
    """
    path = environment.get("BL_ENV_VAR_PATH")
    if not path:
        return []
    faults: list[str] = []

    def parse(data: bytes) -> dict[str, str]:
        values, faults[:] = parse_env_file(data)
        return values

    try:
        values = _trusted_values(environment, Path(path), user, parse)
    except (OSError, UntrustedFile, ValueError) as error:
        return [f"{path} is ignored: {getattr(error, 'strerror', None) or error}"]
    return [f"{path}: {fault}" for fault in faults] + _add_missing(environment, values, path)


def parse_env_file(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Read NUL-separated names and values; returns them and the faults found.

    The last of several values of a name wins. Pairs without a name and a last name without a
    value are dropped. Raises ValueError when there is content but no pair at all.
    """
    parts = data.split(b"\0")
    if parts[-1] == b"":
        parts.pop()
    pairs = zip(parts[::2], parts[1::2], strict=False)
    values: dict[str, str] = {}
    faults: list[str] = []
    for name, value in pairs:
        if b"=" in name:
            faults.append(f"{os.fsdecode(name)!r} is not a name")
        elif name:
            values[os.fsdecode(name)] = os.fsdecode(value)
    if data and len(parts) < 2:
        raise ValueError("it holds no name with a value")
    return values, faults


def _add_missing(environment: Environment, values: Mapping[str, str], where: str) -> list[str]:
    known = environment.snapshot()
    faults: list[str] = []
    for name, value in values.items():
        if name in known:
            continue
        try:
            environment.apply({name: value})
        except (ValueError, OSError) as error:
            faults.append(f"{where}: {name!r} cannot be set: {error}")
    return faults


class _Document(msgspec.Struct):
    """What the control plane writes."""

    generation: int = 0
    environment: dict[str, str] | None = None


class Reloaded(msgspec.Struct, frozen=True):
    """The document's generation, how many variables were set and how many unset."""

    generation: int
    applied: int
    removed: int


class EnvironmentReload(msgspec.Struct):
    """Applies the metadata document, whose path is decided at the start.

    `hooks` run after each reload: what was computed from variables (proxies, certificates) is
    computed again there, or the document's raw values would take its place.
    """

    environment: Environment
    log: Log
    path: Path
    identity: Identity | None = None
    hooks: list[Hook] = msgspec.field(default_factory=list)
    carried: set[str] = msgspec.field(default_factory=set)
    _turn: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    @classmethod
    def at_start(
        cls, environment: Environment, log: Log, identity: Identity | None
    ) -> "EnvironmentReload":
        """Read the path from `BL_METADATA_PATH`; `identity` is who must not write there."""
        path = Path(environment.get("BL_METADATA_PATH") or DOCUMENT)
        return cls(environment, log, path, identity)

    async def reload(self) -> Reloaded:
        """Set all variables of the document; unset those only earlier documents carried.

        Raises NotFound when there is no document, Internal when it cannot be read or is invalid;
        nothing has been changed then.
        """
        async with self._turn:
            document = await asyncio.to_thread(self._read)
            wanted = self._usable(document.environment or {})
            removed = tuple(sorted(self.carried - wanted.keys()))
            self.environment.apply(wanted, remove=removed)
            self.carried = set(wanted)
            for hook in self.hooks:
                try:
                    await hook()
                except Exception as error:  # noqa: BLE001 - one part must not undo the others
                    self.log.error(f"after an environment reload: {error!r}")
            return Reloaded(document.generation, len(wanted), len(removed))

    def _read(self) -> _Document:
        try:
            data = read_trusted(self.path, MAX_BYTES, workload=self.identity)
            document = msgspec.json.decode(data, type=_Document)
        except UntrustedFile as error:
            # Root's helpers would obey the LD_PRELOAD and PATH of whoever wrote it.
            raise Internal(f"metadata document {self.path} is not obeyed: {error}") from None
        except FileNotFoundError:
            raise NotFound(f"metadata document {self.path} does not exist") from None
        except OSError as error:
            raise Internal(f"cannot read {self.path}: {error.strerror or error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Internal(f"invalid metadata document {self.path}: {error}") from error
        return document

    def _usable(self, values: Mapping[str, str]) -> dict[str, str]:
        """Leave out what no environment can hold; the log names it."""
        usable = {
            name: value
            for name, value in values.items()
            if name and "=" not in name and "\0" not in name + value and _is_encodable(name + value)
        }
        for name in values.keys() - usable.keys():
            self.log.warning(f"metadata document {self.path}: {name!r} cannot be set")
        return usable


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
