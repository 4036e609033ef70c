"""What is done in pieces gives what the one call would."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper import pieces
from sandkeeper.pieces import in_order, split_at, used_up


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "SORTED_AT_ONCE", 8)
        patch.setattr(pieces, "SPLIT_BYTES", 8)
        yield


@given(
    st.lists(st.integers(-50, 50), max_size=400) | st.integers(0, 400).map(lambda n: [7] * n),
    st.sampled_from([None, abs, str, lambda item: item // 10]),
)
def test_the_order_is_that_of_sorted(items: list[int], key: Callable[[int], object] | None) -> None:
    assert in_order(items, key) == sorted(items, key=key)


@given(
    st.text("ab", max_size=120).map(str.encode),
    st.text("ab", min_size=1, max_size=12).map(str.encode),
    st.text("abc", max_size=3).map(str.encode),
)
def test_places_are_those_that_replace_finds(data: bytes, old: bytes, new: bytes) -> None:
    assert b"".join(new.join(parts) for parts in split_at(data, old)) == data.replace(old, new)
    assert sum(len(parts) - 1 for parts in split_at(data, old)) == data.count(old)


def test_what_is_used_up_is_let_go_also_by_who_stops_early() -> None:
    items = list(range(5000))
    using = used_up(items)

    assert [next(using), next(using)] == [0, 1]
    assert len(items) == 4998
    using.close()
    assert items == []
