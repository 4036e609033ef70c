"""Patterns of which nothing is given back, also where the interpreter gets those wrong."""

import re

import pytest

from sandkeeper import patterns
from sandkeeper.patterns import for_good


@pytest.mark.parametrize("old", [True, False])
def test_what_a_last_attempt_passed_over_is_not_part_of_the_match(
    monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    if old:
        monkeypatch.setattr(patterns, "_POSSESSIVE", False)

    for text, wanted in (("a,b,c", 4), ("a", 0), ("ab", 0), (",a,", 0)):
        made = re.compile(for_good("[^,]++,", "*")).match(text)
        assert made is not None
        assert made.end() == wanted, text
    assert re.match(for_good(b"ab?c", b"+"), b"acabcab").span() == (0, 5)
    assert re.match(for_good("[^-]++|-(?!--END)", "*"), "a-b---END").span() == (0, 3)
    assert re.match(for_good("a|ab", "+") + "b", "ab") is not None
    assert re.match(for_good(r"\\.|[^\"]", "*") + '"', r'x\""') is not None
    assert re.match(for_good("ab", "*") + "a", "abab") is None
