"""What a replica exports by OTLP, and what its `/metrics` has for the dashboard and the alerts."""

from collections.abc import Callable

from tests.apiserver import ApiServer
from tests.fleet.conftest import Replica
from tests.harness import until
from tests.observability.asked import expressions, missing
from tests.observability.collector import Collector, attributes

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_replica_exports_its_log_its_figures_and_spans_that_sandboxes_go_on_with(
    make_replica: Callable[..., Replica], api: ApiServer
) -> None:
    with Collector() as collector:
        replica = make_replica(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_METRIC_EXPORT_INTERVAL="200"
        )
        made = replica.create()
        told = {
            "E2b-Sandbox-Id": made["sandboxID"],
            "X-Access-Token": made["envdAccessToken"],
            "traceparent": f"00-{TRACE}-{CALLER}-01",
        }
        command = {"command": "echo $TRACEPARENT", "waitForCompletion": True}
        ran = replica.client.post("/process", json=command, headers=told).json()
        found, span = collector.span(TRACE, "POST")
        assert span.parent_span_id.hex() == CALLER
        assert found["http.response.status_code"] == 200
        assert ran["stdout"] == f"00-{TRACE}-{span.span_id.hex()}-01\n"
        assert until(lambda: [one for _, one in collector.spans() if one.name == "POST /v2"])

        def figures() -> set[str]:
            return {
                metric.name
                for message in collector.of("/v1/metrics")
                for metric in message.resource_metrics[0].scope_metrics[0].metrics
            }

        until(lambda: "sandkeeper_fleet_sandboxes" in figures())
        assert replica.stop() == 0  # what is left is exported before the end
        who = attributes(collector.of("/v1/traces")[0].resource_spans[0].resource)
        assert who["service.name"] == "sandkeeper-fleet"
        lines = [record.body.string_value for _, record in collector.logs()]
        assert any("fleet listens on" in line for line in lines)


def test_what_the_dashboard_and_the_alerts_ask_of_a_fleet_is_there(fleet: Replica) -> None:
    fleet.create()
    asked = expressions(fleet=True)
    assert len(asked) > 8
    assert missing(asked, fleet.client.get("/metrics").text) == set()
