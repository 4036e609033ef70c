"""Tokens from files, as containers are given secrets: `SANDKEEPER_TOKEN_FILE` and its like."""

import os
from collections.abc import Iterable, Mapping

from sandkeeper.linux.identity import Identity, UnusableUser
from sandkeeper.linux.paths.trusted import UntrustedFile, read_trusted
from sandkeeper.settings import TOKEN_VARIABLES, workload_user

__all__ = ["with_token_files"]

TOKEN_BYTES = 64 << 10


def with_token_files(
    variables: Mapping[str, str],
    *,
    user: str = "",
    names: Iterable[str] = TOKEN_VARIABLES,
) -> dict[str, str]:
    """Return the variables with the tokens themselves in place of the files that hold them.

    So the next version is handed what this one was started with. `user` is the workload's of the
    command line, `names` are the variables that files may stand for. Raises ValueError for a file
    that cannot be read, that others can have written, or that the workload's user can read: it
    would learn who the operator is.
    """
    made = dict(variables)
    workload = _workload(user or workload_user(variables))
    for name in names:
        path = made.pop(f"{name}_FILE", None)
        if path is None:
            continue
        if name in made:
            raise ValueError(f"{name} and {name}_FILE are both set")
        if not path.strip():
            raise ValueError(f"{name}_FILE is set but empty: name a file, or unset it")
        try:
            token = read_trusted(path, TOKEN_BYTES, workload=workload)
        except (OSError, UntrustedFile) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{name}_FILE: {path}: {why}") from None
        if workload is not None and _may_read(path, workload):
            raise ValueError(f"{name}_FILE: {path} can be read by the workload's user")
        made[name] = token.decode("utf-8", "surrogateescape")
    return made


def _workload(user: str) -> Identity | None:
    try:
        return Identity.resolve(user) if user else None
    except UnusableUser:
        return None  # the start fails over it, and says so


def _may_read(path: str, workload: Identity) -> bool:
    if workload.is_ours:
        return False  # it could read the server's memory as well
    try:
        with workload.acting():
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
