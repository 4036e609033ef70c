"""Readiness, metrics, diagnostics."""

import json
import os
import subprocess
import sys
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.harness import Server, until


def figures(server: Server) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    reply = server.client.get("/metrics")
    assert reply.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def test_a_server_that_can_work_is_ready(server: Server) -> None:
    reply = server.client.get("/ready")

    assert reply.status_code == 200
    assert reply.json() == {
        "ready": True,
        "checks": {"server": "ok", "pump": "ok", "keeper": "ok", "state": "ok"},
    }


def test_a_server_without_its_state_folder_is_not_ready(make_server) -> None:
    own: Server = make_server()
    (own.state / "runs").rename(own.state / "elsewhere")

    reply = own.client.get("/ready")
    (own.state / "elsewhere").rename(own.state / "runs")

    assert (reply.status_code, reply.json()["ready"]) == (503, False)
    assert "state folder" in reply.json()["checks"]["state"]
    assert own.client.get("/ready").status_code == 200


def test_ready_needs_no_token_and_the_figures_do(make_server) -> None:
    guarded: Server = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})

    assert guarded.client.get("/ready").status_code == 200
    assert guarded.client.get("/metrics").status_code == 401
    assert guarded.client.get("/diagnostics").status_code == 401


def test_metrics_count_processes_by_state_and_their_bytes(make_server) -> None:
    own: Server = make_server()
    own.run("head -c 100000 /dev/zero; echo no >&2; exit 3")
    own.client.post("/process", json={"command": "sleep 60", "name": "sleeper"})

    found = figures(own)

    assert found["sandkeeper_processes", "failed"] == 1
    assert found["sandkeeper_processes", "running"] == 1
    assert found["sandkeeper_processes", "killed"] == 0
    assert found["sandkeeper_output_bytes_total", "stdout"] == 100_000
    assert found["sandkeeper_output_bytes_total", "stderr"] == 3
    assert found["sandkeeper_journal_bytes",] == 100_003
    own.client.delete("/process/sleeper/kill")


def test_metrics_count_requests_by_route_group_only(make_server) -> None:
    own: Server = make_server()
    for path in ("/process", "/process/none", "/a/b", "/c/d", "/"):
        own.client.get(path)

    found = figures(own)

    assert found["sandkeeper_requests_total", "process", "2xx"] == 1
    assert found["sandkeeper_requests_total", "process", "4xx"] == 1
    assert found["sandkeeper_requests_total", "other", "4xx"] == 2
    assert found["sandkeeper_requests_total", "root", "2xx"] == 1
    assert found["sandkeeper_request_seconds_count", "process"] == 2
    assert not any("a" in key[1:] or "c" in key[1:] for key in found)


def test_metrics_are_given_as_openmetrics_where_asked(server: Server) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    reply = server.client.get("/metrics", headers={"Accept": accept})

    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")


def test_the_loop_delay_is_sampled(server: Server) -> None:
    until(lambda: figures(server)["sandkeeper_loop_delay_seconds_count",] >= 2)


def test_a_client_that_does_not_read_shows_up_as_a_lagging_cursor(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_ON_SHUTDOWN": "stop"})
    own.client.post("/process", json={"command": "yes | head -c 30000000", "name": "flood"})
    with httpx.stream("GET", own.url + "/process/flood/logs/stream", trust_env=False):

        def lagging() -> dict | None:
            page = own.client.get("/diagnostics").json()
            found = [item for item in page["cursors"] if item["consumer"] == "logs"]
            return found[0] if found and found[0]["lag"] > 10_000_000 else None

        cursor = until(lagging)
        assert cursor["name"] == "flood"
        assert figures(own)["sandkeeper_consumer_lag_bytes", "logs"] > 10_000_000
    until(lambda: figures(own)["sandkeeper_consumers", "logs"] == 0)


def test_telemetry_behind_a_stalled_collector_shows_up_as_lag(make_server) -> None:
    read, write = os.pipe()
    own: Server = make_server(env={"SANDKEEPER_LOG": f"/proc/{os.getpid()}/fd/{write}"})
    own.run("yes | head -c 3000000")

    page = own.client.get("/diagnostics").json()
    os.close(write)
    os.close(read)

    assert page["cursors"][0]["consumer"] == "telemetry"
    assert page["cursors"][0]["lag"] > 1_000_000
    assert page["log"]["alive"] is True


def test_diagnostics_tell_descriptors_queues_and_the_keeper(server: Server) -> None:
    page = server.client.get("/diagnostics").json()

    assert page["server"]["pid"] == server.pid
    assert page["server"]["openFiles"] == pytest.approx(
        len(os.listdir(f"/proc/{server.pid}/fd")), abs=3
    )
    assert page["keeper"]["connected"] is True
    assert {"streams", "orders", "untold", "alive"} == set(page["pump"])
    assert page["requests"]["inFlight"] == 1


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, sandkeeper.api.edge.connections.server\n"
        "print([n for n in ('mcp', 'pydantic', 'prometheus_client', 'jsonschema') "
        "if n in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert loaded.stdout.decode().strip() == "[]"


def test_counting_a_request_costs_less_than_twenty_microseconds() -> None:
    from sandkeeper.observability.metrics import Requests

    requests = Requests()
    requests.name_groups({"process"})
    started = time.process_time()
    for _ in range(10_000):
        requests.ended("/process/abc/logs", 200, 0.002)
    cost = (time.process_time() - started) / 10_000

    assert cost < 20e-6
    assert requests.groups["process"].statuses[2] == 10_000


def test_figures_are_json_that_says_what_it_is(server: Server) -> None:
    reply = server.client.get("/diagnostics")

    assert reply.headers["content-type"].startswith("application/json")
    assert json.loads(reply.content)["version"]
