"""Reading JSON bodies as leniently as the contract says, and never worse than a BadInput."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.api.body import parse_json
from sandkeeper.api.schemas.processes import ProcessRequest
from sandkeeper.errors import BadInput

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["command", "ENV", "Timeout", "x", ""]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_bad_input(body: bytes) -> None:
    with suppress(BadInput):
        assert isinstance(parse_json(body, ProcessRequest), ProcessRequest)


@given(values)
def test_any_json_is_a_request_or_bad_input(value: object) -> None:
    with suppress(BadInput):
        assert isinstance(parse_json(json.dumps(value).encode(), ProcessRequest), ProcessRequest)


@given(st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=3), st.text())
def test_what_was_sent_is_what_is_read(command: str, env: dict[str, str], tail: str) -> None:
    def clean(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    body = json.dumps({"cOMMAND": command, "Env": env, "other": [1]}) + " " + tail
    made = parse_json(body.encode("utf-8", "surrogatepass"), ProcessRequest)

    assert made.command == clean(command)
    assert made.env == {clean(key): clean(value) for key, value in env.items()}


@pytest.mark.parametrize("depth", [500, 5_000, 500_000])
@pytest.mark.parametrize("opening", ["[", '{"env":', '{"x":['])
def test_any_depth_is_refused_or_read_but_never_fatal(depth: int, opening: str) -> None:
    with pytest.raises(BadInput):
        parse_json((opening * depth).encode(), ProcessRequest)


def test_null_is_the_default_of_a_field_and_the_zero_of_an_element() -> None:
    body = b'{"command":"true","timeout":null,"env":{"A":null,"B":"b"},"waitForPorts":[null,1]}'
    made = parse_json(body, ProcessRequest)

    assert (made.timeout, made.env, made.wait_for_ports) == (None, {"A": "", "B": "b"}, [0, 1])
