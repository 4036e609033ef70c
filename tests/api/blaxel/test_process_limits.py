"""How many finished processes are kept, and how much all of them together may cost."""

import os
from pathlib import Path

from tests.harness import Server, until


def disk_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_oldest_finished_ones_are_forgotten_with_their_files(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_KEEP_FINISHED": "5"})
    own.client.post("/process", json={"command": "sleep 60", "name": "running"})
    for number in range(12):
        own.run(f"echo {number}", name=f"n{number}")

    names = {p["name"] for p in until(lambda: settled(own, 6))}
    assert names == {"running", *(f"n{number}" for number in range(7, 12))}
    assert own.client.get("/process/n0").status_code == 404
    until(lambda: len(os.listdir(own.state / "runs")) <= 6 + 8)
    own.client.delete("/process/running/kill")


def settled(server: Server, most: int) -> list[dict]:
    listed = server.client.get("/process").json()
    return listed if len(listed) <= most else []


def test_old_ones_go_by_age(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_KEEP_FINISHED_SECONDS": "1"})
    own.run("true", name="old")

    until(lambda: own.client.get("/process/old").status_code == 404, every=0.05)


def test_the_budget_holds_over_many_processes(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": "1000000"})
    for number in range(8):
        own.run("seq 60000", name=f"n{number}")
    kept = [own.client.get(f"/process/n{n}/logs").json()["stdout"] for n in range(8)]

    assert disk_of(own.state / "runs") < 1_500_000
    assert all(text.endswith("60000\n") for text in kept)


def test_one_process_has_its_own_ceiling(make_server) -> None:
    own: Server = make_server(env={"SANDBOX_MAX_LOG_FILE_BYTES": "100000"})
    made = own.run("seq 200000", name="n")

    assert made["lostBytes"] > 500_000
    assert disk_of(own.state / "runs") < 600_000


def test_what_was_forgotten_stays_forgotten_after_a_restart(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_KEEP_FINISHED": "3"})
    for number in range(6):
        own.run("true", name=f"n{number}")
    own.restart()

    assert {p["name"] for p in own.client.get("/process").json()} == {"n3", "n4", "n5"}


def test_state_is_for_its_owner_only(make_server) -> None:
    own: Server = make_server()
    own.run("echo secret", env={"SECRET": "x"})

    for path in [own.state, *own.state.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_names_in_the_table_of_state_are_never_a_way_out(make_server) -> None:
    own: Server = make_server()
    own.run("true", name="../../../../tmp/sandkeeper-escape")
    own.restart()

    assert own.client.get("/process").json()[0]["name"] == "../../../../tmp/sandkeeper-escape"
    assert not os.path.exists("/tmp/sandkeeper-escape")
