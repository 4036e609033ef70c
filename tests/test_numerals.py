"""Numbers as texts: what is one, what is none, and that no text of any length is an exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.errors import BadInput
from sandkeeper.numerals import GO_INT, asked, atoi, decimal, natural, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("007", 7), ("0" * 9000 + "7", 7), (b"12", 12), ("9" * 9000, GO_INT - 1)],
)
def test_digits_are_a_number_of_whatever_length(text: str | bytes, value: int) -> None:
    assert natural(text) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "1.0", "²", "٣", b"\xb2", b""])
def test_what_only_python_calls_a_number_is_none(text: str | bytes) -> None:
    assert natural(text) is None


@given(st.text(max_size=40) | st.integers().map(str))
def test_any_text_is_an_int_of_go_or_a_reason(text: str) -> None:
    try:
        value = atoi(text)
    except ValueError as error:
        reason = str(error)
    else:
        reason = "" if value == int(text) and -GO_INT <= value < GO_INT else "wrong"

    assert reason in {"", "invalid syntax", "value out of range"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [(str(GO_INT), "value out of range"), (str(-GO_INT - 1), "value out of range")]
    + [(bad, "invalid syntax") for bad in ("", "+", "--1", "1e3", "1_0", "٣")],
)
def test_atoi_tells_gos_reason(text: str, reason: str) -> None:
    assert atoi(str(-GO_INT)) == -GO_INT
    with pytest.raises(ValueError, match=reason):
        atoi(text)


@pytest.mark.parametrize("text", ["", ".", "1.2.3", "nan", "inf", "1_0", "٣", " 1", "1e", "0x1"])
def test_a_decimal_is_written_plainly(text: str) -> None:
    assert decimal("1.5e1") == 15
    assert decimal("1e999") == float("inf")
    assert decimal(text) is None


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "٣", "1_0", "9" * 19, "9" * 9000])
def test_what_a_request_asks_for_is_bounded_or_refused_by_name(text: str) -> None:
    assert asked({"limit": "9" * 18}, "limit", 1, 10) == 10
    assert asked({"limit": ""}, "limit", 1, 10) == 1
    assert whole("limit", "+7") == 7
    with pytest.raises(BadInput, match=r"^invalid limit: "):
        asked({"limit": text}, "limit", 1, 10)
