"""W3C Trace Context: what is read of requests, and which spans are recorded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from sandkeeper.tracecontext import SAMPLERS, Trace, Tracing, below, parsed

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"00",
        GOOD.upper(),
        GOOD + b"-more",
        GOOD[:-1],
        GOOD.replace(b"00-4", b"ff-4"),
        GOOD.replace(TRACE.encode(), b"0" * 32),
        GOOD.replace(SPAN.encode(), b"0" * 16),
        GOOD.replace(b"-", b"_"),
        b"01" + GOOD[2:] + b"more",
        GOOD + b"\n",
        "00-٤".encode(),
    ],
)
def test_what_is_no_traceparent_is_none(sent: bytes) -> None:
    assert parsed([sent]) is None


def test_two_parents_are_none_and_later_versions_may_have_more() -> None:
    assert parsed([GOOD, GOOD]) is None
    assert parsed([b" \t" + GOOD + b" "]) == Trace(TRACE, SPAN, 1)
    assert parsed([b"01" + GOOD[2:] + b"-what-comes"]) == Trace(TRACE, SPAN, 1)
    assert parsed([GOOD[:-2] + b"ff"]) == Trace(TRACE, SPAN, 3)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([b"a=1"], "a=1"),
        ([b"a=1, b=2 ,,", b"t@c=x y"], "a=1,b=2,t@c=x y"),
        ([b"a=1,a=2"], ""),
        ([b"A=1"], ""),
        ([b"a="], ""),
        ([b"a=\xff"], ""),
        ([b"a=1=2"], ""),
        ([b",".join(b"k%d=1" % n for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([b",".join(b"k%d=1" % n for n in range(33))], ""),
        ([b"a=" + b"x" * 200 + b",b=" + b"y" * 200 + b",c=1,d=" + b"z" * 200], "c=1"),
        ([b",".join(b"k%d=" % n + b"x" * 60 for n in range(10, 20))],
         ",".join(f"k{n}=" + "x" * 60 for n in range(10, 17))),
    ],
)  # fmt: skip
def test_a_tracestate_is_kept_in_whole_members_or_left_out(sent: list[bytes], kept: str) -> None:
    found = parsed([GOOD], sent)

    assert found is not None
    assert found.state == kept
    assert found.is_sound


@given(st.lists(st.binary(max_size=80), max_size=3), st.lists(st.binary(max_size=80), max_size=3))
def test_whatever_is_sent_nothing_is_raised(parents: list[bytes], states: list[bytes]) -> None:
    found = parsed([GOOD, *parents][-1:], states)

    assert found is None or found.is_sound


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@given(
    above=st.sampled_from([None, 0, 1]),
    number=st.integers(1, (1 << 128) - 1),
    ratio=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_the_samplers_decide_as_those_of_opentelemetry(
    name: str, above: int | None, number: int, ratio: float
) -> None:
    rule = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": sampling.TraceIdRatioBased(ratio),
    }[name.removeprefix("parentbased_")]
    theirs = sampling.ParentBased(rule) if name.startswith("parentbased_") else rule
    place = None if above is None else Trace(f"{number:032x}", SPAN, above)
    context = None
    if above is not None:
        flags = TraceFlags(above)
        remote = SpanContext(number, int(SPAN, 16), is_remote=True, trace_flags=flags)
        context = trace.set_span_in_context(NonRecordingSpan(remote))

    ours = Tracing(name, ratio).begin(place)

    assert ours is not None
    wanted = theirs.should_sample(context, int(ours.trace_id, 16), "any").decision
    assert ours.is_sampled == wanted.is_sampled()
    assert ours.parent_id == ("" if place is None else SPAN)


def test_without_tracing_the_callers_place_is_passed_on() -> None:
    place = parsed([GOOD], [b"a=1"])

    assert Tracing().begin(place) is place
    assert Tracing().begin(None) is None
    assert below(place, {}) == {"TRACEPARENT": GOOD.decode(), "TRACESTATE": "a=1"}
    assert below(place, {"TRACEPARENT": "x"}) == {"TRACEPARENT": "x"}
