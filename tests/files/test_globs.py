"""Globs by Go's rules."""

import fnmatch
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.errors import BadInput
from sandkeeper.files.globs import MAX_CHARACTERS, any_of, matcher, path_pattern, simple

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
    ("[-b]", "b", False),
    ("[b-]", "b", False),
    ("[a--b]", "a", False),
    ("[a-b-c]", "b", False),
    (r"[a\-b]", "-", True),
    (r"[\]x]", "]", True),
    (r"[\]x]", "\\", False),
    ("[a&&b]", "&", True),
    ("[[a]", "[", True),
    ("a[", "b", False),
    ("*[b-a]*", "ab", False),
    ("a*[b", "ab", False),
    ("**a***", "xax", True),
    ("*?", "é", True),
    ("*??", "é", False),
]


@pytest.mark.parametrize(("pattern", "name", "matches"), TABLE)
def test_a_pattern_matches_as_the_table_says(pattern: str, name: str, matches: bool) -> None:
    assert matcher(pattern)(os.fsencode(name)) is matches


@given(st.text("ab.*?", max_size=8), st.text("ab.", max_size=8))
def test_stars_and_question_marks_are_those_of_the_shell(pattern: str, name: str) -> None:
    assert matcher(pattern)(name.encode()) == fnmatch.fnmatchcase(name, pattern)


class Bad(Exception):
    """Go's ErrBadPattern."""


def by_go(pattern: str, name: str) -> bool:
    """Match as path.Match's documentation says, in the slowest way there is."""
    try:
        return _match(_terms(pattern), name)
    except Bad:
        return False


def _terms(pattern: str) -> list[object]:
    """Read a pattern by Go's grammar: a term is `*`, `?`, a class or a character."""
    terms: list[object] = []
    rest = list(pattern)
    while rest:
        char = rest.pop(0)
        if char == "[":
            terms.append(_members(rest))
        elif char == "\\":
            if not rest:
                raise Bad
            terms.append((rest.pop(0),))
        else:
            terms.append(char if char in "*?" else (char,))
    return terms


def _members(rest: list[str]) -> object:
    negated = rest[:1] == ["^"]
    if negated:
        rest.pop(0)
    ranges = []
    while not ranges or rest[:1] != ["]"]:
        low = high = _member(rest)
        if rest[:1] == ["-"]:
            rest.pop(0)
            high = _member(rest)
        ranges.append((low, high))
    rest.pop(0)
    return negated, ranges


def _member(rest: list[str]) -> str:
    if not rest or rest[0] in "-]":
        raise Bad
    char = rest.pop(0)
    if char != "\\":
        return char
    if not rest:
        raise Bad
    return rest.pop(0)


def _match(terms: list[object], name: str) -> bool:
    if not terms:
        return not name
    first, others = terms[0], terms[1:]
    if first == "*":
        return any(_match(others, name[cut:]) for cut in range(len(name) + 1))
    if not name:
        return False
    if first == "?":
        fits = True
    elif isinstance(first, tuple) and len(first) == 2:
        negated, ranges = first
        fits = negated != any(low <= name[0] <= high for low, high in ranges)
    else:
        fits = first == (name[0],)
    return fits and _match(others, name[1:])


PIECES = [
    "*",
    "*",
    "?",
    "a",
    "b",
    "é",
    "[a-b]",
    "[^a]",
    "[é-ü]",
    "[b-a]",
    "[^b-a]",
    r"\*",
    "[",
    "]",
]
PIECES += ["-", "^", "\\", "[-a]", "[a-]", "[]]", r"[\]]", "[a", "{a,b}", "!"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.text("abéü*[]-^", max_size=6),
)
def test_every_pattern_means_what_go_says(pattern: str, name: str) -> None:
    assert matcher(pattern)(name.encode()) is by_go(pattern, name)


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=3).map("".join), max_size=5),
    st.text("abé*", max_size=5),
)
def test_several_patterns_match_what_one_of_them_does(patterns: list[str], name: str) -> None:
    match = any_of(patterns)

    assert (match is None) is (not patterns)
    if match is not None:
        assert match(name.encode()) is any(by_go(pattern, name) for pattern in patterns)


@pytest.mark.parametrize(
    "pattern",
    [
        *("*a" * count + "*b" for count in (5, 8, 100, 1000)),
        "*a?" * 80 + "*b",
        "*[ab]" * 200 + "*c",
        "*" + "a" * 127 + "b*",
        "*" + "[^b]" * 127 + "b*",
        "*" + "?" * 127 + "b*",
        "*a*" * 1300,
        "*[" + "".join(chr(0x10000 + 2 * index) for index in range(4000)) + "]b",
    ],
)
def test_no_pattern_takes_longer_than_its_length_allows(pattern: str) -> None:
    name = b"a" * 255
    match = matcher(pattern)

    before = time.thread_time()
    for _ in range(10):
        match(name)

    assert time.thread_time() - before < 10  # 10 ms at most on a quiet machine


def test_patterns_of_more_characters_than_any_folder_needs_are_refused() -> None:
    assert matcher("a" * MAX_CHARACTERS)(b"b") is False
    with pytest.raises(BadInput, match="4096 characters"):
        matcher("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(BadInput):
        any_of(["*aa*"] * MAX_CHARACTERS)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/b/a.py", False),
        ("src/**/a.py", "src/b/c/a.py", True),
        ("src/**/a.py", "src/a.py", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
    ],
)
def test_globs_on_paths_are_written_for_re2(glob: str, path: str, matches: bool) -> None:
    import re2

    assert (re2.fullmatch(path_pattern(glob), path) is not None) is matches


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
