"""Contexts and executions as their clients use them."""

import json
import os

import pytest
from tests import kernels
from tests.harness import Server, until
from tests.kernels import Context, events


@pytest.fixture(scope="module")
def context(server: Server) -> Context:
    return kernels.context(server)


def test_state_stays_between_executions(context: Context) -> None:
    assert context.run("x = 41")["status"] == "ok"
    answer = context.run("print('hello')\nx + 1")

    assert answer["stdout"] == "hello\n"
    assert [one["data"]["text/plain"] for one in answer["results"]] == ["42"]
    assert answer["error"] is None


def test_an_error_comes_with_its_traceback(context: Context) -> None:
    answer = context.run("def f():\n    raise ValueError('no such thing')\nf()")

    assert answer["status"] == "error"
    assert (answer["error"]["name"], answer["error"]["value"]) == ("ValueError", "no such thing")
    assert any("raise" in line for line in answer["error"]["traceback"])
    assert context.run("1")["status"] == "ok"


def test_a_stream_has_every_event_in_order_and_ends_once(context: Context) -> None:
    code = "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stderr.flush()\n'c'"
    told = list(context.stream(code))

    kinds = [one["type"] for one in told]
    assert kinds[0] == "execution"
    assert kinds[1] == "started"
    assert sorted(kinds[2:-1]) == ["result", "stderr", "stdout"]
    assert (kinds[-1], told[-1]["status"]) == ("end", "ok")
    cursors = [one["cursor"] for one in told]
    assert cursors == sorted(cursors)
    execution = told[0]["id"]
    assert events(context.server, execution) == told[1:]
    for number in range(1, len(told) - 1):
        assert events(context.server, execution, told[number]["cursor"]) == told[number + 1 :]


def test_events_come_as_server_sent_events_too(context: Context) -> None:
    execution = context.run("print('é')")["id"]
    accept = {"Accept": "text/event-stream"}
    reply = context.client.get(f"/code/executions/{execution}/events", headers=accept)

    assert reply.headers["content-type"].startswith("text/event-stream")
    blocks = [block.splitlines() for block in reply.text.strip().split("\n\n")]
    fields = [dict(line.split(": ", 1) for line in block) for block in blocks]
    assert [one["event"] for one in fields] == ["started", "stdout", "end"]
    assert json.loads(fields[1]["data"])["text"] == "é\n"
    again = context.client.get(
        f"/code/executions/{execution}/events",
        headers={**accept, "Last-Event-ID": fields[1]["id"]},
    )
    assert again.text.startswith("event: end\n")


def test_environment_and_folder_hold_for_one_execution(context: Context) -> None:
    code = "import os; print(os.environ.get('ONE'), os.getcwd())"
    before = context.run(code)["stdout"]

    assert context.run(code, env={"ONE": "two"}, cwd="/usr")["stdout"] == "two /usr\n"
    assert context.run(code)["stdout"] == before
    missing = context.run("1", cwd="/no/such/folder")
    assert (missing["status"], missing["error"]["name"]) == ("error", "FileNotFoundError")
    assert context.run(code)["stdout"] == before


def test_names_are_completed_inspected_and_listed(context: Context) -> None:
    context.run("import pathlib\nnumbers = [1, 2, 3]\nname = 'x' * 1000")

    found = context.post("complete", code="pathlib.PureWind")
    assert [one["text"].rpartition(".")[2] for one in found["matches"]] == ["PureWindowsPath"]
    told = context.post("inspect", code="len")
    assert told["found"]
    assert "number of items" in told["data"]["text/plain"]
    assert not context.post("inspect", code="no_such_name")["found"]
    listed = context.client.get(f"{context.path}/variables").json()["variables"]
    by_name = {one["name"]: one for one in listed}
    assert by_name["numbers"] == {
        "name": "numbers",
        "type": "list",
        "value": "[1, 2, 3]",
        "size": [3],
    }
    assert len(by_name["name"]["value"]) <= 200
    assert "_sandkeeper" not in by_name


@pytest.mark.parametrize("code", ["while True: pass", "import threading; threading.Event().wait()"])
def test_an_interrupt_ends_what_runs_and_nothing_else(context: Context, code: str) -> None:
    context.run("kept = 7")
    execution, behind = context.start(f"print('on', flush=True)\n{code}"), context.start("kept")
    path = f"/code/executions/{execution}"
    until(lambda: context.client.get(path).json()["stdout"])  # whoever has not begun has no error

    assert context.post("interrupt")["outcome"] == "interrupted"
    ended = context.client.get(f"{path}?wait=true").json()
    assert (ended["status"], ended["error"]["name"]) == ("interrupted", "KeyboardInterrupt")
    after = context.client.get(f"/code/executions/{behind}?wait=true").json()
    assert after["results"][0]["data"]["text/plain"] == "7"
    assert context.post("interrupt")["outcome"] == "idle"


def test_time_that_is_over_interrupts(context: Context) -> None:
    answer = context.run("while True: pass", timeout=0.3)

    assert answer["status"] == "timeout"
    assert context.run("1")["status"] == "ok"


def test_input_is_refused(context: Context) -> None:
    answer = context.run("input('name? ')")

    assert (answer["status"], answer["error"]["name"]) == ("error", "StdinNotImplementedError")
    assert context.run("import sys; sys.stdin.read()")["results"][0]["data"]["text/plain"] == "''"


def test_a_key_stands_for_one_execution_and_one_context(context: Context) -> None:
    path, key = f"{context.path}/execute", {"Idempotency-Key": "once"}
    body = {"code": "runs = globals().get('runs', 0) + 1; runs"}
    first = context.client.post(path, json=body, headers=key)
    second = context.client.post(path, json=body, headers=key)

    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == first.json()
    assert context.run("runs")["results"][0]["data"]["text/plain"] == "1"
    other = context.client.post(path, json={"code": "2"}, headers=key)
    assert other.status_code == 422
    made = [
        context.client.post("/code/contexts", json={"name": "one"}, headers=key) for _ in range(2)
    ]
    assert [one.status_code for one in made] == [201, 200]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert context.client.delete(f"/code/contexts/{made[0].json()['id']}").status_code == 200


def test_a_client_that_goes_away_stops_nothing(context: Context) -> None:
    gate = context.server.workdir / "gate"
    code = (
        "import os, time\nprint('begun', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('done')"
    )
    told = context.stream(code)
    execution = next(told)["id"]
    assert {next(told)["type"], next(told)["type"]} == {"started", "stdout"}
    told.close()
    gate.touch()

    ended = context.client.get(f"/code/executions/{execution}?wait=true").json()
    assert (ended["status"], ended["stdout"]) == ("ok", "begun\ndone\n")


def test_what_a_thread_of_an_earlier_cell_says_is_not_lost(context: Context) -> None:
    gate = context.server.workdir / "late"
    context.run(
        "import os, threading, time\n"
        "def later():\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    print('from the thread', flush=True)\n"
        "thread = threading.Thread(target=later); thread.start()"
    )
    answer = context.run(f"open({str(gate)!r}, 'w').close(); thread.join(); print('cell')")

    assert "from the thread\n" in answer["stdout"]
    assert "cell\n" in answer["stdout"]


def test_a_context_is_a_process_of_the_sandbox(server: Server) -> None:
    made = kernels.context(server, env={"MINE": "yes"}, cwd="/usr", name="mine", tag="t")

    assert (made.record["state"], made.record["name"], made.record["tag"]) == ("idle", "mine", "t")
    answer = made.run("import os; print(os.getpid(), os.getcwd(), os.environ['MINE'])")
    assert answer["stdout"] == f"{made.record['pid']} /usr yes\n"
    process = server.client.get(f"/process/{made.record['process']}").json()
    assert (process["pid"], process["status"]) == (made.record["pid"], "running")
    assert made.id in {one["id"] for one in server.client.get("/code/contexts").json()["contexts"]}

    execution = made.start("import signal; signal.pause()")
    assert server.client.delete(made.path).json() == {"message": "code context deleted"}
    assert server.client.get(made.path).status_code == 404
    assert server.client.get(f"/code/executions/{execution}").status_code == 404
    assert server.client.get(f"/process/{process['pid']}").json()["status"] == "killed"


def test_followers_of_a_deleted_context_are_told_the_end(server: Server) -> None:
    made = kernels.context(server)
    told = made.stream("import signal; signal.pause()")
    kinds = [next(told)["type"], next(told)["type"]]
    server.client.delete(made.path)
    rest = [one for one in told if one["type"] != "heartbeat"]

    assert kinds == ["execution", "started"]
    assert [(one["type"], one["status"]) for one in rest] == [("end", "deleted")]


def test_an_interrupt_that_is_not_heard_becomes_a_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = kernels.environment(SANDKEEPER_CODE_INTERRUPT_MS="300")
    with Server(tmp_path_factory.mktemp("deaf"), env=env) as server:
        made = kernels.context(server)
        made.run("kept = 1")
        execution = made.start(
            "import signal\nwhile True:\n try:\n  print('on', flush=True); signal.pause()\n"
            " except KeyboardInterrupt: pass"
        )
        waiting = made.start("2")
        until(lambda: server.client.get(f"/code/executions/{execution}").json()["stdout"])

        assert made.post("interrupt")["outcome"] == "restarted"
        ended = server.client.get(f"/code/executions/{execution}?wait=true").json()
        assert (ended["status"], ended["exitSignal"]) == ("restarted", 9)
        unbegun = server.client.get(f"/code/executions/{waiting}").json()
        assert unbegun["status"] == "cancelled"
        assert made.run("kept")["error"]["name"] == "NameError"
        idle = kernels.context(server, idleSeconds=0.01)
        until(lambda: server.client.get(idle.path).status_code == 404)


def test_requests_that_make_no_sense_say_why(server: Server, context: Context) -> None:
    post = server.client.post
    wrong = [
        (post("/code/contexts", json={"language": "cobol"}), 422, "no kernel for language 'cobol'"),
        (post("/code/contexts", json={"cwd": "/no/such/folder"}), 422, "/no/such/folder"),
        (post("/code/contexts", json={"limits": {"memory": 1}}), 400, "limits"),
        (post("/code/contexts", json={"language": ""}), 400, "language"),
        (post(f"{context.path}/execute", json={}), 400, "code"),
        (post(f"{context.path}/execute", json={"code": "1", "timeout": -1}), 400, "timeout"),
        (post("/code/contexts/none/execute", json={"code": "1"}), 404, "none"),
        (server.client.get("/code/executions/none"), 404, "none"),
    ]
    execution = context.run("1")["id"]
    beyond = server.client.get(f"/code/executions/{execution}/events?cursor=999999")
    wrong.append((beyond, 400, "cursor"))

    for reply, status, text in wrong:
        assert reply.status_code == status, reply.text
        assert text in reply.json()["error"]
    left = {one["id"] for one in server.client.get("/code/contexts").json()["contexts"]}
    assert context.id in left
    assert len(os.listdir(server.state / "code" / "contexts")) >= len(left)
