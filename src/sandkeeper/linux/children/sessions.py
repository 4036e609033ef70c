"""posix_spawn(3) of a program in a session of its own, asked of the C library itself.

`os.posix_spawn` has `setsid` only in a Python that was built with glibc 2.26 or later, which the
bundle's is not, so that it runs on old systems; what it runs with there has it.
"""

import ctypes
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["spawn_session"]

SETSIGDEF, SETSID = 0x04, 0x80  # spawn.h
OPAQUE_BYTES = 1024
"""More than posix_spawnattr_t, posix_spawn_file_actions_t and sigset_t take (336, 80, 128)."""

# It keeps the interpreter's lock, as os.posix_spawn does: nothing is to change before the exec.
_library = ctypes.PyDLL(None)

Action = tuple[int, ...] | tuple[int, int, str, int, int]
"""What `file_actions` of os.posix_spawn are made of: POSIX_SPAWN_OPEN or POSIX_SPAWN_DUP2."""


def spawn_session(
    program: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    actions: Iterable[Action],
    defaults: Iterable[signal.Signals],
) -> int:
    """Start a program as the leader of a new session; `defaults` are signals it does not ignore.

    Returns its pid. Raises OSError as execve(2) does, ValueError on a NUL byte.
    """
    words = _vector(argv)
    variables = _vector(f"{name}={value}" for name, value in env.items())
    attributes = ctypes.create_string_buffer(OPAQUE_BYTES)
    files = ctypes.create_string_buffer(OPAQUE_BYTES)
    signals = ctypes.create_string_buffer(OPAQUE_BYTES)
    pid = ctypes.c_int()
    _call("posix_spawnattr_init", attributes)
    _call("posix_spawn_file_actions_init", files)
    try:
        _library.sigemptyset(signals)
        for one in defaults:
            _library.sigaddset(signals, one)
        _call("posix_spawnattr_setsigdefault", attributes, signals)
        _call("posix_spawnattr_setflags", attributes, ctypes.c_short(SETSIGDEF | SETSID))
        for action in actions:
            _add(files, action)
        start = (ctypes.byref(pid), _text(program), files, attributes, words, variables)
        _call("posix_spawn", *start, path=program)
    finally:
        _library.posix_spawn_file_actions_destroy(files)
        _library.posix_spawnattr_destroy(attributes)
    return pid.value


def _add(files: "ctypes.Array[ctypes.c_char]", action: Action) -> None:
    kind, *rest = action
    if kind == os.POSIX_SPAWN_DUP2:
        _call("posix_spawn_file_actions_adddup2", files, *rest)
        return
    number, path, flags, mode = rest
    _call("posix_spawn_file_actions_addopen", files, number, _text(str(path)), flags, mode)


def _call(name: str, *arguments: object, path: str | None = None) -> None:
    """Call one of these functions, which return an errno instead of setting it."""
    if number := getattr(_library, name)(*arguments):
        raise OSError(number, os.strerror(number), path)


def _text(text: str) -> bytes:
    made = os.fsencode(text)
    if b"\0" in made:
        raise ValueError("embedded null byte")
    return made


def _vector(texts: Iterable[str]) -> "ctypes.Array[ctypes.c_char_p]":
    made = [*map(_text, texts), None]
    return (ctypes.c_char_p * len(made))(*made)
