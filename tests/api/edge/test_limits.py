"""Limits of processes: kept by the machine's control groups where it has them, and told as such."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.harness import ALONE, Server, alive, needs_root, start, until
from tests.mcp_calls import Tools

from sandkeeper.linux.cgroups import Cgroups

MIB = 1 << 20
HOG = "python3 -S -c 'kept = []\nwhile True: kept.append(bytearray(1 << 20))'"
PIDS = 50 if os.geteuid() == 0 else 5000
"""For others than root it is the kernel's limit of a user, which counts all that user has."""
DAEMON = "(setsid sh -c 'echo $$; exec sleep 1000' &)"


@pytest.fixture(scope="module")
def groups() -> dict[str, str]:
    """Return what cgroups can limit on this machine."""
    return Cgroups.detect().controllers


def pid_of_daemon(server: Server, name: str) -> int:
    def printed() -> str:
        return server.client.get(f"/process/{name}/logs").json()["stdout"]

    return int(until(printed))


def folders(run: str) -> list[Path]:
    """Return the groups of a run, in whatever hierarchy they are."""
    return [
        Path(folder, name)
        for folder, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.endswith(run)
    ]


@needs_root
def test_each_limit_is_told_with_what_keeps_it(server: Server, groups) -> None:
    wanted = {"memoryBytes": 256 * MIB, "pids": 32, "cpus": 0.5, "openFiles": 64}
    made = server.run("ulimit -n; cat /proc/self/cgroup", limits=wanted)

    by = made["limits"].pop("enforcedBy")
    assert made["limits"] == wanted
    assert by["openFiles"] == "rlimit"
    assert by["memoryBytes"] == groups.get("memory", "rlimit")
    assert by["pids"] == groups.get("pids", "none")
    assert by["cpus"] == groups.get("cpu", "none")
    assert made["stdout"].startswith("64\n")
    assert made["stdout"].count(made["id"]) == len(groups)


def test_without_limits_nothing_is_told_and_nobody_is_moved(server: Server) -> None:
    made = server.run("cat /proc/self/cgroup", limits={"pids": None})

    assert "limits" not in made
    assert made["id"] not in made["stdout"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"memory": 1}, "unknown field `memory`"),
        ({"memoryBytes": "1g"}, "got `str`"),
        ({"memoryBytes": 4096}, "1048576"),
        ({"memoryBytes": -1}, "1048576"),
        ({"pids": 0}, ">= 1"),
        ({"pids": True}, "got `bool`"),
        ({"pids": 1 << 70}, "4194304"),
        ({"cpus": 0}, ">= 0.01"),
        ({"cpus": float("inf")}, "cpus"),
        ({"openFiles": 3}, ">= 16"),
        ([1], "got `array`"),
        ("all", "got `str`"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(server: Server, limits, said: str) -> None:
    body = {"command": "true", "limits": limits}
    if limits == {"cpus": float("inf")}:
        reply = server.client.post("/process", content='{"command":"true","limits":{"cpus":1e999}}')
    else:
        reply = server.client.post("/process", json=body)

    assert reply.status_code == 400
    assert said in reply.json()["error"]
    assert "limits" in reply.json()["error"]


def test_another_limit_is_another_request_for_an_idempotency_key(server: Server) -> None:
    headers = {"Idempotency-Key": "limited"}
    one = {"command": "true", "limits": {"pids": 50}}
    first = server.client.post("/process", json=one, headers=headers)
    again = server.client.post("/process", json=one, headers=headers)
    other = {"command": "true", "limits": {"pids": 60}}

    assert first.json()["id"] == again.json()["id"]
    assert server.client.post("/process", json=other, headers=headers).status_code == 422


def test_running_out_of_memory_is_the_reason_of_the_end(server: Server, groups) -> None:
    made = server.run(HOG, limits={"memoryBytes": 96 * MIB})
    wrapped = server.run(HOG + "; exit 3", limits={"memoryBytes": 96 * MIB})

    if "memory" in groups:
        assert (made["status"], made["exitReason"]) == ("failed", "oom")
        assert (wrapped["exitReason"], wrapped["status"]) == ("oom", "failed")
    else:
        assert (made["status"], made["exitReason"]) == ("failed", "exited")  # MemoryError


def test_an_end_of_its_own_is_no_lack_of_memory(make_server) -> None:
    server: Server = make_server(constants=ALONE)
    limits = {"memoryBytes": 96 * MIB}
    made = server.run("exit 9", limits=limits)
    killed = server.run("kill -9 $$", limits=limits)

    assert (made["exitReason"], killed["exitReason"]) == ("exited", "signaled")


def test_restarts_keep_the_limits(server: Server, groups) -> None:
    made = server.run(
        "ulimit -n; cat /proc/self/cgroup; exit 1",
        limits={"openFiles": 77, "pids": PIDS},
        restartOnFailure=True,
        maxRestarts=1,
    )

    assert made["restartCount"] == 1
    assert made["stdout"].count("77\n") == 2
    assert made["stdout"].count(made["id"]) == 2 * ("pids" in groups)
    until(lambda: not folders(made["id"]))


@needs_root
def test_limits_that_were_changed_while_no_server_ran_are_set_again(make_server, groups) -> None:
    own: Server = make_server()
    made = start(own, "exec sleep 1000", limits={"memoryBytes": 256 * MIB, "pids": 40})
    names = {"memory.max", "memory.limit_in_bytes", "pids.max"}
    files = [one / name for one in folders(made["id"]) for name in names if (one / name).exists()]
    before = {file: file.read_text() for file in files}
    assert len(files) == len(groups.keys() & {"memory", "pids"})
    own.kill9()
    for file in files:
        file.write_text(str(int(before[file]) // 2))

    own.start()

    assert {file: file.read_text() for file in files} == before
    assert own.client.delete(f"/process/{made['id']}/kill").status_code == 200
    until(lambda: not folders(made["id"]))


def test_a_kill_reaches_daemons_that_left_the_group_and_the_session(server: Server, groups) -> None:
    made = start(server, DAEMON + "; sleep 1000", name="daemon", limits={"memoryBytes": 256 * MIB})
    pid = pid_of_daemon(server, "daemon")
    assert server.client.delete("/process/daemon/kill").status_code == 200

    if "memory" in groups:
        until(lambda: not alive(pid))
        until(lambda: not folders(made["id"]))
    else:
        os.kill(pid, signal.SIGKILL)


def test_a_timeout_kills_the_whole_tree_too(server: Server, groups) -> None:
    start(server, DAEMON + "; sleep 1000", name="late", timeout=15, limits={"pids": PIDS})
    pid = pid_of_daemon(server, "late")
    ended = server.client.get("/process/late/wait").json()

    assert ended["exitReason"] == "timeout"
    if "pids" in groups:
        until(lambda: not alive(pid))
    else:
        os.kill(pid, signal.SIGKILL)


def test_survivors_stay_limited_and_the_group_goes_with_the_last(server: Server, groups) -> None:
    made = server.run(DAEMON, limits={"pids": PIDS}, name="left")
    pid = pid_of_daemon(server, "left")

    assert alive(pid)
    assert bool(folders(made["id"])) == ("pids" in groups)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not folders(made["id"]))


def test_the_next_server_finds_the_groups_again(make_server, groups) -> None:
    own: Server = make_server()
    limits = {"memoryBytes": 128 * MIB, "pids": PIDS}
    hog = start(own, f"read; {HOG}", name="hog", stdin=True, limits=limits)
    made = start(own, DAEMON + "; sleep 1000", name="daemon", limits=limits)
    pid = pid_of_daemon(own, "daemon")
    own.kill9()
    own.start()  # the hog reads the end of its input and goes to work

    ended = own.client.get("/process/hog/wait").json()
    assert ended["limits"] == hog["limits"]
    assert own.client.delete("/process/daemon/kill").status_code == 200
    if "memory" in groups:
        assert ended["exitReason"] == "oom"
        until(lambda: not alive(pid))
        until(lambda: not folders(made["id"]) and not folders(hog["id"]))
    else:
        os.kill(pid, signal.SIGKILL)


def test_leftovers_of_a_killed_server_are_removed_at_the_start(make_server) -> None:
    own: Server = make_server()
    ended = start(own, "sleep 1000", limits={"pids": PIDS})
    forgotten = start(own, "sleep 1000", limits={"pids": PIDS})
    own.kill9()
    for made in (ended, forgotten):
        os.kill(int(made["pid"]), signal.SIGKILL)
    shutil.rmtree(own.state / "runs" / forgotten["id"])
    own.start()

    until(lambda: not folders(ended["id"]) and not folders(forgotten["id"]))


def test_a_fork_bomb_and_a_memory_hog_leave_the_server_answering(server: Server, groups) -> None:
    bomb = {"pids": 100, "cpus": 0.5, "openFiles": 64} if "pids" in groups else {"openFiles": 64}
    command = "b() { b | b & }; while :; do b; done" if "pids" in groups else "sleep 1000"
    start(server, command, name="bomb", limits=bomb)
    start(
        server,
        f"while :; do {HOG}; done",
        name="hogs",
        limits={"memoryBytes": 64 * MIB, "cpus": 0.5},
    )
    took = []
    for _ in range(60):
        began = time.perf_counter()
        assert server.client.get("/process/bomb").status_code == 200
        took.append(time.perf_counter() - began)
        time.sleep(0.02)
    for name in ("bomb", "hogs"):
        assert server.client.delete(f"/process/{name}/kill").status_code == 200
        assert server.client.get(f"/process/{name}/wait").json()["status"] == "killed"

    print(f"slowest of {len(took)}: {max(took) * 1000:.1f} ms")
    assert max(took) < 30


def test_a_tool_limits_too_and_knows_no_other_limits(server: Server) -> None:
    tools = Tools(server)
    arguments = {"command": "ulimit -n", "waitForCompletion": True}
    made = tools.value("processExecute", **arguments, limits={"openFiles": 99})

    assert made["logs"] == "99\n"
    assert "files" in tools.error("processExecute", **arguments, limits={"files": 99})
    schema = tools.listed()["processExecute"]["inputSchema"]["properties"]["limits"]
    assert schema["additionalProperties"] is False
