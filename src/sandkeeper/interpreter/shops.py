"""What contexts are made with: their folders, and who starts which language."""

from collections.abc import Mapping
from pathlib import Path

from sandkeeper.files.work import FileWork
from sandkeeper.interpreter.kernel_start import KernelStart
from sandkeeper.interpreter.shell_start import SHELLS, ShellStart
from sandkeeper.interpreter.starters import Starters
from sandkeeper.interpreter.store import CodeStore
from sandkeeper.linux.identity import Identity
from sandkeeper.processes.launch import variables_of
from sandkeeper.settings import Environment

__all__ = ["code_shop"]


def code_shop(state: Path, environment: Environment, work: FileWork) -> tuple[CodeStore, Starters]:
    """Return both."""

    def variables(identity: Identity | None) -> Mapping[str, str]:
        return variables_of(environment, identity, {})

    store = CodeStore(state, environment.get("XDG_RUNTIME_DIR"))
    shell = ShellStart(work, variables)
    return store, Starters(KernelStart(work, variables), dict.fromkeys(SHELLS, shell))
