"""Variables from `.env`, from an env file, and from reloads."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import needs_root

from sandkeeper.errors import Internal, NotFound
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.settings import Environment
from sandkeeper.settings.sources import (
    EnvironmentReload,
    load_dotenv,
    load_env_file,
    parse_env_file,
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The live environment, put back afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return Environment()


def log() -> Log:
    return Log(Sink(os.open("/dev/null", os.O_WRONLY), dropped_line=lambda _: b""))


def test_dotenv_adds_what_is_missing_and_overrides_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    environment.apply({"SK_OLD": "old", "SK_EMPTY": ""})
    text = "SK_OLD=new\nSK_EMPTY=new\nexport SK_NEW='a b' # why\nSK_TWO=\"${SK_NEW}!\"\nSK_NONE\n"
    (tmp_path / ".env").write_text(text)

    assert load_dotenv(environment, tmp_path) == []
    assert environment.get("SK_OLD") == "old"
    assert environment.get("SK_EMPTY") == ""
    assert (environment.get("SK_NEW"), environment.get("SK_TWO")) == ("a b", "a b!")
    assert "SK_NONE" not in environment.snapshot()


@needs_root
def test_a_dotenv_that_others_may_write_is_not_obeyed(
    environment: Environment, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_text("SK_PLANTED=1\n")
    path.chmod(0o666)
    told = load_dotenv(environment, tmp_path)
    path.chmod(0o644)
    os.chown(path, 65534, 65534)
    told += load_dotenv(environment, tmp_path)
    path.chmod(0o664)
    os.chown(path, 0, 65534)
    told += load_dotenv(environment, tmp_path)

    assert len(told) == 3
    assert "SK_PLANTED" not in environment.snapshot()


def test_no_dotenv_and_a_folder_of_that_name_are_no_faults(
    environment: Environment, tmp_path: Path
) -> None:
    assert load_dotenv(environment, tmp_path) == []
    (tmp_path / ".env").mkdir()
    assert len(load_dotenv(environment, tmp_path)) == 1  # it cannot be read, and that is said


@pytest.mark.parametrize(
    ("data", "values", "faults"),
    [
        (b"", {}, 0),
        (b"A\x001\x00B\x002\x00", {"A": "1", "B": "2"}, 0),
        (b"A\x001\x00B\x002", {"A": "1", "B": "2"}, 0),
        (b"A\x001\x00A\x002\x00", {"A": "2"}, 0),
        (b"A\x00\x00", {"A": ""}, 0),
        (b"\x00nameless\x00A\x001", {"A": "1"}, 0),
        (b"A\x001\x00LAST\x00", {"A": "1"}, 0),
        (b"A=B\x001\x00C\x00x=\ny", {"C": "x=\ny"}, 1),
        (b"A\x00\xff\xfe", {"A": "\udcff\udcfe"}, 0),
    ],
)
def test_an_env_file_is_pairs_between_nuls(
    data: bytes, values: dict[str, str], faults: int
) -> None:
    found, told = parse_env_file(data)

    assert (found, len(told)) == (values, faults)


@pytest.mark.parametrize("data", [b"A", b"A\x00", b"A=1\n", b"\x00"])
def test_content_without_any_pair_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_env_file(data)


@given(st.binary(max_size=200))
def test_no_file_breaks_the_parser(data: bytes) -> None:
    try:
        found, _ = parse_env_file(data)
    except ValueError:
        return
    assert all(name and "=" not in name and "\0" not in name + found[name] for name in found)


def test_an_env_file_never_overrides_and_is_never_fatal(
    environment: Environment, tmp_path: Path
) -> None:
    path = tmp_path / "vars"
    path.write_bytes(b"SK_OLD\0new\0SK_NEW\x001\0BAD=\x001\0")
    environment.apply({"SK_OLD": "", "BL_ENV_VAR_PATH": str(path)})

    told = load_env_file(environment)

    assert len(told) == 1
    assert (environment.get("SK_OLD"), environment.get("SK_NEW")) == ("", "1")
    for broken in (tmp_path / "missing", tmp_path):
        environment.apply({"BL_ENV_VAR_PATH": str(broken)})
        assert len(load_env_file(environment)) == 1
    path.write_bytes(b"junk")
    environment.apply({"BL_ENV_VAR_PATH": str(path)})
    assert "no name with a value" in load_env_file(environment)[0]


def test_a_reload_sets_all_and_unsets_only_what_earlier_documents_carried(
    environment: Environment, tmp_path: Path
) -> None:
    path = tmp_path / "metadata"
    environment.apply({"SK_MINE": "1", "SK_BOTH": "mine"})
    reload = EnvironmentReload(environment, log(), path)
    seen: list[str] = []

    async def hook() -> None:
        seen.append(environment.get("SK_BOTH"))

    async def failing() -> None:
        raise OSError("of its own")

    reload.hooks += [failing, hook]

    async def run(generation: int, values: dict[str, str]) -> tuple[int, int, int]:
        path.write_text(json.dumps({"generation": generation, "environment": values, "x": 1}))
        done = await reload.reload()
        return done.generation, done.applied, done.removed

    assert asyncio.run(run(1, {"SK_BOTH": "a", "SK_THEIRS": "b"})) == (1, 2, 0)
    assert asyncio.run(run(2, {"SK_BOTH": "c"})) == (2, 1, 1)
    assert (environment.get("SK_MINE"), environment.get("SK_BOTH")) == ("1", "c")
    assert "SK_THEIRS" not in environment.snapshot()
    assert asyncio.run(run(3, {})) == (3, 0, 1)
    assert "SK_BOTH" not in environment.snapshot()
    assert seen == ["a", "c", ""]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"environment": {"A": 1}}', '{"generation": "x"}', "\xff"),
    ],
)
def test_an_invalid_document_changes_nothing(
    environment: Environment, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "metadata"
    path.write_bytes(text.encode("latin-1"))
    before = environment.snapshot()

    with pytest.raises(Internal):
        asyncio.run(EnvironmentReload(environment, log(), path).reload())
    assert environment.snapshot() == before


def test_a_missing_document_is_not_found(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        asyncio.run(EnvironmentReload(environment, log(), tmp_path / "none").reload())


def test_a_reload_passes_over_odd_names_and_takes_null_for_none(
    environment: Environment, tmp_path: Path
) -> None:
    path = tmp_path / "metadata"
    reload = EnvironmentReload(environment, log(), path)
    odd = {"SK_GOOD": "1", "": "x", "A=B": "x", "SK_NUL": "a\0b"}
    path.write_text(json.dumps({"generation": 1, "environment": odd}))
    first = asyncio.run(reload.reload())
    good = environment.get("SK_GOOD")
    path.write_text(json.dumps({"generation": 2, "environment": None}))
    second = asyncio.run(reload.reload())

    assert ((first.applied, first.removed), good) == ((1, 0), "1")
    assert (second.generation, second.applied, second.removed) == (2, 0, 1)
    assert environment.get("SK_GOOD") == ""
