"""OpenTelemetry's standard variables, as far as this server itself has to know them.

The rest of them (headers, time limits, compression, certificates, names of the service and its
resource) is read by OpenTelemetry's own library where it exports (`observability.otlp`).
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import msgspec

from sandkeeper.settings.variables import Variables
from sandkeeper.tracecontext import SAMPLERS

__all__ = ["OtlpSettings"]

SIGNALS = ("logs", "traces", "metrics")
EXPORTER = "OTEL_EXPORTER_OTLP_"
OTHERS = frozenset(
    EXPORTER + part + name
    for part in ("", "LOGS_", "TRACES_", "METRICS_")
    for name in ("HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE")
) | {"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}
MOST_MILLISECONDS = 24 * 3600 * 1000


class OtlpSettings(msgspec.Struct, frozen=True):
    """Which signals are exported, how often metrics are (seconds), which traces are recorded."""

    signals: frozenset[str] = frozenset()
    sampler: str = ""
    ratio: float = 1.0
    metrics_seconds: float = 60.0

    @classmethod
    def read(cls, env: Variables) -> "OtlpSettings":
        """Read them; what makes no sense is told and not obeyed, as the specification has it.

        A workload may have these variables for itself, so nothing about them keeps us from serving.
        """
        off = env.text("OTEL_SDK_DISABLED").lower() == "true"
        signals = frozenset(signal for signal in SIGNALS if _is_wanted(env, signal))
        sampler, ratio = _sampler(env)
        text = env.text("OTEL_METRIC_EXPORT_INTERVAL")
        interval = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 60_000
        return cls(
            signals=frozenset() if off else signals,
            sampler=sampler if "traces" in signals and not off else "",
            ratio=ratio,
            metrics_seconds=min(max(interval, 100), MOST_MILLISECONDS) / 1000,
        )


def _is_wanted(env: Variables, signal: str) -> bool:
    """Say whether a signal has somewhere to go, by the one wire that we speak."""
    own = f"{EXPORTER}{signal.upper()}_"
    exporters = env.text(f"OTEL_{signal.upper()}_EXPORTER").lower() or "otlp"
    protocol = env.text(own + "PROTOCOL") or env.text(EXPORTER + "PROTOCOL") or "http/protobuf"
    endpoint = env.text(own + "ENDPOINT") or env.text(EXPORTER + "ENDPOINT")
    if not endpoint or "otlp" not in exporters.split(","):
        return False
    if protocol.lower() != "http/protobuf":
        env.doubts.append(f"{signal} are not exported: http/protobuf is spoken, not {protocol!r}")
        return False
    return True


def _sampler(env: Variables) -> tuple[str, float]:
    word = env.text("OTEL_TRACES_SAMPLER").lower()
    text = env.text("OTEL_TRACES_SAMPLER_ARG")
    if word and word not in SAMPLERS:
        env.doubts.append(f"OTEL_TRACES_SAMPLER={word!r} is none of {', '.join(SAMPLERS)}")
    try:
        ratio = float(text or 1)
        if not 0 <= ratio <= 1:
            raise ValueError
    except ValueError:
        env.doubts.append(f"OTEL_TRACES_SAMPLER_ARG={text!r} is no number from 0 to 1")
        ratio = 1.0
    return word if word in SAMPLERS else "parentbased_always_on", ratio
