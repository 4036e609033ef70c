"""The keeper: what it holds outlives the server; losing it costs nothing while the server lives."""

import os
import signal
import subprocess

from tests.harness import Server, until


def keeper_of(server: Server) -> int:
    """Return the pid of the keeper that listens in a server's state folder; 0 if there is none."""
    found = subprocess.run(
        ["pgrep", "-f", f"keeper_main.py {server.state}/keeper.sock"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return int(found[0]) if found else 0


def zombies_of(pid: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "stat="], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.split() if line.startswith("Z")]


def test_a_killed_keeper_is_replaced_and_given_everything_again(make_server) -> None:
    own: Server = make_server()
    own.client.post("/process", json={"command": "read x; echo last $x; exit 9", "name": "a",
                                      "stdin": True})  # fmt: skip
    first = until(lambda: keeper_of(own))
    os.kill(first, signal.SIGKILL)
    until(lambda: keeper_of(own) != first)
    command = "while [ ! -e go ]; do sleep 0.02; done; echo bye; exit 4"
    own.client.post(
        "/process", json={"command": command, "name": "b", "workingDir": str(own.workdir)}
    )
    until(lambda: keeper_of(own))
    until(lambda: zombies_of(own.pid) == [])

    own.kill9()
    (own.workdir / "go").touch()
    until(lambda: subprocess.run(["pgrep", "-f", "[w]hile .*-e go"], check=False).returncode)
    own.start()

    ended = own.client.get("/process/b/wait?timeout=10").json()
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
        links = (f"/proc/{own.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{own.pid}/fd"))
        found = [os.readlink(link) for link in links if os.path.lexists(link)]
        return [path for path in found if path.endswith((".out", ".err"))]

    until(lambda: pipes() == [])
    assert len(os.listdir(f"/proc/{own.pid}/fd")) <= before + 4
