"""How a Jupyter kernel is started: its connection file and the order for its process."""

import importlib.util
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from sandkeeper.errors import NotInstalled, Unprocessable
from sandkeeper.files.work import FileWork
from sandkeeper.interpreter.kernelspecs import Kernelspec, choose, find_kernels
from sandkeeper.interpreter.specs import ContextSpec
from sandkeeper.interpreter.starters import Language, Prepared
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths import useros as os
from sandkeeper.processes.spec import ProcessSpec

__all__ = ["KernelStart"]

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
LOWEST_PORT, PORT_COUNT = 20_000, 10_000
"""Below those that the system hands out."""
PATH_BYTES = 107 - len("-5")
LIBRARY = "jupyter_client"
QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
"""Else the debugger that ipykernel brings complains in the output of the first cell."""
MISSING = (
    "code in kernels needs the extra `code`: install it beside the server with "
    "`pip install 'sandkeeper[code]'`"
)


class KernelStart:
    """Starts kernels; `variables` are what a program of a user sees, with its folder."""

    def __init__(
        self, work: FileWork, variables: Callable[[Identity | None], Mapping[str, str]]
    ) -> None:
        self._work = work
        self._variables = variables

    async def kernels(self, identity: Identity | None) -> list[Kernelspec]:
        """Return the kernels that there are."""
        env = dict(self._variables(identity))
        return await self._work.run(find_kernels, env, env.get("HOME", "/"))

    async def languages(self, identity: Identity | None) -> list[Language]:
        """See `Starter`."""
        found = await self.kernels(identity)
        return [Language(one.name, one.language, one.display_name) for one in found]

    async def prepare(
        self, wanted: ContextSpec, place: Path, identity: Identity | None, generation: int
    ) -> Prepared:
        """See `Starter`; raises NotInstalled without the extra."""
        if not await self._work.own(_is_installed):
            raise NotInstalled(MISSING)
        kernels = await self.kernels(identity)
        kernel = choose(kernels, wanted.language)
        if kernel is None:
            there = ", ".join(one.name for one in kernels) or "none"
            hint = " (pip install ipykernel)" if "py" in wanted.language.lower() else ""
            raise Unprocessable(
                f"there is no kernel for language {wanted.language[:64]!r}: install one in the "
                f"sandbox{hint}; there are: {there}, and bash"
            )
        prefix = place / f"k{generation}"
        if len(os.fsencode(prefix)) > PATH_BYTES:
            raise Unprocessable(f"the folder for sockets has too long a name: {place}")
        key = secrets.token_hex(32)
        engine: dict[str, str | int | float | bool | None] = {
            "prefix": str(prefix),
            "key": key,
            "uid": os.geteuid() if identity is None else identity.uid,
            "language": kernel.language,
            "messages": kernel.messages,
        }
        if kernel.knows_tcp_only:
            # No one else listens there, and nobody can know before where that will be.
            numbers = (secrets.randbelow(254) + 1 for _ in range(3))
            engine["address"] = ".".join(map(str, (127, *numbers)))
            engine["port"] = LOWEST_PORT + secrets.randbelow(PORT_COUNT)
        await self._work.own(_write_connection, engine, kernel.name, identity)
        argv = await self._work.run(kernel.command, f"{prefix}.json")
        env = {**QUIET, **kernel.variables(self._variables(identity)), **wanted.env}
        spec = ProcessSpec(
            command=" ".join(argv),
            argv=argv,
            working_dir=wanted.cwd,
            env=env,
            limits=wanted.limits,
            user=wanted.user,
            inherit_env=wanted.inherit_env,
            tag=wanted.tag,
        )
        return Prepared("kernel", kernel.name, spec, engine)


def _is_installed() -> bool:
    return importlib.util.find_spec(LIBRARY) is not None


def _write_connection(
    engine: Mapping[str, str | int | float | bool | None], kernel: str, identity: Identity | None
) -> None:
    """Write the connection file for the kernel alone; raises OSError."""
    prefix, address = engine["prefix"], engine.get("address")
    facts = {
        "transport": "tcp" if address else "ipc",
        "ip": address or prefix,
        "key": engine["key"],
        "signature_scheme": "hmac-sha256",
        "kernel_name": kernel,
        **{name: number for number, name in enumerate(PORTS, int(engine.get("port") or 1))},
    }
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{prefix}.json", flags, 0o600)
    try:
        os.write(fd, msgspec.json.encode(facts))
        if identity is not None and not identity.is_ours:
            os.fchown(fd, identity.uid, identity.gid)
    finally:
        os.close(fd)
