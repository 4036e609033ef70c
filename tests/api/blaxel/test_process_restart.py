"""Restart on failure: texts, counts, back-off, and how it is ended."""

import os
import time
from pathlib import Path

from tests.harness import Server, over, start, until


def notice(code: int, number: int, most: object) -> str:
    return f"\n[Process failed with exit code {code}. Attempting restart {number}/{most}...]\n"


def in_backoff(server: Server, name: str) -> bool:
    seen = server.client.get(f"/process/{name}").json()
    return "Attempting restart" in seen["stdout"]


def test_a_failing_process_is_tried_again_up_to_its_bound(server: Server) -> None:
    made = server.run("echo Attempt; exit 1", restartOnFailure=True, maxRestarts=2)

    assert (made["status"], made["exitCode"], made["restartCount"]) == ("failed", 1, 2)
    expected = f"Attempt\n{notice(1, 1, 2)}Attempt\n{notice(1, 2, 2)}Attempt\n"
    assert made["stdout"] == made["logs"] == expected
    listed = [p for p in server.client.get("/process").json() if p["pid"] == made["pid"]]
    assert len(listed) == 1


def test_success_ends_the_trying_and_env_and_folder_are_kept(
    server: Server, tmp_path: Path
) -> None:
    made = server.run(
        "n=$(cat count 2>/dev/null || echo 0); echo $((n+1)) > count; echo $WORD $n; test $n = 1",
        workingDir=str(tmp_path),
        env={"WORD": "kept"},
        restartOnFailure=True,
        maxRestarts=3,
    )

    assert (made["status"], made["exitCode"], made["restartCount"]) == ("completed", 0, 1)
    assert made["stdout"] == f"kept 0\n{notice(1, 1, 3)}kept 1\n"


def test_success_at_first_leaves_no_text(server: Server) -> None:
    made = server.run("echo fine", restartOnFailure=True, maxRestarts=3)

    assert (made["stdout"], made["restartCount"]) == ("fine\n", 0)


def test_without_the_policy_or_with_zero_restarts_nothing_is_tried_again(server: Server) -> None:
    for fields in ({"restartOnFailure": True}, {"maxRestarts": 3}):
        made = server.run("exit 1", **fields)
        assert (made["status"], made["restartCount"], made["stdout"]) == ("failed", 0, "")


def test_death_by_a_foreign_signal_is_a_failure_too(server: Server) -> None:
    made = server.run(
        "test -e $F && exit 0; touch $F; kill -SEGV $$",
        env={"F": f"{server.workdir}/segv"},
        restartOnFailure=True,
        maxRestarts=1,
    )

    assert (made["status"], made["restartCount"]) == ("completed", 1)
    assert notice(-1, 1, 1) in made["stdout"]


def test_started_at_is_the_latest_start_and_the_pid_stays_the_first(server: Server) -> None:
    first = start(server, "echo $$; exit 1", maxRestarts=1, restartOnFailure=True)
    ended = over(server, first["name"])

    assert ended["pid"] == first["pid"]
    assert ended["startedAt"] > first["startedAt"]
    pids = [line for line in ended["stdout"].splitlines() if line.isdigit()]
    assert pids[0] == first["pid"] != pids[1]


STAYING = {"sandkeeper.processes.process.BACKOFF_SECONDS": 1000.0}


def test_in_back_off_it_is_running_its_name_is_taken_and_stop_ends_it(make_server) -> None:
    server: Server = make_server(constants=STAYING)
    start(server, "exit 1", name="backoff", maxRestarts=5, restartOnFailure=True)
    until(lambda: in_backoff(server, "backoff"))
    seen = server.client.get("/process/backoff").json()
    taken = server.client.post("/process", json={"name": "backoff", "command": "true"})
    stopped = server.client.delete("/process/backoff")
    ended = server.client.get("/process/backoff").json()

    assert (seen["status"], seen["exitCode"], seen["completedAt"]) == ("running", 0, "")
    assert taken.status_code == 400
    assert stopped.status_code == 200
    assert (ended["status"], ended["restartCount"]) == ("stopped", 0)
    assert server.client.delete("/process/backoff").status_code == 404


def test_kill_in_back_off_ends_it_too(make_server) -> None:
    server: Server = make_server(constants=STAYING)
    start(server, "exit 1", name="backoff2", maxRestarts=5, restartOnFailure=True)
    until(lambda: in_backoff(server, "backoff2"))
    server.client.delete("/process/backoff2/kill")

    assert server.client.get("/process/backoff2").json()["status"] == "killed"


def test_an_unlimited_crash_loop_says_so_and_can_be_stopped(server: Server) -> None:
    start(server, "echo crash; exit 1", name="loop", maxRestarts=-1, restartOnFailure=True)
    until(lambda: notice(1, 2, "unlimited") in server.client.get("/process/loop").json()["stdout"])

    assert server.client.delete("/process/loop").status_code == 200
    ended = over(server, "loop")
    runs = ended["stdout"].count("crash")
    assert ended["status"] == "stopped"
    assert runs >= 2
    # An attempt may be stopped before its first word.
    assert ended["restartCount"] in {runs - 1, runs}


def test_stop_and_kill_never_restart(server: Server) -> None:
    for path, status in (("", "stopped"), ("/kill", "killed")):
        made = start(server, "exec sleep 30", maxRestarts=5, restartOnFailure=True)
        server.client.delete(f"/process/{made['pid']}{path}")
        ended = over(server, made["pid"])
        assert (ended["status"], ended["restartCount"]) == (status, 0)


def test_a_stopped_process_that_exits_with_an_error_is_not_restarted(server: Server) -> None:
    made = start(
        server,
        "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done",
        maxRestarts=5,
        restartOnFailure=True,
    )
    until(lambda: server.client.get(f"/process/{made['pid']}").json()["stdout"])
    server.client.delete(f"/process/{made['pid']}")
    ended = over(server, made["pid"])

    assert (ended["status"], ended["exitCode"], ended["restartCount"]) == ("stopped", 9, 0)


def test_a_working_directory_gone_at_restart_ends_it_and_the_server_lives(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "going"
    folder.mkdir()
    made = server.run(
        f"rmdir {folder}; exit 1",
        workingDir=str(folder),
        restartOnFailure=True,
        maxRestarts=3,
    )

    assert (made["status"], made["exitCode"], made["restartCount"]) == ("failed", 1, 0)
    assert "[Failed to restart process: could not execute command" in made["stdout"]
    assert server.client.get("/health").status_code == 200


def test_stop_after_a_restart_reaches_the_new_process(server: Server) -> None:
    made = start(
        server,
        "test -e $F && { echo second $$; exec sleep 30; }; touch $F; exit 1",
        env={"F": f"{server.workdir}/second"},
        maxRestarts=1,
        restartOnFailure=True,
    )
    url = f"/process/{made['pid']}"
    seen = until(lambda: "second" in (out := server.client.get(url).json()["stdout"]) and out)
    leader = int(seen.rsplit("second ", 1)[1])
    server.client.delete(url)

    assert over(server, made["pid"])["status"] == "stopped"
    assert not os.path.exists(f"/proc/{leader}")


def test_ports_are_found_after_a_restart(server: Server) -> None:
    from tests.harness import free_port

    port = free_port()
    made = start(
        server,
        'test -e $F || { touch $F; exit 1; }; exec python3 -c "import signal,socket; '
        f"s=socket.create_server(('0.0.0.0',{port})); signal.alarm(60); signal.pause()\"",
        env={"F": f"{server.workdir}/ports"},
        maxRestarts=1,
        restartOnFailure=True,
        waitForPorts=[port],
        timeout=60,
    )

    assert made["restartCount"] == 1
    server.client.delete(f"/process/{made['pid']}/kill")


def test_a_restart_survives_a_restart_of_the_server_in_back_off(make_server) -> None:
    own: Server = make_server()
    start(own, "echo run; exit 1", name="b", maxRestarts=1, restartOnFailure=True)
    until(lambda: in_backoff(own, "b"))
    began = time.monotonic()
    own.kill9()
    own.restart()
    ended = over(own, "b")
    assert "status" in ended, ended

    assert (ended["status"], ended["restartCount"]) == ("failed", 1)
    assert ended["stdout"] == f"run\n{notice(1, 1, 1)}run\n"
    assert time.monotonic() - began < 100


def test_the_same_is_started_again_with_all_it_was_asked_for(server: Server) -> None:
    wanted = {
        "command": 'echo "$WORD $PWD"; exec sleep 1000',
        "name": "again",
        "env": {"WORD": "kept"},
        "workingDir": "/usr",
        "timeout": 900,
        "limits": {"openFiles": 77},
    }
    first = server.client.post("/process", json=wanted).json()
    second = server.client.post("/process/again/restart").json()

    assert second["id"] != first["id"]
    assert over(server, first["id"])["status"] == "stopped"
    record = until(lambda: (now := server.client.get("/process/again").json())["stdout"] and now)
    assert record["id"] == second["id"]
    assert record["stdout"] == "kept /usr\n"
    server.client.delete("/process/again/kill")
    over(server, second["id"])
    third = server.client.post(f"/process/{second['id']}/restart").json()
    assert third["status"] == "running"
    server.client.delete(f"/process/{third['id']}/kill")


def test_what_does_not_heed_is_killed_before_it_is_started_again(server: Server) -> None:
    command = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
    first = start(server, command, name="deaf")
    until(lambda: server.client.get("/process/deaf").json()["stdout"])

    again = server.client.post("/process/deaf/restart", params={"timeout": 0})

    assert again.status_code == 200
    assert over(server, first["id"])["status"] == "killed"
    server.client.delete(f"/process/{again.json()['id']}/kill")
    assert server.client.post("/process/nobody/restart").status_code == 404
    assert server.client.post("/process/deaf/restart", params={"timeout": "x"}).status_code == 400


def test_one_that_is_over_is_forgotten_with_its_output_and_not_before(server: Server) -> None:
    made = start(server, "echo words; read x; exec sleep 1000", name="forgotten", stdin=True)
    path = f"/process/{made['id']}"

    refused = server.client.delete(f"{path}/record")
    assert (refused.status_code, "still running" in refused.json()["error"]) == (409, True)
    server.client.delete(f"{path}/kill")
    over(server, made["id"])
    assert server.client.delete(f"{path}/record").status_code == 200

    assert server.client.get(path).status_code == 404
    assert server.client.get(f"{path}/logs").status_code == 404
    assert server.client.get("/process/forgotten").status_code == 404
    assert server.client.delete(f"{path}/record").status_code == 404
    until(lambda: not (server.state / "runs" / made["id"]).exists())
