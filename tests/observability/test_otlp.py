"""Logs, traces and metrics reach a collector by OTLP; whatever it does, nobody waits for it."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.harness import Server, children_of, start, until, words_of
from tests.later import Later
from tests.observability.asked import expressions, missing
from tests.observability.collector import Collector, attributes
from tests.person import Person

from sandkeeper.log.formats import Shipped

posting = Later("sandkeeper.observability.otlp.posting")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "theirs=1, more=b@c"}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=abc",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=tests,host.name=here",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "SANDKEEPER_LOG": "none",  # which is no word about a collector
    }
    with Server(tmp_path_factory.mktemp("otlp"), env=env) as running:
        yield running


def ask(server: Server, command: str, trace: str = TRACE, **fields: Any) -> dict[str, Any]:
    """Run a command in a request that belongs to a trace."""
    body = {"command": command, "waitForCompletion": True, **fields}
    headers = {**PARENT, "traceparent": f"00-{trace}-{CALLER}-01"}
    reply = server.client.post("/process", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


def test_a_request_and_the_process_it_starts_are_spans_of_the_callers_trace(
    server: Server, collector: Collector
) -> None:
    trace = f"{1:032x}"
    ran = ask(server, "echo $TRACEPARENT $TRACESTATE; PASSWORD=geheim exit 3", trace)
    asked, request = collector.span(trace, "POST /process")
    lived, process = collector.span(trace, "process")

    assert ran["stdout"] == f"00-{trace}-{process.span_id.hex()}-01 theirs=1,more=b@c\n"
    assert request.parent_span_id.hex() == CALLER
    assert process.parent_span_id == request.span_id == process.links[0].span_id
    assert (request.trace_state, process.trace_state) == ("theirs=1,more=b@c",) * 2
    assert (request.kind, asked["http.response.status_code"]) == (2, 200)
    assert (lived["process.exit.code"], process.status.code) == (3, 2)
    assert lived["process.pid"] == int(ran["pid"])
    assert "geheim" not in lived["process.command_line"]
    assert request.start_time_unix_nano <= process.start_time_unix_nano
    assert process.start_time_unix_nano < process.end_time_unix_nano


def test_a_request_of_no_trace_begins_one_and_a_callers_own_variable_wins(
    server: Server, collector: Collector
) -> None:
    first = server.run("echo $TRACEPARENT")["stdout"]
    own = server.run("echo $TRACEPARENT,$TRACESTATE", env={"TRACEPARENT": "mine"})["stdout"]
    (trace,) = re.findall(r"00-([0-9a-f]{32})-[0-9a-f]{16}-01\n", first)
    _, request = collector.span(trace, "POST /process")

    assert not request.parent_span_id
    assert own == "mine,\n"


def test_a_terminal_is_below_the_request_that_opened_it(
    server: Server, collector: Collector
) -> None:
    trace = f"{3:032x}"
    with Person(server, headers={"traceparent": f"00-{trace}-{CALLER}-01"}) as person:
        person.ready()
        person.type("echo is=$TRACEPARENT\r")
        shown = person.see("-01\r\n")
    asked, request = collector.span(trace, "GET /terminal")

    assert f"is=00-{trace}-{request.span_id.hex()}-01" in shown
    assert request.parent_span_id.hex() == CALLER
    assert asked["http.response.status_code"] == 101


def test_output_and_the_servers_own_lines_are_log_records(
    server: Server, collector: Collector
) -> None:
    trace = f"{2:032x}"
    ask(server, "echo out; echo err >&2; printf last", trace, name="talks")
    until(lambda: len(collector.output("talks")) == 3)
    said = {record.body.string_value: (found, record) for found, record in collector.logs()}
    found, record = said["err"]
    _, process = collector.span(trace, "process")
    access = until(
        lambda: next((r for f, r in collector.logs() if f.get("source") == "access"
                      and r.trace_id.hex() == trace), None)
    )  # fmt: skip
    resource = attributes(collector.of("/v1/logs")[0].resource_logs[0].resource)

    assert {"out", "err", "last"} <= set(said)
    assert (found["source"], found["stream"], found["process-name"]) == (
        "process",
        "stderr",
        "talks",
    )
    assert record.trace_id.hex() == trace
    assert record.span_id == process.span_id
    assert abs(record.time_unix_nano / 1e9 - time.time()) < 600
    assert (access.severity_text, access.severity_number) == ("info", 9)
    assert resource["service.name"] == "sandkeeper"
    assert (resource["service.namespace"], resource["host.name"]) == ("tests", "here")
    assert all(fields["x-key"] == "abc" for _, fields, _ in collector.requests)


def test_the_metrics_are_those_of_the_metrics_route(server: Server, collector: Collector) -> None:
    server.run("true")
    text = server.client.get("/metrics", headers=OPENMETRICS).text
    route = {family.name: family for family in text_string_to_metric_families(text)}

    def latest() -> dict[str, Any]:
        (scope,) = collector.of("/v1/metrics")[-1].resource_metrics[0].scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    until(lambda: collector.of("/v1/metrics"))
    # The route counts itself, so what it shows is in one of the next readings.
    until(lambda: latest().keys() == {name for name, one in route.items() if one.samples})
    found = latest()
    states = {
        p.attributes[0].value.string_value for p in found["sandkeeper_processes"].gauge.data_points
    }
    requests = found["sandkeeper_requests"].sum
    seconds = found["sandkeeper_request_seconds"].histogram.data_points[0]

    assert {"running", "completed", "failed"} <= states
    assert requests.is_monotonic
    assert requests.aggregation_temporality == 2
    assert sum(seconds.bucket_counts) == seconds.count > 0
    assert len(seconds.bucket_counts) == len(seconds.explicit_bounds) + 1
    began = {p.start_time_unix_nano for p in requests.data_points}
    assert len(began) == 1
    until(lambda: latest()["sandkeeper_otlp_sent"].sum.data_points[0].as_double > 0)


def test_a_collector_that_hangs_or_refuses_keeps_nobody_and_gets_all_output_later(
    tmp_path: Path,
) -> None:
    """Over a kill -9 of the server, and of the process that exports."""
    small = {"sandkeeper.observability.otlp.lane.QUEUE_BYTES": 20_000}
    with Collector() as collector:
        collector.answers = lambda path: None
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        server = Server(tmp_path, env=env, constants=small)
        server.__enter__()
        try:
            server.run("seq 1 20000", name="counts")
            until(lambda: "/v1/logs" in collector.refused)
            for _ in range(100):
                assert server.client.get("/health").status_code == 200
            text = server.client.get("/metrics").text
            dropped = dict(re.findall(r'otlp_dropped_total\{signal="(\w+)"\} (\d+)', text))
            lag = re.search(r'consumer_lag_bytes\{consumer="otlp"\} (\d+)', text)
            server.kill9()

            collector.answers = lambda path: (503, {"Retry-After": "2"})
            server.restart()
            until(lambda: told(server, "does not take logs: 503"))
            for _ in range(100):
                assert server.client.get("/health").status_code == 200
            for pid in exporters(server):
                os.kill(pid, signal.SIGKILL)
            server.run("echo after", name="after")
            collector.answers = None
            until(lambda: collector.output("after") and "20000" in collector.output("counts"))
            until(lambda: told(server, "spans had no room on their way to the collector"))
        finally:
            server.__exit__()

    assert lag is not None
    assert int(lag[1]) > 100_000
    assert int(dropped["traces"]) > 0
    assert sorted(set(map(int, collector.output("counts")))) == list(range(1, 20001))


def told(server: Server, text: str) -> bool:
    """Say whether the log has a line with a text."""
    return any(text in line["msg"] for line in server.log_lines())


def exporters(server: Server) -> list[int]:
    """Return the pids of what exports for a server."""
    return [pid for pid in children_of(server.pid) if b"exporter_main" in b" ".join(words_of(pid))]


def test_what_a_collector_calls_wrong_is_dropped_and_counted_and_the_end_is_bounded(
    tmp_path: Path,
) -> None:
    with Collector() as collector:
        collector.answers = lambda path: (400, {}) if path == "/v1/logs" else None
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with Server(tmp_path, env=env) as server:
            server.run("echo wrong")

            def dropped() -> bool:
                text = server.client.get("/metrics").text
                found = re.search(r'otlp_dropped_total\{signal="logs"\} (\d+)', text)
                return found is not None and int(found[1]) > 0

            until(dropped)
            until(lambda: "/v1/traces" in collector.refused)
            began = time.monotonic()
            assert server.stop() == 0
            took = time.monotonic() - began

    assert took < 60  # the 3 seconds that the end may take, and a busy machine's


def test_what_is_led_elsewhere_has_not_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's exporters say that it has."""
    with Collector() as collector:
        collector.answers = lambda path: (308, {"Location": "/elsewhere"})
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        line = Shipped().line("info", "hello", {})
        told = posting.export_for("logs", posting.resource("sandkeeper", "one"))(line)
        assert next(iter(told))["why"].startswith("308")
        (outcome,) = posting.export_for("metrics", posting.resource("sandkeeper", "one"))(
            b"# TYPE a gauge\na 1\n# EOF\n"
        )
    assert (outcome["lost"], collector.refused) == (1, ["/v1/logs", "/v1/metrics"])


def test_without_a_collector_a_callers_place_is_passed_on_and_told_in_the_log(
    tmp_path: Path,
) -> None:
    with Server(tmp_path) as server:
        passed = ask(server, "echo $TRACEPARENT $TRACESTATE")["stdout"]
        nothing = server.run("echo [$TRACEPARENT$TRACESTATE]")["stdout"]
        bare = ask(server, "echo $TRACEPARENT", env={"TRACEPARENT": "mine"})["stdout"]
        wrong = server.client.get("/process", headers={"traceparent": f"00-{TRACE}-{'0' * 16}-01"})
        server.client.get("/process", headers=PARENT)
        until(lambda: any(line.get("path") == "/process" and line.get("method") == "GET"
                          and "trace_id" in line for line in server.log_lines()))  # fmt: skip
        lines = [line for line in server.log_lines() if line.get("source") == "access"]
        metrics = server.client.get("/metrics").text

    assert passed == f"00-{TRACE}-{CALLER}-01 theirs=1,more=b@c\n"
    assert (nothing, bare) == ("[]\n", "mine\n")
    assert wrong.status_code == 200
    told = [line.get("trace_id") for line in lines if line["path"] == "/process"]
    assert told == [TRACE, None, TRACE, None, TRACE]
    assert not any("span_id" in line for line in lines)
    assert "otlp_sent" not in metrics
    assert exporters_of_nobody(server)


def exporters_of_nobody(server: Server) -> bool:
    """Say whether no exporter was ever started: its positions would be there."""
    return not list(server.state.glob("runs/*/exported-otlp"))


def test_what_makes_no_sense_is_told_and_not_obeyed(tmp_path: Path) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_TRACES_SAMPLER": "sometimes",
    }
    with Server(tmp_path, env=env) as server:
        assert "otlp_sent" not in server.client.get("/metrics").text
        told = "\n".join(line["msg"] for line in server.log_lines())
        process = start(server, "sleep 100")
        server.client.delete(f"/process/{process['pid']}/kill")

    assert "http/protobuf is spoken, not 'grpc'" in told
    assert "OTEL_TRACES_SAMPLER='sometimes' is none of" in told


def test_what_the_dashboard_and_the_alerts_ask_for_is_there(server: Server) -> None:
    server.run("echo on")
    text = server.client.get("/metrics", headers={"Accept": "text/plain"}).text
    asked = expressions(fleet=False)
    assert len(asked) > 30
    assert missing(asked, text) == set()
