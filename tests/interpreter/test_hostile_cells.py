"""Cells that do what they should not: the end is told, the context goes on, nobody waits."""

import contextlib
import hashlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests import kernels
from tests.harness import Server, until
from tests.kernels import Context, events

MIB = 1 << 20


@pytest.fixture(scope="module")
def context(server: Server) -> Context:
    return kernels.context(server)


@pytest.fixture(scope="module")
def mortal(server: Server) -> Context:
    """Return a context that tests may harm: each leaves it dead or well."""
    return kernels.context(server)


@pytest.fixture
def harmed(mortal: Context) -> Context:
    mortal.record = mortal.now() if mortal.now()["state"] == "idle" else mortal.post("restart")
    return mortal


def text_of(told: list[dict[str, Any]], kind: str = "stdout") -> str:
    """Return what events say."""
    return "".join(one["text"] for one in told if one["type"] == kind)


def test_all_that_is_printed_is_there_in_order(context: Context) -> None:
    told = list(context.stream("for number in range(50_000): print(number)"))

    assert text_of(told) == "".join(f"{number}\n" for number in range(50_000))
    assert (told[-1]["type"], told[-1]["status"]) == ("end", "ok")
    assert not [one for one in told if one["type"] == "gap"]


def test_two_thousand_displays_at_once_are_all_there(context: Context) -> None:
    """ZeroMQ's publishers drop what is behind 1000 messages that nobody has read."""
    code = "from IPython.display import display\nfor number in range(2000): display(number)"
    answer = context.run(code)

    shown = [one["data"]["text/plain"] for one in answer["results"]]
    assert shown == [str(number) for number in range(2000)]


def test_a_cell_that_prints_without_end_is_bounded_and_can_be_stopped(tmp_path: Path) -> None:
    env = kernels.environment(SANDKEEPER_CODE_BYTES=str(MIB))
    with Server(tmp_path, env=env) as server:
        made = kernels.context(server)
        execution = made.start("while True: print('x' * 10_000)")
        path = f"/code/contexts/{made.id}"
        until(lambda: server.client.get(path).json()["executions"][0]["cursor"] > 4 * MIB)
        folder = server.state / "code" / "contexts" / made.id / execution
        kept = 0
        for one in folder.glob("*.seg"):
            with contextlib.suppress(FileNotFoundError):  # the oldest go meanwhile
                kept += one.stat().st_size

        assert kept < 4 * MIB
        assert made.post("interrupt")["outcome"] in {"interrupted", "restarted"}
        told = events(server, execution)
        assert told[0]["type"] == "gap"
        assert told[0]["bytes"] > 2 * MIB
        assert [one["type"] for one in told].count("end") == 1
        assert told[-1]["type"] == "end"


def test_memory_under_a_limit_runs_out_and_says_so(server: Server) -> None:
    made = kernels.context(server, limits={"memoryBytes": 400 * MIB})
    by = server.client.get(f"/process/{made.record['process']}").json()["limits"]["enforcedBy"]
    answer = made.run("held = []\nwhile True: held.append(bytearray(b'x') * (1 << 24))")

    if by["memoryBytes"] == "rlimit":
        assert (answer["status"], answer["error"]["name"]) == ("error", "MemoryError")
    else:
        assert (answer["status"], answer["reason"]) == ("died", "oom")
        assert made.now()["reason"] == "oom"
        assert made.post("restart")["state"] == "idle"
    assert made.run("1")["status"] == "ok"
    server.client.delete(made.path)


def test_a_fork_does_not_speak_for_the_kernel(context: Context) -> None:
    code = "import os\npid = os.fork()\nif pid == 0:\n    os._exit(3)\nos.waitpid(pid, 0)[1] >> 8"
    told = list(context.stream(code))

    assert [one["type"] for one in told].count("end") == 1
    assert [one["data"]["text/plain"] for one in told if one["type"] == "result"] == ["3"]
    assert context.run("print('still here')")["stdout"] == "still here\n"


@pytest.mark.parametrize(
    "code", ["print('a\\ud83db')", "'a\\ud83db'", "raise ValueError('\\ud83d')"]
)
def test_half_a_surrogate_breaks_no_answer(context: Context, code: str) -> None:
    answer = context.run(code)

    assert answer["status"] in {"ok", "error"}
    assert context.run("'after'")["results"][0]["data"]["text/plain"] == "'after'"


SLOW = """
import sys
def held(events=sys.stdout.pub_thread._events):
    while len(events) < 2: pass
sys.stdout.pub_thread.schedule(held)
"""
"""The thread that publishes comes to what is printed when more than that waits for it."""
AS_IT_CAME = """
import sys
from jupyter_client.session import json_packer
session, thread = sys.stdout.session, sys.stdout.pub_thread
session.pack = json_packer
thread.schedule(lambda: thread._event_puller.on_recv(thread._handle_event))
"""
MUTE = """
def send(stream, kind, *more, **named):
    if kind == "execute_reply":
        del session.send
    else:
        return type(session).send(session, stream, kind, *more, **named)
session.send = send
print("told")
"""


def test_half_a_surrogate_costs_a_slow_kernel_nothing_else(context: Context) -> None:
    answer = context.run(SLOW + "print('a\\ud83db')\nprint('more')")

    assert (answer["status"], answer["stdout"]) == ("ok", "a\ufffdb\nmore\n")


def test_an_end_that_a_kernel_has_lost_is_asked_for(harmed: Context) -> None:
    # What is published behind text that cannot be encoded stays with a kernel that was slow here.
    made = harmed
    made.run(AS_IT_CAME)
    assert made.run(SLOW + "print('a\\ud83db')")["status"] == "ok"
    assert made.run("print('after')")["stdout"].endswith("after\n")
    told = list(made.stream(MUTE))

    assert [one["text"] for one in told if one["type"] == "stdout"] == ["told\n"]
    assert (told[-1]["type"], told[-1]["status"]) == ("end", "ok")  # the kernel knows it still
    assert made.run("print('after')")["stdout"] == "after\n"


def test_the_death_of_a_kernel_is_told_at_once_and_a_restart_works(
    server: Server, harmed: Context
) -> None:
    made = harmed
    made.run("kept = 1")
    told = made.stream("print('begun', flush=True)\nimport threading; threading.Event().wait()")
    while next(told)["type"] != "stdout":
        pass
    waiting = made.start("2")
    os.kill(int(made.record["pid"]), signal.SIGKILL)
    end = next(told)

    assert (end["type"], end["status"], end["reason"]) == ("end", "died", "signaled")
    assert end["exitSignal"] == 9
    assert list(told) == []
    assert events(server, waiting)[-1]["status"] == "cancelled"
    assert (made.now()["state"], made.now()["reason"]) == ("dead", "signaled")
    assert made.post("restart")["state"] == "idle"
    assert made.run("'kept' in globals()")["results"][0]["data"]["text/plain"] == "False"
    assert made.now()["pid"] != made.record["pid"]


def test_an_exit_of_the_cell_is_an_end_with_its_code(harmed: Context) -> None:
    answer = harmed.run("import os; os._exit(7)")

    assert (answer["status"], answer["reason"], answer["exitCode"]) == ("died", "exited", 7)


def test_fifty_megabytes_of_an_image_come_whole(context: Context) -> None:
    code = (
        "import base64, hashlib\nfrom IPython.display import display\n"
        "image = base64.b64encode(bytes(range(256)) * (50 * 4096)).decode()\n"
        "display({'image/png': image}, raw=True)\nhashlib.sha256(image.encode()).hexdigest()"
    )
    answer = context.run(code)

    shown, told = answer["results"]
    image = shown["data"]["image/png"]
    assert len(image) > 50 * MIB
    assert repr(hashlib.sha256(image.encode()).hexdigest()) == told["data"]["text/plain"]
    path = f"/code/executions/{answer['id']}/events"
    with context.client.stream("GET", path, headers={"Accept": "application/x-ndjson"}) as reply:
        lines = b"".join(reply.iter_bytes()).splitlines()
    by_kind = {one["type"]: one for one in map(json.loads, lines)}
    assert by_kind["display"]["data"]["image/png"] == image


def test_a_result_for_which_there_is_no_room_is_told_on_e2bs_wire(tmp_path: Path) -> None:
    constants = {"sandkeeper.api.edge.connections.outgoing.WAIT_SECONDS": 0.2}
    env = kernels.environment(SANDKEEPER_MAX_ANSWER_BYTES_TOTAL=str(16 * MIB))
    with Server(tmp_path, env=env, constants=constants) as server:
        made = kernels.context(server)

        def told(code: str) -> list[dict[str, Any]]:
            body = {"code": code, "context_id": made.id}
            reply = server.client.post("/execute", json=body, timeout=kernels.PATIENCE)
            lines = [json.loads(line) for line in reply.text.splitlines()]
            return [one for one in lines if one["type"] != "keepalive"]

        made.run("from IPython.display import display")
        kept = told(f"display({{'text/html': 'x' * {MIB}}}, raw=True)")
        assert [one["type"] for one in kept][1:] == ["result", "end_of_execution"]
        assert kept[1]["html"] == "x" * MIB
        for size in (6 * MIB, 17 * MIB):
            count, gap, end = told(f"display({{'text/html': 'x' * {size}}}, raw=True)")
            assert (count["type"], end["type"]) == ("number_of_executions", "end_of_execution")
            assert gap["text"].startswith("[output truncated: ")
        assert server.client.get("/diagnostics").json()["requests"]["answers"]["heldBytes"] == 0


def test_a_closed_standard_output_ends_nothing(harmed: Context) -> None:
    made = harmed
    made.run("import os, sys; os.close(1); sys.__stdout__ = None")
    assert made.run("1 + 1")["results"][0]["data"]["text/plain"] == "2"
    made.run("sys.stdout.close()")
    assert made.run("2 + 2")["results"][0]["data"]["text/plain"] == "4"
    made.run("import os; os._exit(0)")


def test_contexts_made_at_once_keep_apart(server: Server) -> None:
    def work(number: int) -> tuple[str, str]:
        made = kernels.context(server)
        made.run(f"mine = {number}")
        said = made.run("mine")["results"][0]["data"]["text/plain"]
        return said, server.client.delete(made.path).text

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))

    assert [said for said, _ in found] == [str(number) for number in range(4)]


def test_a_kernelspec_that_is_broken_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "jupyter" / "kernels"
    specs = {
        "nothing": {"argv": ["/no/such/program", "{connection_file}"]},
        "quits": {"argv": ["sh", "-c", "echo it cannot >&2; exit 3"]},
        "empty": {"argv": []},
    }
    for name, spec in specs.items():
        (folder / name).mkdir(parents=True)
        said = {"display_name": name, "language": name, **spec}
        (folder / name / "kernel.json").write_text(json.dumps(said))
    (folder / "torn").mkdir()
    (folder / "torn" / "kernel.json").write_text('{"argv": [')
    os.mkfifo(folder / "torn" / "pipe")
    env = kernels.environment(JUPYTER_PATH=str(tmp_path / "jupyter"))
    with Server(tmp_path / "server", env=env) as server:
        listed = server.client.get("/code/languages").json()["languages"]
        names = {one["name"] for one in listed}
        assert {"nothing", "quits", "python3"} <= names
        assert not names & {"empty", "torn"}
        wanted = {
            "nothing": "no such file",
            "quits": "it cannot",
            "torn": "no kernel for language 'torn'",
        }
        for name, text in wanted.items():
            reply = server.client.post("/code/contexts", json={"language": name})
            assert reply.status_code == 422
            assert text in reply.json()["error"]
        assert server.client.get("/code/contexts").json() == {"contexts": []}
        assert os.listdir(server.state / "code" / "contexts") == []
