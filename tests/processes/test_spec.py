"""A process as data, and its other forms: nothing of it is lost on the way from one to another."""

import msgspec
import pytest

from sandkeeper.linux.cgroups import Limits
from sandkeeper.linux.paths.statefiles import Damaged
from sandkeeper.processes.record import RunMeta, read_record
from sandkeeper.processes.spec import (
    FullProcessFields,
    LimitsFields,
    ProcessFields,
    ProcessSpec,
    SavedProcess,
)

RUN = "0123456789abcdefghjkmnpqrs"
FULL = ProcessSpec(
    command="make",
    name="build",
    working_dir="/src",
    env={"A": "b"},
    timeout=9,
    keep_alive=True,
    restart_on_failure=True,
    max_restarts=-1,
    stdin=True,
    limits=Limits(memory_bytes=1 << 30, pids=8, cpus=0.5, open_files=64),
    argv=["make", "all"],
    inherit_env=False,
    user="app",
    tag="ci",
    hold_output=True,
)


def test_the_example_has_a_value_of_its_own_for_every_field() -> None:
    plain = msgspec.structs.asdict(ProcessSpec(command=""))
    assert all(value != plain[name] for name, value in msgspec.structs.asdict(FULL).items())


def test_the_forms_in_json_have_the_same_fields() -> None:
    # Who holds output reads events over HTTP: of tools and archives nobody does.
    apart = {"limits", "hold_output"}
    assert {*FullProcessFields.__struct_fields__, *apart} == {*ProcessSpec.__struct_fields__}
    assert {*ProcessFields.__struct_fields__} < {*FullProcessFields.__struct_fields__}
    assert LimitsFields.__struct_fields__ == Limits.__struct_fields__


def test_an_archive_keeps_all_that_was_asked_for() -> None:
    record = RunMeta(**msgspec.structs.asdict(FULL), id=RUN, exit_code=3)

    kept = msgspec.json.encode(SavedProcess.of(record))
    saved = msgspec.json.decode(kept, type=SavedProcess)

    assert saved.spec(saved.limits) == msgspec.structs.replace(FULL, hold_output=False)
    assert msgspec.json.decode(kept)["limits"]["memoryBytes"] == 1 << 30


def test_a_process_of_an_older_archive_has_neither_limits_nor_a_new_time_limit() -> None:
    saved = msgspec.json.decode(b'{"command":"c","name":"n","keepAlive":true}', type=SavedProcess)
    spec = saved.spec(saved.limits)
    assert (spec.timeout, spec.limits) == (0, None)


def test_no_limit_at_all_is_the_same_as_none() -> None:
    assert ProcessFields(command="c").spec(LimitsFields()).limits is None


def test_a_line_of_an_older_server_says_what_it_said() -> None:
    line = (
        b'{"id":"x","command":"make","name":"build","pid":"7","working_dir":"/src",'
        b'"env":{"A":"b"},"restart_on_failure":true,"max_restarts":-1,"keep_alive":true,'
        b'"stdin":true,"timeout":9,"limits":{"memory_bytes":1073741824,"pids":8,"cpus":0.5,'
        b'"open_files":64},"enforced":{"pids":"cgroup2"}}'
    )
    record = read_record(line, RUN)
    plain = ProcessSpec(command="")
    newer = ("argv", "inherit_env", "user", "tag", "hold_output")
    older = msgspec.structs.replace(FULL, **{name: getattr(plain, name) for name in newer})

    assert record == RunMeta(
        **msgspec.structs.asdict(older), id=RUN, pid="7", enforced={"pids": "cgroup2"}
    )
    assert read_record(msgspec.json.encode(record), RUN) == record
    assert b'"working_dir":"/src"' in msgspec.json.encode(record)


@pytest.mark.parametrize("line", [b"{}", b'{"id":"x","command":"c"}', b'{"command":1}', b"{"])
def test_a_line_that_is_no_record_is_damaged(line: bytes) -> None:
    with pytest.raises(Damaged):
        read_record(line, RUN)


@pytest.mark.parametrize(
    "line", [b'{"version":2}', b'{"id":"","command":"","name":"","version":2}']
)
def test_a_line_of_a_later_version_is_told_apart_from_damage(line: bytes) -> None:
    with pytest.raises(ValueError, match="its record is") as caught:
        read_record(line, RUN)
    assert not isinstance(caught.value, Damaged)
