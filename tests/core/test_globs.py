"""Globs by Go's rules."""

import fnmatch
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.core.globs import any_of, matcher, simple

TABLE = [
    ("*.go", "a.go", True),
    ("*.go", "a.goo", False),
    ("*", "", True),
    ("*", ".hidden", True),
    ("a?c", "aéc", True),
    ("a?c", "ac", False),
    ("[a-c]x", "bx", True),
    ("[^a-c]x", "bx", False),
    ("[!a]x", "!x", True),
    ("[!a]x", "bx", False),
    ("[c-a]", "b", False),
    ("[^c-a]", "b", True),
    ("[]a]", "]", False),  # Go: a class begins with a member
    ("[a", "a", False),
    ("[-]", "-", False),
    (r"[\-]", "-", True),
    (r"a\*", "a*", True),
    (r"a\*", "ab", False),
    ("a\\", "a\\", False),
    ("{a,b}", "a", False),
    ("{a,b}", "{a,b}", True),
    ("a.c", "abc", False),
    ("*b*", "a\nb\nc", True),
    ("", "", True),
    ("", "a", False),
]


@pytest.mark.parametrize(("pattern", "name", "matches"), TABLE)
def test_a_pattern_matches_as_the_table_says(pattern: str, name: str, matches: bool) -> None:
    assert matcher(pattern)(os.fsencode(name)) is matches


@given(st.text("ab.*?", max_size=8), st.text("ab.", max_size=8))
def test_stars_and_question_marks_are_those_of_the_shell(pattern: str, name: str) -> None:
    assert matcher(pattern)(name.encode()) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(), st.binary())
def test_no_pattern_and_no_name_raises(pattern: str, name: bytes) -> None:
    encodable = pattern.encode("utf-8", "replace").decode()

    assert matcher(encodable)(name) in {True, False}
    assert simple(encodable) in {True, False}


def test_one_of_several_patterns_is_enough() -> None:
    match = any_of(["*.a", "*.b"])

    assert match is not None
    assert (match(b"x.b"), match(b"x.c")) == (True, False)
    assert any_of([]) is None
