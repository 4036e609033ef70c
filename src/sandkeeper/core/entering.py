"""Folders as a user may enter them: what is below a closed folder stays closed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandkeeper.core.identity import Identity, acting_for

__all__ = ["enter_folder", "entrance"]


def enter_folder(folder: str, identity: Identity | None) -> None:
    """Raise OSError where `identity` cannot enter a folder; may hang on a dead file system."""
    os.close(_entered(folder, identity))


@contextmanager
def entrance(folder: str | None, identity: Identity | None) -> Iterator[str | None]:
    """Give a folder a name that leads where `identity` may go, and nowhere else.

    A child changes into it while it still is us, because only then does a failure reach the
    parent as what it is; so it changes into what the user has opened.
    """
    if folder is None or identity is None or identity.is_ours:
        yield folder
        return
    fd = _entered(folder, identity)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _entered(folder: str, identity: Identity | None) -> int:
    with acting_for(identity):
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.stat(".", dir_fd=fd)  # opening a path asks for no right to enter
        except BaseException:
            os.close(fd)
            raise
        return fd
