"""Whatever the files of the state folder hold, the server starts, and the others are served.

`SANDKEEPER_TEST_FULL` sets how many cases are tried (`cases`), `SANDKEEPER_TEST_SEED` which.
"""

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.damage import KINDS, damage, files_of, make_rich
from tests.fuse import FaultyFile, faulty
from tests.harness import Server, cases, needs_root, until

from sandkeeper.api.schemas.processes import record_of
from sandkeeper.journal.cursor import Follow, Reader
from sandkeeper.journal.output import texts_of
from sandkeeper.processes.process import Process
from sandkeeper.processes.recovery import prepare_state, recover
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Environment, Settings

CASES = cases(100)
SEED = int(os.environ.get("SANDKEEPER_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
SETTINGS = {"SANDBOX_MAX_LOG_FILE_BYTES": "200000"}
STARTS = max(2, CASES // 50)
DAMAGES_A_START = 24


class Rich:
    """A state folder of a server that was killed, to be copied for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "made", env=SETTINGS)
        self.server.env["TMPDIR"] = str(self.server.state / "tmp")
        (self.server.state / "tmp").mkdir(parents=True, mode=0o700)
        with self.server:
            self.outputs = make_rich(self.server)
        self.state = self.server.state
        self.work = folder / "work"
        self.work.mkdir()
        self.texts, self.uploads = asyncio.run(take_up(self.copy("state"), self.work))

    def copy(self, name: str) -> Path:
        """Return a copy; files of more than 100 kB are not needed for every case."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.state, target)
        return target


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rich]:
    folder = Path("/dev/shm") / f"sandkeeper-damage-{os.getpid()}"
    folder.mkdir()
    try:
        yield Rich(folder)
    finally:
        shutil.rmtree(folder)


async def look_at(process: Process) -> str:
    """Read a process in every way there is; returns its logs."""
    journal = process.journal
    texts = texts_of(journal, 1 << 24)
    record_of(process, texts)
    follow = Follow(journal)
    offset = 0
    while batch := await follow.next(0.0):
        for item in batch:
            assert item.end > offset
            offset = item.end
    follow.close()
    with Reader(journal) as reader:
        for moment in (0, 1 << 50, 1 << 58):
            reader.offset_at(moment)
    assert 0 <= journal.lost <= journal.tail
    return texts.logs


async def take_up(state: Path, work: Path) -> tuple[dict[str, str], list[str]]:
    """Take everything up as a start does, in this process; returns outputs, uploads' ids."""
    variables = {
        **os.environ,
        "SANDKEEPER_STATE_DIR": str(state),
        "SANDKEEPER_LOG": str(state.parent / "log"),
        "WORKDIR": str(work),
        **SETTINGS,
        "TMPDIR": str(state / "tmp"),
        "XDG_RUNTIME_DIR": str(state.parent),
    }
    environment = Environment()
    sandbox = Sandbox(Settings.read(variables), environment, variables=variables)
    sandbox._sink.start()
    try:
        sandbox.state_folder.tidy()
        await sandbox.files.start(sandbox.log)
        await sandbox.uploads.start(sandbox.log)
        prepare_state(sandbox._workshop, sandbox._store, trial=True)
        await sandbox.egress.start()
        await sandbox.drives.start()
        await sandbox.tunnel.start()
        found = await recover(sandbox._workshop, sandbox._store)
        sandbox.processes.enter_recovered(found)
        sandbox.processes.evict()
        await sandbox.terminals.start()
        await sandbox.archive.freeze.recall()
        await sandbox.upgrade.start()
        outputs = {}
        for process in sandbox.processes.all():
            outputs[process.meta.id] = await look_at(process)
        for terminal in sandbox.terminals.all():
            with Reader(terminal.journal) as reader:
                reader.read(0)
        uploads = [session.uploadId for session in sandbox.uploads.sessions()]
        await sandbox.terminals.stop()
        await sandbox.tunnel.stop()
        await sandbox.drives.stop()
        await sandbox.egress.stop()
        await sandbox.uploads.stop()
        sandbox.files.stop()
        sandbox.processes.save_all()
        sandbox._writer.shutdown()
        return outputs, uploads
    finally:
        await sandbox.children.close()
        sandbox.file_work.close()
        sandbox._sink.close()


def owner_of(path: Path, state: Path) -> str:
    """Return the id of the run a file belongs to; empty for what is nobody's alone."""
    parts = path.relative_to(state).parts
    return parts[1] if parts[0] == "runs" and len(parts) > 1 else ""


@pytest.mark.timeout(300 + CASES)
def test_any_damage_to_any_file_costs_its_own_texts_at_most(rich: Rich) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    for case in range(CASES):
        state = rich.copy("state")
        path, kind = damage(state, chance)
        told = f"seed {SEED}, case {case}: {kind} of {path.relative_to(state)}"
        (state.parent / "log").unlink(missing_ok=True)
        try:
            outputs, _ = asyncio.run(take_up(state, rich.work))
        except BaseException:
            raise AssertionError(f"{told}\n{traceback.format_exc()}") from None
        # The nets caught nothing: the readers themselves have an answer to everything.
        assert "Traceback" not in (state.parent / "log").read_text(), told
        harmed = owner_of(path, state)
        everything = path.relative_to(state).parts[0] == "runs" and kind == "parent_file"
        for run, output in rich.texts.items():
            if run == harmed or (everything and len(path.relative_to(state).parts) < 3):
                continue
            assert outputs.get(run) == output, f"{told}: {run} was harmed"


def test_an_undamaged_folder_is_taken_up_whole_and_nothing_is_set_aside(rich: Rich) -> None:
    state = rich.copy("state")

    outputs, uploads = asyncio.run(take_up(state, rich.work))

    assert outputs == rich.texts
    assert set(outputs) > set(rich.outputs)
    for run in rich.outputs:
        kept = json.loads(rich.outputs[run])["logs"].rpartition("the full output ...]\n")[2]
        assert outputs[run].endswith(kept)
    assert (len(uploads), uploads) == (2, rich.uploads)
    assert not (state / "damaged").exists()


@pytest.mark.timeout(240)
def test_a_server_starts_on_a_folder_where_much_is_damaged(rich: Rich, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    for number in range(STARTS):
        server = Server(tmp_path / f"server{number}", env=SETTINGS)
        server.env["TMPDIR"] = str(server.state / "tmp")
        shutil.copytree(rich.state, server.state)
        done = []
        for _ in range(DAMAGES_A_START):
            path, kind = damage(server.state, chance, parents=False)
            done.append((path.relative_to(server.state), kind))
        with server:
            told = f"seed {SEED}, start {number}: {done}"
            listed = server.client.get("/process")
            assert listed.status_code == 200, told
            known = {item["id"] for item in listed.json()}
            harmed = {str(path.parts[1]) for path, _ in done if path.parts[0] == "runs"}
            for run, output in rich.outputs.items():
                if run in known:
                    logs = server.client.get(f"/process/{run}/logs")
                    assert logs.status_code == 200, told
                if run not in harmed:
                    assert logs.text == output, told
            for route in ("/terminals", "/filesystem-multipart", "/ready", "/diagnostics"):
                assert server.client.get(route).status_code == 200, (route, told)
            assert server.run("echo works")["stdout"] == "works\n"
            server.kill9()
            server.start()
            assert server.client.get("/process").status_code == 200, told


def test_what_is_broken_is_told_and_set_aside_and_its_output_stays(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    whole = server.run("echo whole", name="whole")
    broken = server.run("echo kept all the same", name="broken")
    server.stop()
    record = server.state / "runs" / broken["id"] / "meta.jsonl"
    record.write_bytes(b"\0" * record.stat().st_size + b"\n")
    server.start()

    listed = {item["id"]: item for item in server.client.get("/process").json()}

    assert listed[whole["id"]]["command"] == "echo whole"
    assert listed[broken["id"]]["exitReason"] == "unknown"
    assert (
        server.client.get(f"/process/{broken['id']}/logs").json()["logs"] == "kept all the same\n"
    )
    (aside,) = (server.state / "damaged").iterdir()
    assert aside.read_bytes().startswith(b"\0")
    lines = [line["msg"] for line in server.log_lines() if line["level"] in {"error", "warning"}]
    assert sum(str(aside) in line for line in lines) == 1

    server.restart()
    assert {item["id"] for item in server.client.get("/process").json()} == set(listed)
    assert len(list((server.state / "damaged").iterdir())) == 1


def test_a_process_that_runs_is_found_again_without_its_record(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    started = server.client.post(
        "/process", json={"command": "echo before; sleep 60", "name": "runs"}
    ).json()
    until(lambda: server.client.get("/process/runs/logs").json()["logs"] == "before\n")
    server.kill9()
    (server.state / "runs" / started["id"] / "meta.jsonl").write_bytes(b"{}\n")
    server.start()

    found = server.client.get(f"/process/{started['id']}").json()
    assert (found["status"], found["pid"]) == ("running", started["pid"])
    assert server.client.delete(f"/process/{started['id']}/kill").status_code == 200
    until(lambda: server.client.get(f"/process/{started['id']}").json()["status"] == "killed")


@pytest.mark.parametrize("kind", ["folder", "fifo", "gone", "cut", "socket"])
def test_output_that_cannot_be_read_while_the_server_runs_is_a_gap_for_its_readers_alone(
    server: Server, kind: str
) -> None:
    broken = server.run("echo this is lost", name=f"broken-{kind}")
    whole = server.run("echo whole", name=f"whole-{kind}")
    (segment,) = (server.state / "runs" / broken["id"]).glob("*.seg")
    if kind == "cut":
        os.truncate(segment, 0)
    else:
        KINDS[kind](segment, random.Random(1))

    assert server.client.get("/process").status_code == 200
    assert server.client.get(f"/process/{broken['id']}").status_code == 200
    assert server.client.get(f"/process/{broken['id']}/logs").status_code == 200
    events = server.client.get(f"/process/{broken['id']}/events", timeout=10)
    assert "this is lost" not in events.text
    assert server.client.get(f"/process/{whole['id']}/logs").json()["logs"] == "whole\n"


def test_what_was_set_aside_is_bounded_and_the_newest_stays(tmp_path: Path) -> None:
    from sandkeeper.linux.paths.statefiles import KEPT, SetAside

    said: list[str] = []
    aside = SetAside(tmp_path, said.append)
    for number in range(KEPT + 5):
        path = tmp_path / f"f{number}"
        path.write_text(str(number))
        assert aside.put(path, "a test")

    kept = files_of(tmp_path / "damaged")
    assert len(kept) == KEPT
    assert kept[-1].read_text() == str(KEPT + 4)
    assert sum("is removed" in line for line in said) == 5
    assert json.dumps(said)


@contextlib.contextmanager
def unreadable(path: Path, share: float = 0.0) -> Iterator[None]:
    """Have a file fail with EIO, behind a share of it."""
    data = path.read_bytes()
    with faulty(path, FaultyFile(data, good=int(len(data) * share))):
        with pytest.raises(OSError) as failed:
            path.read_bytes()
        assert failed.value.errno == errno.EIO
        yield


@needs_root
@pytest.mark.parametrize("name", ["*.seg", "*.idx"])
def test_a_disk_that_fails_while_the_server_runs_costs_one_output(
    server: Server, name: str
) -> None:
    broken = server.run("echo this is lost", name=f"eio-{name[2:]}")
    whole = server.run("echo whole")
    (path,) = (server.state / "runs" / broken["id"]).glob(name)
    with unreadable(path):
        listed = {item["id"]: item for item in server.client.get("/process").json()}
        assert {broken["id"], whole["id"]} <= set(listed)
        assert "this is lost" not in server.client.get(f"/process/{broken['id']}/logs").text
        assert server.client.get(f"/process/{whole['id']}/logs").json()["logs"] == "whole\n"
    assert "this is lost" in server.client.get(f"/process/{broken['id']}/logs").text


@needs_root
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("*.seg", 0),
        ("*.seg", 0.5),
        ("*.idx", 0),
        ("*.idx", 0.7),
        ("meta.jsonl", 0),
        ("exported", 0),
    ],
)
def test_a_disk_that_fails_at_the_start_costs_one_output(
    make_server: Callable[..., Server], name: str, share: float
) -> None:
    server = make_server()
    broken = server.run("echo this is lost", name="broken")
    whole = server.run("echo whole")
    folder = server.state / "runs" / broken["id"]
    until(lambda: (folder / "exported").exists())
    server.stop()
    (path,) = folder.glob(name)
    with unreadable(path, share):
        server.start()
        listed = {item["id"]: item for item in server.client.get("/process").json()}
        assert set(listed) == {broken["id"], whole["id"]}
        assert server.client.get(f"/process/{whole['id']}/logs").json()["logs"] == "whole\n"
        if name == "*.seg":  # its size is right: only who reads it learns that it cannot be read
            assert "lost" not in server.client.get(f"/process/{broken['id']}/logs").text
            told = server.client.get(f"/process/{broken['id']}").json()
            assert told["lostBytes"] == len("this is lost\n") - int(len("this is lost\n") * share)
        elif name == "*.idx":
            assert listed[broken["id"]]["lostBytes"] == len("this is lost\n")
        else:
            assert "this is lost" in server.client.get(f"/process/{broken['id']}/logs").text
        said = [line["msg"] for line in server.log_lines() if line["level"] != "info"]
        assert any(broken["id"] in line for line in said) is (name != "*.seg")
        assert not any("Traceback" in line for line in said)
        server.stop()
