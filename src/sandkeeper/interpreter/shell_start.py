"""How a kept shell is started: Bash on named pipes, without Jupyter."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from sandkeeper.errors import Unprocessable
from sandkeeper.files.work import FileWork
from sandkeeper.interpreter.specs import ContextSpec
from sandkeeper.interpreter.starters import Language, Prepared
from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.paths import useros as os
from sandkeeper.processes.spec import ProcessSpec

__all__ = ["PIPES", "SHELLS", "ShellStart"]

SHELLS = frozenset({"bash", "sh", "shell"})
"""The names of languages that are this one."""

PIPES = ("orders", "told", "out", "err", "answer")
DRIVER = "shell.bash"
PROGRAM = "bash"

# On one line, so that the shell's errors tell the lines of a cell as they are.
LOOP = (
    '. "$1/driver-$2"; while { __sk_next; } 2>/dev/null; do { '
    'if { __sk_set; } 2>/dev/null; then eval "$__sk_code"; else eval "$__sk_code"; fi; '
    '{ __sk_tell || :; } 2>/dev/null; } </dev/null 1<>"$__sk_out" 2<>"$__sk_err"; done'
)


class ShellStart:
    """A `Starter` (interpreter.starters) of kept shells; how one works is told in `shell.bash`.

    `variables` are what a program of a user sees.
    """

    def __init__(
        self, work: FileWork, variables: Callable[[Identity | None], Mapping[str, str]]
    ) -> None:
        self._work = work
        self._variables = variables

    async def languages(self, identity: Identity | None) -> list[Language]:
        """See `Starter`."""
        found = await self._work.run(_is_there, self._variables(identity).get("PATH", ""))
        return [Language("bash", "bash", "Bash")] if found else []

    async def prepare(
        self, wanted: ContextSpec, place: Path, identity: Identity | None, generation: int
    ) -> Prepared:
        """Make the pipes in `place`; raises Unprocessable when they cannot be made."""
        path = {**self._variables(identity), **wanted.env}.get("PATH", "")
        if not await self._work.run(_is_there, path):
            raise Unprocessable("cannot start a shell: there is no bash on the sandbox's PATH")
        try:
            await self._work.own(_make_ready, place, identity, generation)
        except OSError as error:
            raise Unprocessable(f"cannot start a shell: {error.strerror}") from None
        spec = ProcessSpec(
            command="bash",
            argv=[
                PROGRAM,
                "--norc",
                "--noprofile",
                "-c",
                LOOP,
                "bash",
                str(place),
                str(generation),
            ],
            working_dir=wanted.cwd,
            env=wanted.env,
            limits=wanted.limits,
            inherit_env=wanted.inherit_env,
            user=wanted.user,
            tag=wanted.tag,
        )
        engine: dict[str, str | int | float | bool | None]
        engine = {"place": str(place), "generation": generation}
        return Prepared("shell", "bash", spec, engine)


def _is_there(path: str) -> bool:
    places = filter(None, path.split(os.pathsep))
    return any(os.path.isfile(os.path.join(place, PROGRAM)) for place in places)


@cache
def _driver() -> bytes:
    return resources.files("sandkeeper.interpreter").joinpath(DRIVER).read_bytes()


def _make_ready(place: Path, identity: Identity | None, generation: int) -> None:
    """Make what a start needs, as the user whom it will belong to; raises OSError."""
    driver = _driver()
    with acting_for(identity):
        folder = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in PIPES:
                os.mkfifo(f"{name}-{generation}", 0o600, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(f"driver-{generation}", flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(driver)
        finally:
            os.close(folder)
