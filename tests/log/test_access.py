"""What of a query reaches the log."""

import pytest

from sandkeeper.log.redaction import SECRETS, redact_query

HIDDEN = "%5BREDACTED%5D"


@pytest.mark.parametrize("name", [*sorted(SECRETS), "TOKEN", "bl_preview_token", "X-Amz-Signature"])
def test_the_value_of_a_secret_name_is_hidden_also_an_empty_one(name: str) -> None:
    assert redact_query(f"{name}=abc") == redact_query(f"{name}=") == f"{name}={HIDDEN}"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("b=2&a=1", "b=2&a=1"),
        ("a=b%20c&a=b+c", "a=b%20c&a=b+c"),
        ("monkey=1&keys=2", "monkey=1&keys=2"),
        ("z=b%20c&token=x&a=1", f"a=1&token={HIDDEN}&z=b+c"),
        ("key=1&key=2&a=1&a=2", f"a=1&a=2&key={HIDDEN}"),
        ("%74oken=x", f"token={HIDDEN}"),
        ("token=x&a=%zz", "token=[REDACTED]&a=%zz"),
        ("tok%65n=x&a=%zz", "tok%65n=[REDACTED]&a=%zz"),
        ("monkey=1&a=%zz", "monkey=1&a=%zz"),
        ("a=1;token=x", "a=1;token=[REDACTED]"),
    ],
)
def test_what_else_stands_in_a_query_stays(query: str, shown: str) -> None:
    assert redact_query(query) == shown
