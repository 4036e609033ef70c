"""Kept shells by the API: what outlives what, and as whom they run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import kernels
from tests.harness import Server, alive, needs_root, until
from tests.interpreter.test_outlives import scribe_of
from tests.kernels import events

USER = "61131"
ENV = {"SANDKEEPER_ON_SHUTDOWN": "stop", "SANDKEEPER_CODE_INTERRUPT_MS": "60000"}
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, env=ENV) as running:
        yield running


def gate_of(server: Server, name: str) -> Path:
    made = server.workdir / name
    os.mkfifo(made)
    return made


def said(found: list[dict[str, object]], kind: str = "stdout") -> str:
    return "".join(str(one["text"]) for one in found if one["type"] == kind)


def test_a_cell_goes_on_while_no_server_runs_and_is_told_once(server: Server) -> None:
    context = kernels.context(server, language="bash")
    gate, seen = gate_of(server, "gate"), server.workdir / "seen"
    code = f"cd /usr; A=5; echo first; read -r x <{gate}; seq 1 50000; touch {seen}; (exit 6)"
    told = context.stream(code)
    head = [next(told)]
    while head[-1]["type"] != "stdout":
        head.append(next(told))
    server.kill9()
    told.close()
    gate.write_text("go\n")
    until(seen.exists)
    server.start()

    execution, cursor = head[0]["id"], head[-1]["cursor"]
    rest = events(server, execution, cursor)
    assert said(rest) == "".join(f"{number}\n" for number in range(1, 50001))
    assert [one["type"] for one in rest].count("end") == 1
    assert (rest[-1]["status"], rest[-1]["exitCode"]) == ("error", 6)
    assert said(events(server, execution)).startswith("first\n1\n2\n")
    assert context.run("echo $A $?; pwd")["stdout"] == "5 6\n/usr\n"


def test_a_scribe_that_is_killed_is_replaced_and_the_shell_goes_on(server: Server) -> None:
    context = kernels.context(server, language="bash")
    context.run("A=kept; cd /usr")
    gate = gate_of(server, "gate")
    execution = context.start(f"echo begun; read -r x <{gate}; echo $x; B=$x; (exit 3)")
    until(lambda: server.client.get(f"/code/executions/{execution}").json()["stdout"])
    scribe = scribe_of(server)
    os.kill(scribe, signal.SIGKILL)
    until(lambda: not alive(scribe))
    gate.write_text("went\n")  # from here on the shell waits for another listener
    answer = server.client.get(f"/code/executions/{execution}?wait=true").json()

    assert answer["stdout"] == "begun\nwent\n"
    assert (answer["status"], answer["exitCode"]) == ("error", 3)
    assert context.run("echo $A $B; pwd")["stdout"] == "kept went\n/usr\n"
    assert context.now()["pid"] == context.record["pid"]


def test_an_interrupt_and_a_timeout_leave_the_shell_as_it_was(server: Server) -> None:
    context = kernels.context(server, language="bash")
    context.run("A=kept")
    execution = context.start("echo begun; while :; do :; done")
    stream = f"/code/executions/{execution}"
    until(lambda: "begun" in server.client.get(stream).json()["stdout"])
    assert context.post("interrupt")["outcome"] == "interrupted"
    assert events(server, execution)[-1]["status"] == "interrupted"
    late = context.run("sleep 600", timeout=0.1)
    assert (late["status"], late["exitCode"]) == ("timeout", 130)
    assert context.run("echo $A")["stdout"] == "kept\n"


def test_an_answer_takes_no_more_memory_than_answers_may_however_its_bytes_are_written(
    tmp_path: Path,
) -> None:
    mib = 1 << 20
    with Server(tmp_path, env={"SANDKEEPER_MAX_ANSWER_BYTES_TOTAL": str(16 * mib)}) as own:
        context = kernels.context(own, language="bash")
        fits = context.run(f"head -c {2 * mib} /dev/zero")
        assert fits["stdout"] == "\0" * (2 * mib)
        body = {"code": f"head -c {14 * mib} /dev/zero"}  # and 84 MiB as JSON
        before = _peak(own)
        refused = own.client.post(f"{context.path}/execute", json=body, timeout=60)
        assert (refused.status_code, "too many answers" in refused.json()["error"]) == (503, True)
        assert _peak(own) - before < 56 * mib
        assert context.run("echo on")["stdout"] == "on\n"


def _peak(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_a_shell_that_is_killed_is_told_and_begins_anew_when_it_is_asked_to(server: Server) -> None:
    context = kernels.context(server, language="bash")
    ended = context.run("A=1; echo last; kill -KILL $$")
    assert (ended["status"], ended["stdout"], ended["exitSignal"]) == ("died", "last\n", 9)
    assert context.now()["state"] == "dead"
    assert server.client.post(f"{context.path}/execute", json={"code": "x"}).status_code == 409
    context.post("restart")
    assert context.run("echo ${A-none}")["stdout"] == "none\n"


def test_what_a_cell_starts_in_the_background_ends_with_its_context(server: Server) -> None:
    context = kernels.context(server, language="bash")
    pid = int(context.run("sleep 600 & echo $!")["stdout"])
    assert alive(pid)
    assert server.client.delete(context.path).status_code in {200, 204}
    until(lambda: not alive(pid))


@needs_root
def test_a_shell_is_the_workloads(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    env = {"SANDKEEPER_ON_SHUTDOWN": "stop"}
    with Server(tmp_path, env=env, args=["--user", USER]) as server:
        context = kernels.context(server, language="bash", cwd="/")
        assert context.run("id -u; echo err >&2")["stdout"] == f"{USER}\n"
        assert context.run("cat /etc/shadow")["exitCode"] == 1
        place = context.run("stat -c '%a %u %F' $__sk_place $__sk_place/*")["stdout"]
        assert place.splitlines() == [
            *(f"700 {USER} directory", f"600 {USER} fifo", f"600 {USER} regular file"),
            *(f"600 {USER} fifo" for _ in range(4)),
        ]
        ended = context.run("A=1; exit 3")
        assert (ended["exitCode"], context.run("echo $A")["stdout"]) == (3, "1\n")
