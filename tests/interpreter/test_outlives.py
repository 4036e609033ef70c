"""Kernels and their executions outlive the server, and the scribe that listens to them."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import kernels
from tests.harness import Server, alive, until
from tests.kernels import Context, events

PLOTTING = """
import os, time
import matplotlib.pyplot as plt
print("first", flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.01)
for number in range(1000):
    print(number)
plt.plot([1, 2, 3])
plt.show()
print("last")
"""


def scribe_of(server: Server) -> int:
    """Return the process id of a server's scribe."""
    place = str(server.state / "code" / "scribe.sock").encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if place in words:
            return int(name)
    return 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Context]]:
    """Return a server and a context of it: what starts a kernel is most of what these cost."""
    with Server(tmp_path_factory.mktemp("outlives"), env=kernels.environment()) as running:
        yield running, kernels.context(running)


@pytest.fixture
def server(shared: tuple[Server, Context]) -> Server:
    running = shared[0]
    for name in ("gate", "done"):
        (running.workdir / name).unlink(missing_ok=True)
    return running


@pytest.fixture
def context(server: Server, shared: tuple[Server, Context]) -> Context:
    """Return the context, with a kernel of its own again where a test has ended that."""
    again = shared[1]
    again.record = again.now() if again.now()["state"] == "idle" else again.post("restart")
    return again


def test_a_cell_that_prints_and_plots_goes_on_while_no_server_runs(
    server: Server, context: Context
) -> None:
    context.run("before = 'kept'")
    gate = server.workdir / "gate"
    told = context.stream(PLOTTING.format(gate=str(gate)))
    head = [next(told)]
    while head[-1]["type"] != "stdout":
        head.append(next(told))
    execution, cursor = head[0]["id"], head[-1]["cursor"]
    behind = context.start("before")
    pid = context.record["pid"]

    server.kill9()
    told.close()
    gate.touch()
    record = server.state / "code" / "contexts" / context.id / behind / "meta.jsonl"
    until(lambda: b'"status":"ok"' in record.read_bytes())
    server.start()

    rest = events(server, execution, cursor)
    assert "".join(one["text"] for one in rest if one["type"] == "stdout") == "".join(
        [*(f"{number}\n" for number in range(1000)), "last\n"]
    )
    images = [one["data"] for one in rest if one["type"] == "display"]
    assert [set(one) >= {"image/png", "text/plain"} for one in images] == [True]
    assert [one["status"] for one in rest if one["type"] == "end"] == ["ok"]
    assert rest[-1]["type"] == "end"
    after = server.client.get(f"/code/executions/{behind}?wait=true").json()
    assert after["results"][0]["data"]["text/plain"] == "'kept'"
    assert context.now()["pid"] == pid
    assert context.run("before")["results"][0]["data"]["text/plain"] == "'kept'"


def test_a_cell_is_followed_over_the_death_of_the_server(server: Server, context: Context) -> None:
    gate = server.workdir / "gate"
    execution = context.start(PLOTTING.format(gate=str(gate)), timeout=300)
    until(lambda: server.client.get(f"/code/executions/{execution}").json()["stdout"])
    server.kill9()
    server.start()

    assert context.now()["state"] == "busy"
    assert events_so_far(server, execution) == "first\n"
    gate.touch()
    ended = server.client.get(f"/code/executions/{execution}?wait=true").json()
    assert (ended["status"], ended["stdout"][-5:], len(ended["results"])) == ("ok", "last\n", 1)


def events_so_far(server: Server, execution: str) -> str:
    """Return what an execution has printed so far."""
    return str(server.client.get(f"/code/executions/{execution}").json()["stdout"])


def test_a_kernel_that_dies_while_no_server_runs_is_told_by_the_next(
    server: Server, context: Context
) -> None:
    execution = context.start("import threading; threading.Event().wait()")
    waiting = context.start("1")
    until(lambda: has_begun(server, execution))
    pid = int(context.record["pid"])
    server.kill9()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    server.start()

    told = events(server, execution)
    assert [(one["type"], one.get("status")) for one in told] == [
        ("started", None),
        ("end", "died"),
    ]
    assert events(server, waiting)[-1]["status"] == "cancelled"
    refused = server.client.post(f"{context.path}/execute", json={"code": "1"})
    assert (refused.status_code, "restart" in refused.json()["error"]) == (409, True)
    assert context.post("restart")["state"] == "idle"
    assert context.run("1 + 1")["results"][0]["data"]["text/plain"] == "2"


def has_begun(server: Server, execution: str) -> bool:
    """Say whether the interpreter itself has told that an execution has begun."""
    found = server.client.get(f"/code/executions/{execution}").json()
    return found["executionCount"] is not None


def test_a_scribe_that_is_killed_is_replaced_and_goes_on(server: Server, context: Context) -> None:
    python, shell = context, kernels.context(server, language="bash")
    gate = server.workdir / "gate"
    codes = {
        python: f"import os, time\nprint('first', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('last')\n1 / 0",
        shell: f"echo first; while ! [ -e '{gate}' ]; do sleep 0.01; done; echo last; false",
    }
    running = {context: context.start(code) for context, code in codes.items()}
    waiting = {context: context.start(f"echo={number}") for number, context in enumerate(codes)}
    for execution in running.values():
        until(lambda execution=execution: events_so_far(server, execution) == "first\n")
    scribe = scribe_of(server)
    os.kill(scribe, signal.SIGKILL)
    until(lambda: scribe_of(server) not in {0, scribe})
    for execution in running.values():
        until(lambda execution=execution: "gap" in kinds_so_far(server, execution))
    gate.touch()

    for context, execution in running.items():
        told = events(server, execution)
        assert [one["text"] for one in told if one["type"] == "stdout"] == ["first\n", "last\n"]
        assert [one["status"] for one in told if one["type"] == "end"] == ["error"]
        assert events(server, waiting[context])[-1]["status"] == "ok"
        assert context.now()["pid"] == context.record["pid"]
    assert python.run("echo")["results"][0]["data"]["text/plain"] == "0"
    assert shell.run("echo $echo")["stdout"] == "1\n"
    server.client.delete(shell.path)


def kinds_so_far(server: Server, execution: str) -> set[str]:
    """Return the kinds of the events that an execution has told so far."""
    path = f"/code/executions/{execution}/events"
    with server.client.stream("GET", path, headers={"Accept": "application/x-ndjson"}) as reply:
        found = set()
        for line in reply.iter_lines():
            found.add(json.loads(line)["type"])
            if found & {"gap", "heartbeat"}:
                break
    return found


def test_an_end_that_nobody_heard_is_asked_for_and_what_waited_is_cancelled(
    server: Server, context: Context
) -> None:
    gate, done = server.workdir / "gate", server.workdir / "done"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    execution = context.start(code + f"open({str(done)!r}, 'w').close(); 1 / 0")
    waiting = context.start("1")
    until(lambda: has_begun(server, execution))
    scribe = scribe_of(server)
    server.kill9()
    os.kill(scribe, signal.SIGKILL)
    until(lambda: not alive(scribe))
    gate.touch()
    until(done.exists)
    server.start()

    told = events(server, execution)
    assert [one["type"] for one in told][:2] == ["started", "gap"]
    assert [one["name"] for one in told if one["type"] == "error"] == ["ZeroDivisionError"]
    assert told[-1]["status"] == "error"
    cancelled = events(server, waiting)[-1]
    assert (cancelled["status"], "lost" in cancelled["reason"]) == ("cancelled", True)
    assert context.run("1 + 1")["results"][0]["data"]["text/plain"] == "2"


def test_a_context_whose_server_is_killed_while_it_starts_is_found_by_the_next(
    server: Server, context: Context
) -> None:
    record = server.state / "code" / "contexts" / context.id / "meta.json"
    said = json.loads(record.read_bytes())
    server.kill9()
    # As it was before the start of its process had been written down.
    record.write_text(json.dumps({**said, "process": ""}))
    server.start()

    assert context.now()["pid"] == context.record["pid"]
    assert context.run("1 + 1")["results"][0]["data"]["text/plain"] == "2"


def test_nothing_is_left_when_the_last_context_is_gone(server: Server, context: Context) -> None:
    scribe, pid = scribe_of(server), int(context.record["pid"])
    server.client.delete(context.path)
    assert not alive(pid)
    server.stop()

    until(lambda: not alive(scribe))
