"""Ranking by BM25: what a score is made of."""

import math

from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.search.bm25 import K1, B, rank, words


def test_identifiers_are_split_into_their_words() -> None:
    assert words("parseHTTPReply of_two x2") == ["parse", "http", "reply", "of", "two", "x2"]


def test_the_best_document_has_one_and_documents_without_the_words_are_absent() -> None:
    documents = ["red green", "blue blue red", "green", ""]

    assert [item for item, _ in rank("blue", documents)] == [1]
    assert rank("blue", documents)[0][1] == 1.0
    assert rank("yellow", documents) == []
    assert rank("", documents) == []
    assert rank("red", []) == []


def test_scores_are_those_of_the_formula() -> None:
    documents = ["cat dog", "cat cat cat bird", "fish"]
    mean = 7 / 3
    rarity = math.log1p((3 - 2 + 0.5) / (2 + 0.5))

    def score(count: int, length: int) -> float:
        return rarity * count / (count + K1 * (1 - B + B * length / mean))

    first, second = score(1, 2), score(3, 4)
    assert rank("cat", documents) == [(1, 1.0), (0, round(first / second, 6))]


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    documents = ["common rare", "common", "common", "common"]

    ranking = rank("common rare", documents)

    assert ranking[0] == (0, 1.0)
    assert len(ranking) == 4
    assert all(0 < score < 0.5 for _, score in ranking[1:])


@given(st.text(max_size=30), st.lists(st.text(max_size=60), max_size=6))
def test_any_text_can_be_ranked(query: str, documents: list[str]) -> None:
    ranking = rank(query, documents)

    scores = [score for _, score in ranking]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert len({item for item, _ in ranking}) == len(ranking)
