"""Folders as a user may enter them: what is below a closed folder stays closed."""

from collections.abc import Iterator
from contextlib import contextmanager

from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.paths import useros as os

__all__ = ["enter_folder", "opened_folder"]


def enter_folder(folder: str, identity: Identity | None) -> None:
    """Raise OSError where `identity` cannot enter a folder; may hang on a dead file system."""
    os.close(_entered(folder, identity))


@contextmanager
def opened_folder(folder: str | None, identity: Identity | None) -> Iterator[int]:
    """Open a working directory as `identity` may enter it; without one ours, else `/`.

    A child changes into it while it still is root, so it changes into what the user has opened.
    """
    fd = _entered(folder, identity) if folder is not None else _default(identity)
    try:
        yield fd
    finally:
        os.close(fd)


def _default(identity: Identity | None) -> int:
    try:
        return _entered(os.getcwd(), identity)
    except OSError:
        return _entered("/", identity)


def _entered(folder: str, identity: Identity | None) -> int:
    with acting_for(identity):
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.stat(".", dir_fd=fd)  # opening a path asks for no right to enter
        except BaseException:
            os.close(fd)
            raise
        return fd
