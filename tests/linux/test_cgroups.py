"""Limits of a process tree: real groups where this machine has them, resource limits otherwise."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import needs_root, until

from sandkeeper.linux.cgroups import Cgroups, Confinement, Limits, _enable, _places
from sandkeeper.linux.children.child import Child, ExitStatus
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable

HOG = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
FORKS = """
import os, signal, sys
made = 0
try:
    while made < 200:
        if not os.fork():
            signal.pause()
            os._exit(0)
        made += 1
except OSError:
    pass
sys.stdout.write(str(made))
sys.stdout.flush()
signal.pause()
"""
DAEMON = "import os, signal\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"


@pytest.fixture
def groups() -> Cgroups:
    return Cgroups.detect()


@pytest.fixture
def confine(groups: Cgroups) -> Iterator:
    made: list[Confinement] = []

    def create(**limits: float) -> Confinement:
        made.append(groups.create(f"test-{uuid.uuid4().hex}", Limits(**limits)))
        return made[-1]

    yield create
    for one in made:
        one.kill()
        until(one.remove)


def start(confinement: Confinement, code: str, **options) -> Child:
    argv = [sys.executable, "-S", "-c", code]
    try:
        return Children().spawn(
            Spawn(
                argv,
                dict(os.environ),
                cgroups=confinement.entrances(),
                rlimits=confinement.rlimits,
                **options,
            )
        )
    finally:
        confinement.close()


async def ended(child: Child) -> ExitStatus:
    async with asyncio.timeout(60):
        await readable(child.pidfd.number)
    return child.reap()


def test_a_memory_hog_is_ended_by_its_limit(confine) -> None:
    confinement = confine(memory_bytes=128 << 20)

    status = asyncio.run(ended(start(confinement, HOG)))

    if confinement.enforced["memory"] == "rlimit":
        assert status.code == 1  # MemoryError
    else:
        assert status.signal == signal.SIGKILL
        assert confinement.oom_kills() == 1
    assert (status.peak_rss_bytes or 0) < 160 << 20


@needs_root
def test_a_fork_bomb_stops_at_its_limit_and_dies_as_a_whole(confine) -> None:
    confinement = confine(pids=20)
    read, write = os.pipe()
    child = start(confinement, FORKS, stdout=write)
    os.close(write)
    with os.fdopen(read) as stream:
        made = int(stream.read(2))
        if confinement.enforced["pids"].startswith("cgroup"):
            assert made == 19
            assert len(confinement.members()) == 20
            assert confinement.kill()
        child.signal_group(signal.SIGKILL)
        asyncio.run(ended(child))
        assert confinement.members() == []


def test_a_kill_reaches_daemons_that_left_group_and_session(confine) -> None:
    confinement = confine(memory_bytes=256 << 20, pids=50)
    read, write = os.pipe()
    child = start(
        confinement, DAEMON + "print(os.getpid(), flush=True)\nsignal.pause()", stdout=write
    )
    os.close(write)
    with os.fdopen(read) as stream:
        daemon = int(stream.readline())
        asyncio.run(ended(child))
        if confinement.folders:
            assert daemon in confinement.members()
            assert confinement.kill()
        else:
            os.kill(daemon, signal.SIGKILL)
        assert stream.read() == ""  # its end closes the pipe


def test_cpu_is_limited_where_a_controller_is_there(groups: Cgroups, confine) -> None:
    confinement = confine(cpus=0.1)

    there = groups.controllers.get("cpu")
    assert confinement.enforced == ({"cpu": there} if there else {})


def test_open_files_are_limited(confine) -> None:
    confinement = confine(open_files=64)
    code = "import resource, sys; sys.exit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])"

    status = asyncio.run(ended(start(confinement, code)))

    assert (status.code, confinement.enforced) == (64, {"openFiles": "rlimit"})


def test_an_earlier_servers_groups_are_found_again(groups: Cgroups, confine) -> None:
    confinement = confine(memory_bytes=64 << 20)
    names = {folder.name for folder in confinement.folders.values()}

    assert groups.find("test-never-made") is None
    for name in names:
        found = groups.find(name)
        assert found is not None
        assert found.folders == confinement.folders
        assert name in groups.names()


def test_without_any_group_resource_limits_remain() -> None:
    limits = Limits(memory_bytes=256 << 20, pids=9, cpus=1.0)
    theirs = Cgroups({}).create("x", limits, uid=1000)
    confinement = Cgroups({}).create("x", limits)

    assert theirs.enforced == {"memory": "rlimit", "pids": "rlimit"}
    assert confinement.enforced == {"memory": "rlimit"}  # root's processes are not counted
    assert confinement.members() == []
    assert confinement.kill()
    assert asyncio.run(ended(start(confinement, HOG))).code == 1


def test_a_machine_without_cgroups_has_no_controllers(tmp_path: Path) -> None:
    assert Cgroups.detect(str(tmp_path / "none"), str(tmp_path / "none")).controllers == {}


def test_our_own_folders_are_found_through_mounts_and_namespaces() -> None:
    mounts = (
        "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "31 20 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 20 0:29 / /proc rw - proc proc rw\n"
    )
    own = "5:memory:/docker/abc/inner\n4:cpu,cpuacct:/\n1:name=systemd:/\n0::/user\n"

    assert _places(mounts, own) == {
        "": Path("/sys/fs/cgroup/unified/user"),
        "memory": Path("/sys/fs/cgroup/memory/inner"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }


def test_version_2_gets_its_own_file_names(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
    for folder in (tmp_path, tmp_path / "sandkeeper"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("")
    assert _enable(tmp_path) == []  # a plain folder hands nothing down
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"

    from sandkeeper.linux.cgroups import _Parent

    parents = {name: _Parent(tmp_path / "sandkeeper", 2) for name in ("memory", "pids", "cpu")}
    made = Cgroups(parents).create("run", Limits(memory_bytes=1 << 20, pids=5, cpus=1.5))
    folder = tmp_path / "sandkeeper" / "run"
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")

    assert made.enforced == {"memory": "cgroup2", "pids": "cgroup2", "cpu": "cgroup2"}
    assert (folder / "memory.max").read_text() == str(1 << 20)
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "pids.max").read_text() == "5"
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert made.oom_kills() == 2
