"""The keeper: what it holds outlives the server; losing it costs nothing while the server lives."""

import contextlib
import os
import signal
import subprocess

from tests.harness import Server, alive, open_files, start, until, zombies_of


def keeper_of(server: Server) -> int:
    """Return the pid of the keeper that listens in a server's state folder; 0 if there is none."""
    found = subprocess.run(
        ["pgrep", "-f", f"keeper/holder.py {server.state}/keeper.sock"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return int(found[0]) if found else 0


def test_a_killed_keeper_is_replaced_and_given_everything_again(make_server) -> None:
    own: Server = make_server()
    own.client.post("/process", json={"command": "read x; echo last $x; exit 9", "name": "a",
                                      "stdin": True})  # fmt: skip
    first = until(lambda: keeper_of(own))
    os.kill(first, signal.SIGKILL)
    until(lambda: keeper_of(own) != first)
    command = "while [ ! -e go ]; do sleep 0.02; done; echo bye; exit 4"
    pid = int(start(own, command, name="b", workingDir=str(own.workdir))["pid"])
    until(lambda: keeper_of(own))
    until(lambda: zombies_of(own.pid) == set())

    own.kill9()
    (own.workdir / "go").touch()
    until(lambda: not alive(pid))
    own.start()

    ended = own.client.get("/process/b/wait?timeout=60").json()
    assert (ended["stdout"], ended["exitCode"], ended["exitReason"]) == ("bye\n", 4, "exited")


def test_the_keeper_goes_when_it_holds_nothing_and_nobody_is_connected(make_server) -> None:
    own: Server = make_server()
    own.run("true")
    assert until(lambda: keeper_of(own))

    own.stop()

    until(lambda: keeper_of(own) == 0)


def test_pipes_whose_last_writer_went_while_no_server_ran_are_given_back(make_server) -> None:
    own: Server = make_server()
    before = len(os.listdir(f"/proc/{own.pid}/fd"))
    own.client.post(
        "/process", json={"command": "sleep 1000 & echo $!", "name": "a", "waitForCompletion": True}
    )
    survivor = int(own.client.get("/process/a/logs").json()["stdout"])
    own.kill9()
    os.kill(survivor, signal.SIGKILL)
    own.start()

    def pipes() -> list[str]:
        return [path for path in open_files(own.pid) if path.endswith((".out", ".err"))]

    until(lambda: pipes() == [])
    until(lambda: len(os.listdir(f"/proc/{own.pid}/fd")) <= before + 4)


def readiness(server: Server) -> str:
    return server.client.get("/ready").json()["checks"]["keeper"]


def test_a_killed_keeper_is_replaced_at_once_without_a_start(make_server) -> None:
    own: Server = make_server()
    command = "while [ ! -e go ]; do sleep 0.02; done; seq 200; exit 4"
    started = own.client.post(
        "/process", json={"command": command, "name": "a", "workingDir": str(own.workdir)}
    ).json()
    terminal = own.client.post("/terminals", json={}).json()
    assert readiness(own) == "ok"
    first = until(lambda: keeper_of(own))

    os.kill(first, signal.SIGKILL)
    until(lambda: keeper_of(own) not in {0, first})
    until(lambda: readiness(own) == "ok")
    until(lambda: zombies_of(own.pid) == set())
    own.kill9()
    (own.workdir / "go").touch()
    until(lambda: not alive(int(started["pid"])))
    own.start()

    ended = own.client.get("/process/a/wait?timeout=60").json()
    assert ended["stdout"].split() == [str(number) for number in range(1, 201)]
    assert (ended["exitCode"], ended["outputUncertain"]) == (4, False)
    assert own.client.get(f"/terminals/{terminal['id']}").json()["status"] == "running"


def test_readiness_tells_of_a_keeper_that_cannot_be_replaced(make_server) -> None:
    own: Server = make_server()
    first = until(lambda: keeper_of(own))
    # What stands in its socket's place cannot be removed: a folder that is not empty.
    place = own.state / "keeper.sock"
    place.unlink()
    (place / "x").mkdir(parents=True)
    with contextlib.suppress(ProcessLookupError):  # one that lacks its place goes by itself
        os.kill(first, signal.SIGKILL)

    until(lambda: "cannot be replaced" in readiness(own))
    assert own.client.get("/ready").status_code == 503
    assert own.run("echo on")["stdout"] == "on\n"
    assert any("no keeper" in line["msg"] for line in own.log_lines() if "msg" in line)
    (place / "x").rmdir()
    place.rmdir()

    until(lambda: readiness(own) == "ok")
    assert keeper_of(own) not in {0, first}


def test_a_stopped_keeper_is_replaced_and_ended(make_server) -> None:
    constants = {
        "sandkeeper.linux.keeper.client.ANSWER_SECONDS": 1.0,
        "sandkeeper.processes.keeping.ASK_EVERY": 0.5,
    }
    own: Server = make_server(constants=constants)
    command = "while [ ! -e go ]; do sleep 0.02; done; echo bye; exit 4"
    started = own.client.post(
        "/process", json={"command": command, "name": "a", "workingDir": str(own.workdir)}
    ).json()
    first = until(lambda: keeper_of(own))

    os.kill(first, signal.SIGSTOP)
    until(lambda: not os.path.exists(f"/proc/{first}"))
    until(lambda: readiness(own) == "ok")
    assert keeper_of(own) not in {0, first}
    own.kill9()
    (own.workdir / "go").touch()
    until(lambda: not alive(int(started["pid"])))
    own.start()

    ended = own.client.get("/process/a/wait?timeout=60").json()
    assert (ended["stdout"], ended["exitCode"]) == ("bye\n", 4)


def test_what_nobody_held_is_told_as_uncertain(make_server) -> None:
    """Keeper and server killed at once: what the pipe held at the process's end is gone."""
    own: Server = make_server()
    script = "echo first; while [ ! -e go ]; do sleep 0.02; done; seq 200"
    for name, command in {"ends": script, "lives": script + "; sleep 1000"}.items():
        own.client.post(
            "/process", json={"command": command, "name": name, "workingDir": str(own.workdir)}
        )
        until(lambda name=name: own.client.get(f"/process/{name}").json()["stdoutBytes"] == 6)
    pid = own.client.get("/process/ends").json()["pid"]
    keeper = until(lambda: keeper_of(own))
    os.kill(own.pid, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    own.kill9()
    (own.workdir / "go").touch()
    until(lambda: not os.path.exists(f"/proc/{pid}"))  # a zombie would tell its exit code
    own.start()

    ended = own.client.get("/process/ends/wait?timeout=60").json()
    assert ended["outputUncertain"] is True
    assert ended["exitReason"] == "unknown"
    assert any("nobody held its pipes" in line["msg"] for line in own.log_lines() if "msg" in line)
    until(lambda: own.client.get("/process/lives").json()["stdoutBytes"] > 600)
    lives = own.client.get("/process/lives").json()
    assert (lives["status"], lives["outputUncertain"]) == ("running", False)
    own.client.delete("/process/lives/kill")
    own.restart()
    assert own.client.get("/process/ends").json()["outputUncertain"] is True
