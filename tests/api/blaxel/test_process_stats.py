"""What processes use now: `/process-stats` and `/process/{id}/stats`."""

import sys
from pathlib import Path
from typing import Any

from tests.harness import Server, free_port, needs_root, over, start, until

BURN = "while [ -e {0} ]; do :; done"


def _stats(server: Server, identifier: str, **query: str) -> dict[str, Any]:
    answer = server.client.get(f"/process/{identifier}/stats", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_tree_counts_as_a_whole_while_it_runs(server: Server, tmp_path: Path) -> None:
    fuel = tmp_path / "fuel"
    fuel.touch()
    made = start(server, f"(sh -c '{BURN.format(fuel)}'); read x", name="burner", stdin=True)

    used = until(lambda: (s := _stats(server, "burner"))["cpuSeconds"] > 0.2 and s)
    whole = server.client.get("/process-stats").json()
    (listed,) = [one for one in whole["processes"] if one["id"] == made["id"]]

    assert used["processes"] >= 2
    assert used["threads"] >= used["processes"]
    assert used["memoryBytes"] > 100_000
    assert 0 < used["cpuPercent"] <= 100 * used["cpuCount"]
    assert listed["cpuSeconds"] >= used["cpuSeconds"]
    assert "ports" not in listed
    assert listed["memoryLimitBytes"] is None
    fuel.unlink()
    until(lambda: _stats(server, "burner")["processes"] == 1)
    server.client.delete("/process/burner/kill")


def test_what_a_daemon_has_used_stays_counted_when_it_is_gone(
    server: Server, tmp_path: Path
) -> None:
    fuel = tmp_path / "fuel"
    fuel.touch()
    command = f"(sh -c '{BURN.format(fuel)}' &); read x"
    made = start(server, command, stdin=True)

    before = until(lambda: (s := _stats(server, made["id"]))["cpuSeconds"] > 0.3 and s)
    fuel.unlink()
    after = until(lambda: (s := _stats(server, made["id"]))["processes"] == 1 and s)

    assert before["processes"] == 2
    assert after["cpuSeconds"] >= before["cpuSeconds"]
    server.client.delete(f"/process/{made['id']}/kill")


def test_one_that_is_over_has_used_what_its_record_says(server: Server) -> None:
    made = server.run("printf abc; printf x >&2", name="over")

    used = _stats(server, "over", ports="true")

    assert used["cpuSeconds"] == made["usage"]["cpuSeconds"]
    assert (used["memoryBytes"], used["processes"], used["threads"]) == (0, 0, 0)
    assert (used["stdoutBytes"], used["stderrBytes"], used["ports"]) == (3, 1, [])
    listed = server.client.get("/process-stats").json()["processes"]
    assert made["id"] not in {one["id"] for one in listed}
    assert server.client.get("/process/nobody/stats").status_code == 404


def test_what_was_used_is_kept_also_of_one_that_is_over(make_server: Any) -> None:
    # A look that a busy machine holds up puts off the next one by a hundred times as much.
    server: Server = make_server(constants={"sandkeeper.observability.run_history.SHARE": 1e9})

    def past(name: str, **query: float) -> Any:
        answer = server.client.get(f"/process/{name}/stats/history", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    start(server, "printf abc; read x", name="kept", stdin=True)
    # The first rows may be of before it has written.
    told = until(lambda: (f := past("kept"))["figures"]["stdoutBytes"][-1:] == [3] and f)
    last = len(told["times"]) - 1
    server.client.delete("/process/kept/kill")
    over(server, "kept")
    later = past("kept")

    assert later["times"][: len(told["times"])] == told["times"]
    assert {len(values) for values in later["figures"].values()} == {len(later["times"])}
    assert later["figures"]["memoryBytes"][last] > 0
    assert (later["figures"]["stdoutBytes"][last], later["figures"]["processes"][last]) == (3, 1)
    assert past("kept", since=later["times"][-1])["times"] == []
    assert server.client.get("/process/kept/stats/history?since=x").status_code == 400
    assert server.client.get("/process/nobody/stats/history").status_code == 404


def test_ports_are_told_where_they_are_asked_for(server: Server) -> None:
    port = free_port()
    script = f"import socket; s = socket.create_server(('127.0.0.1', {port})); input()"
    body = {"argv": [sys.executable, "-c", script], "name": "listener", "stdin": True}
    assert server.client.post("/process", json=body).status_code == 200

    until(lambda: _stats(server, "listener", ports="true")["ports"] == [port])
    server.client.delete("/process/listener/stdin")
    over(server, "listener")


@needs_root
def test_a_limited_one_tells_its_limit_and_what_its_group_holds(server: Server) -> None:
    limits = {"memoryBytes": 256 << 20, "pids": 20}
    script = "x = b'1' * (32 << 20); print(len(x), flush=True); input()"
    body = {"argv": [sys.executable, "-c", script], "stdin": True, "limits": limits}
    made = server.client.post("/process", json=body).json()
    until(lambda: server.client.get(f"/process/{made['id']}").json()["stdoutBytes"])

    used = until(lambda: (s := _stats(server, made["id"]))["memoryBytes"] > 32 << 20 and s)

    assert used["memoryLimitBytes"] == 256 << 20
    assert used["memoryBytes"] <= 256 << 20
    server.client.delete(f"/process/{made['id']}/kill")
