"""Fuzzy scores, against the plain matrix the algorithm is defined by."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandkeeper.search.fuzzy import FuzzyPattern

SMALL = st.text("aAb1/_. ", max_size=14)


def bonus(text: str, at: int) -> int:
    """The bonus of a position, by the table of the module's docstring."""

    def kind(char: str) -> str:
        for name, test in (
            ("slash", char == "/"),
            ("space", char.isspace()),
            ("lower", char.islower()),
            ("upper", char.isupper()),
            ("digit", char.isdigit()),
        ):
            if test:
                return name
        return "other"

    before, here = kind(text[at - 1]) if at else "slash", kind(text[at])
    if here not in {"space", "other"}:
        if before == "slash":
            return 9
        if before in {"space", "other"}:
            return 8
    if (before, here) == ("lower", "upper") or (here == "digit" and before != "digit"):
        return 7
    return 8 if here in {"slash", "space", "other"} else 0


def matrix_score(query: str, text: str) -> int | None:
    """Fill the whole matrix, row by row and column by column."""
    cased = any(char.isupper() for char in query)
    same = (lambda a, b: a == b) if cased else (lambda a, b: a.lower() == b.lower())
    width = len(text)
    first, position = [], -1
    for char in query:
        position = next((i for i in range(position + 1, width) if same(char, text[i])), -1)
        if position < 0:
            return None
        first.append(position)
    score = [[0] * width for _ in query]
    run = [[0] * width for _ in query]
    for r, char in enumerate(query):
        gap = False
        for i in range(first[r] if r else 0, width):
            left = score[r][i - 1] if i else 0
            by_gap = left - (1 if gap else 3)
            by_match = 0
            if same(char, text[i]):
                if r == 0:
                    score[r][i], run[r][i], gap = 16 + 2 * bonus(text, i), 1, False
                    continue
                by_match = (score[r - 1][i - 1] if i else 0) + 16
                length, own = (run[r - 1][i - 1] if i else 0) + 1, bonus(text, i)
                better = own
                if length > 1:
                    opening = bonus(text, i - length + 1)
                    if own >= 8 and own > opening:
                        length = 1
                    else:
                        better = max(own, opening, 4)
                if by_match + better < by_gap:
                    by_match, length = by_match + own, 0
                else:
                    by_match += better
                run[r][i] = length
            gap = by_match < by_gap
            score[r][i] = max(by_match, by_gap, 0)
    return max(score[-1])


@given(st.text("aAb1/_.", min_size=1, max_size=5), SMALL)
@example("a", "a")
@example("aab", "a/aaab")
@example("ab", "a          b ab")
def test_the_score_is_that_of_the_full_matrix(query: str, text: str) -> None:
    assert FuzzyPattern(query).score(text) == matrix_score(query, text)


@given(st.text(min_size=1, max_size=5), st.text(max_size=20))
def test_a_score_is_within_its_bounds(query: str, text: str) -> None:
    pattern = FuzzyPattern(query)
    score = pattern.score(text)

    assert len(pattern.fold(text)) == len(text)
    if score is not None:
        assert 0 < score <= pattern.best_for(pattern.fold(text)) <= pattern.best


@pytest.mark.parametrize(
    ("query", "text", "score"),
    [
        ("main", "main.go", 4 * 16 + 9 + 4 * 9),  # at the start, in one run
        ("main", "src/main.go", 4 * 16 + 9 + 4 * 9),  # after a slash as well
        ("main", "domain", 4 * 16 + 3 * 4),  # in the middle: only the run counts
        ("fb", "foo_bar", 2 * 16 + 2 * 9 - 3 - 1 - 1 + 8),  # across a gap, to a separator
        ("fB", "fooBar", 2 * 16 + 2 * 9 - 3 - 1 + 7),  # camel case
    ],
)
def test_scores_of_examples(query: str, text: str, score: int) -> None:
    assert FuzzyPattern(query).score(text) == score


def test_case_matters_only_to_a_query_with_capitals() -> None:
    assert FuzzyPattern("readme").score("README.md") is not None
    assert FuzzyPattern("README").score("readme.md") is None


def test_accents_of_a_candidate_are_ignored() -> None:
    assert FuzzyPattern("cafe").score("Café") is not None
    assert FuzzyPattern("café").score("cafe") is None
