"""Times as RFC 3339: one writer for files, logs and records."""

import pytest

from sandkeeper.linux.clocks import rfc3339, rfc3339_utc
from sandkeeper.log.lines import timestamp


@pytest.mark.parametrize(
    ("nanoseconds", "rest"),
    [(0, ""), (1, ".000000001"), (120_000_000, ".12"), (999_999_999, ".999999999")],
)
def test_a_local_time_has_the_digits_it_needs(nanoseconds: int, rest: str) -> None:
    whole = rfc3339(1_700_000_000 * 10**9)

    assert rfc3339(1_700_000_000 * 10**9 + nanoseconds) == whole[:19] + rest + whole[19:]
    assert timestamp(1_700_000_000.9) == whole


def test_a_time_in_utc_has_microseconds_always() -> None:
    assert rfc3339_utc(1_700_000_000_000_000) == "2023-11-14T22:13:20.000000Z"
    assert rfc3339_utc(1_700_000_000_120_000) == "2023-11-14T22:13:20.120000Z"
    assert rfc3339_utc(-1) == "1969-12-31T23:59:59.999999Z"


def test_a_year_that_cannot_be_written_is_the_first() -> None:
    assert rfc3339(10**30) == "0001-01-01T00:00:00Z"
