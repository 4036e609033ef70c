"""OpenTelemetry's variables: which signals go where, and what nobody obeys."""

import pytest

from sandkeeper.settings.otlp import OtlpSettings
from sandkeeper.settings.variables import Variables

ALL = {"logs", "traces", "metrics"}
WHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("given", "signals"),
    [
        ({}, set()),
        (WHERE, ALL),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, {"traces"}),
        ({**WHERE, "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "console"}, {"traces"}),
        ({**WHERE, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, ALL - {"metrics"}),
        ({**WHERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ALL),
        ({**WHERE, "OTEL_SDK_DISABLED": "TRUE"}, set()),
        ({**WHERE, "OTEL_SDK_DISABLED": "1"}, ALL),
    ],
)
def test_a_signal_is_exported_where_it_has_an_endpoint(
    given: dict[str, str], signals: set[str]
) -> None:
    found = OtlpSettings.read(Variables(given))

    assert found.signals == signals
    assert bool(found.sampler) == ("traces" in signals)


def test_what_makes_no_sense_is_doubted_and_never_a_fault() -> None:
    env = Variables(
        {
            **WHERE,
            "OTEL_TRACES_SAMPLER": "now and then",
            "OTEL_TRACES_SAMPLER_ARG": "2",
            "OTEL_METRIC_EXPORT_INTERVAL": "soon",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/json",
        }
    )
    found = OtlpSettings.read(env)

    assert env.faults == []
    assert len(env.doubts) == 3
    assert (found.sampler, found.ratio) == ("parentbased_always_on", 1.0)
    assert found.metrics_seconds == 60.0
    assert found.signals == {"traces", "metrics"}


def test_the_sampler_and_the_interval_are_as_given() -> None:
    given = {
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    }
    found = OtlpSettings.read(Variables({**WHERE, **given}))

    assert (found.sampler, found.ratio, found.metrics_seconds) == ("traceidratio", 0.25, 5.0)
