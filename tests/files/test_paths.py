"""What a path in a URL means: the written table, and what holds for any bytes."""

import os
import posixpath
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.errors import BadInput
from sandkeeper.files.paths import (
    is_replacement,
    is_temporary,
    resolve,
    resolve_text,
    resolve_tree,
    temporary_name,
)

WORKDIR = "/home/me/dir"
HOME = "/home/me"

TABLE = [
    # after /filesystem   echoed              used
    (b"/", ".", "/home/me/dir"),
    (b"", ".", "/home/me/dir"),
    (b"/.", ".", "/home/me/dir"),
    (b"/./", "./", "/home/me/dir"),
    (b"/src/a.txt", "src/a.txt", "/home/me/dir/src/a.txt"),
    (b"/src/", "src/", "/home/me/dir/src"),
    (b"//tmp/x", "/tmp/x", "/tmp/x"),
    (b"///tmp//x", "/tmp/x", "/tmp/x"),
    (b"/%2Ftmp%2Fx", "/tmp/x", "/tmp/x"),
    (b"%2Ftmp/x", "/tmp/x", "/tmp/x"),
    (b"/src%2Fa.txt", "/src/a.txt", "/src/a.txt"),
    (b"/a.txt", "a.txt", "/home/me/dir/a.txt"),
    (b"//", "/", "/"),
    (b"/%2F", "/", "/"),
    (b"%2F", "/", "/"),
    (b"/%2ftmp%2fx", "/tmp/x", "/tmp/x"),  # one slash goes, the decoded one stays
    (b"/src%2fa.txt", "src/a.txt", "/home/me/dir/src/a.txt"),
    (b"/~", "/home/me", "/home/me"),
    (b"/~/x", "/home/me/x", "/home/me/x"),
    (b"/~%2Fx", "/~/x", "/~/x"),
    (b"/~foo", "~foo", "/home/me/dir/~foo"),
    (b"//~/x", "/~/x", "/~/x"),
    (b"/../x", "../x", "/home/me/x"),
    (b"/../../../../x", "../../../../x", "/x"),
    (b"//a/../../b", "/a/../../b", "/b"),
    (b"/a+b%20c", "a+b c", "/home/me/dir/a+b c"),
    (b"/100%25", "100%", "/home/me/dir/100%"),
    (b"/%zz", "%zz", "/home/me/dir/%zz"),
    (b"/a%0Ab", "a\nb", "/home/me/dir/a\nb"),
    (b"/%ff", "\udcff", "/home/me/dir/\udcff"),
    (b"/%C3%A9", "é", "/home/me/dir/é"),
]


@pytest.mark.parametrize(("rest", "display", "absolute"), TABLE)
def test_a_path_means_what_the_table_says(rest: bytes, display: str, absolute: str) -> None:
    target = resolve(rest, workdir=WORKDIR, home=HOME)

    assert (target.display, target.absolute) == (display, absolute)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"", "/"),
        (b"/", "/"),
        (b"/src", "/src"),
        (b"%2Ftmp/x", "/tmp/x"),
        (b"//tmp/x", "/tmp/x"),
        (b"/~/x", "/~/x"),
    ],
)
def test_tree_paths_are_always_absolute(rest: bytes, expected: str) -> None:
    assert resolve_tree(rest).absolute == resolve_tree(rest).display == expected


def test_only_the_bare_working_directory_is_shown_by_its_path() -> None:
    assert resolve(b"/", workdir=WORKDIR, home=HOME).shown == WORKDIR
    assert resolve(b"/src", workdir=WORKDIR, home=HOME).shown == "src"


def test_a_home_that_is_not_set_is_the_callers_error() -> None:
    with pytest.raises(BadInput, match="home directory not found"):
        resolve(b"/~/x", workdir=WORKDIR, home="")
    assert resolve(b"/~x", workdir=WORKDIR, home="").absolute == "/home/me/dir/~x"


NAME = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b"..", b"~"}
)


@given(st.lists(NAME, min_size=1, max_size=5))
def test_any_names_the_kernel_allows_arrive_unchanged(names: list[bytes]) -> None:
    wanted = os.fsdecode(b"/" + b"/".join(names))
    quoted = [quote_from_bytes(name).encode() for name in names]

    assert resolve(b"//" + b"/".join(quoted), workdir="/w", home="").absolute == wanted
    assert resolve(b"/%2F" + b"%2F".join(quoted), workdir="/w", home="").absolute == wanted
    assert resolve_tree(b"/" + b"/".join(quoted)).absolute == wanted
    relative = resolve(b"/" + b"/".join(quoted), workdir="/w", home="")
    assert relative.absolute == "/w" + wanted


@given(st.binary(max_size=60))
def test_whatever_comes_the_result_is_absolute_clean_and_stable(rest: bytes) -> None:
    target = resolve(b"/" + rest, workdir=WORKDIR, home=HOME)

    assert target.absolute.startswith("/")
    assert not target.absolute.startswith("//")
    assert posixpath.normpath(target.absolute) == target.absolute
    assert "//" not in target.display
    again = resolve_text(target.absolute, workdir="/elsewhere", home="")
    assert again.absolute == target.absolute


@given(st.booleans())
def test_our_temporary_names_are_recognised_and_nobody_elses(replacing: bool) -> None:
    name = temporary_name(replacing=replacing)

    assert is_temporary(name)
    assert is_replacement(name) == replacing
    assert len(name) < 64
    assert not is_temporary(name + "x")
    assert not is_temporary(".sandkeeper-tmp-notes.txt")
