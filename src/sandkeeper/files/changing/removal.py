"""Removing a directory tree: no link is followed, no depth or number of entries is too much.

Everything is done relative to open directories (openat(2), O_NOFOLLOW), so that nobody can lead
the removal elsewhere by swapping a directory for a link. Below a certain depth a directory is
first moved up: descriptors and memory stay bounded however deep the tree is.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress

from sandkeeper.linux.paths import useros as os

__all__ = ["remove_tree"]

DEPTH = 64
BATCH = 5000
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, check: Callable[[], None] = lambda: None) -> None:
    """Remove the directory `path` with everything in it; raises OSError.

    `check` is called between batches and may raise to stop.
    """
    top = os.open(path, OPEN)
    try:
        _empty(top, top, 0, path, check)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(directory: int, top: int, depth: int, path: str, check: Callable[[], None]) -> None:
    """Remove all entries of an open directory."""
    while True:
        check()
        files, directories = _some(directory)
        if not files and not directories:
            return
        for name in files:
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _at(error, path, name) from None
        for name in directories:
            _remove_directory(name, directory, top, depth, path, check)


def _remove_directory(
    name: str, parent: int, top: int, depth: int, path: str, check: Callable[[], None]
) -> None:
    if depth >= DEPTH:
        # It is found again, and removed, as an entry of the top directory.
        moved = f"{secrets.token_hex(8)}.removed"
        os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=top)
        return
    here = os.path.join(path, name)
    try:
        child = os.open(name, OPEN, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _at(error, path, name) from None
    try:
        _empty(child, top, depth + 1, here, check)
    finally:
        os.close(child)
    try:
        with suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=parent)
    except OSError as error:
        raise _at(error, path, name) from None


def _some(directory: int) -> tuple[list[str], list[str]]:
    """Return some of the entries: at most a batch, so that memory does not grow with them."""
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries, 1):
            kind = directories if entry.is_dir(follow_symlinks=False) else files
            kind.append(entry.name)
            if count >= BATCH:
                break
    return files, directories


def _at(error: OSError, path: str, name: str) -> OSError:
    return type(error)(error.errno, error.strerror, os.path.join(path, name))
