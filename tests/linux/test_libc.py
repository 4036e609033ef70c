"""Calls that Python does not have: their results, and errno as OSError."""

import errno
import os
from pathlib import Path

import pytest

from sandkeeper.linux import libc
from sandkeeper.linux.mounts import parse_mounts


def test_a_call_returns_its_result() -> None:
    assert libc.call("getpid") == os.getpid()


def test_a_call_that_fails_raises_errno_with_the_path(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")

    with pytest.raises(FileNotFoundError) as caught:
        libc.call("rmdir", os.fsencode(missing), path=missing)

    assert caught.value.filename == missing


def test_a_function_or_system_call_that_is_missing_is_enosys() -> None:
    with pytest.raises(OSError, match="Function not implemented"):
        libc.call("no_such_function")
    with pytest.raises(OSError, match="Function not implemented") as caught:
        libc.system_call(100_000)
    assert caught.value.errno == errno.ENOSYS


def test_a_line_of_the_mount_table_ends_at_a_newline_only() -> None:
    table = "36 35 98:0 / /mnt/a\fb\u2028c\\012d rw,noatime - ext3 /dev/root rw\n"

    (found,) = parse_mounts(table)

    assert (found.path, found.kind, found.id) == ("/mnt/a\fb\u2028c\nd", "ext3", 36)
