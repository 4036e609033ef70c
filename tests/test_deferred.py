"""Modules and regular expressions that are made when they are used."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sandkeeper.deferred import UNUSED, defer
from sandkeeper.patterns import pattern

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return what writes the module `latecomer`, which notes in `came` that it was executed."""
    came = ModuleType("came")
    came.times = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "came", came)
    monkeypatch.syspath_prepend(tmp_path)

    def written(text: str) -> None:
        head = "import came\ncame.times += 1\n"
        (tmp_path / "latecomer.py").write_text(head + text)
        importlib.invalidate_caches()

    yield written
    sys.modules.pop("latecomer", None)


def times() -> int:
    """Return how often it was executed."""
    return int(sys.modules["came"].times)


def test_a_deferred_module_is_executed_once_when_a_name_of_it_is_asked_for(write: Write) -> None:
    write("def two(): return 2\n")
    defer("latecomer")

    import latecomer  # type: ignore[import-not-found]

    assert latecomer.__name__ == "latecomer"
    assert latecomer.__spec__ is not None
    assert not hasattr(latecomer, "__path__")
    assert times() == 0
    assert latecomer.two() == 2
    from latecomer import two

    assert two is latecomer.two
    assert times() == 1
    with pytest.raises(AttributeError, match="'latecomer' has no attribute 'three'"):
        _ = latecomer.three


def test_names_that_are_had_early_load_nothing(write: Write) -> None:
    write("name = 'whole'\n")
    defer("latecomer", system=lambda: "early")

    from latecomer import system

    assert system == "early"
    assert times() == 0


def test_who_asks_while_it_is_loaded_waits_and_it_may_ask_itself(write: Write) -> None:
    write(
        "import latecomer, threading\n"
        "asked = []\n"
        "other = threading.Thread(target=lambda: asked.append(latecomer.last))\n"
        "other.start()\n"
        "before = getattr(latecomer, 'last', 'nothing')\n"
        "last = 'all of it'\n"
    )
    defer("latecomer")
    latecomer = importlib.import_module("latecomer")

    assert latecomer.before == "nothing"
    latecomer.other.join(60)
    assert latecomer.asked == ["all of it"]
    assert times() == 1


def test_what_fails_when_it_is_loaded_fails_where_it_is_used_and_is_tried_again(
    write: Write,
) -> None:
    write("if came.times == 1: raise ImportError('not yet')\nname = 'there'\n")
    defer("latecomer")
    latecomer = importlib.import_module("latecomer")

    with pytest.raises(ImportError, match="not yet"):
        _ = latecomer.name
    assert latecomer.name == "there"


def test_what_is_loaded_or_cannot_be_found_is_left_as_it_is() -> None:
    defer("sys")
    defer("no_such_module_anywhere")

    assert sys.modules["sys"] is sys
    assert "no_such_module_anywhere" not in sys.modules


def test_all_that_are_unused_exist() -> None:
    """A misspelt one would never be seen."""
    assert [name for name in UNUSED if importlib.util.find_spec(name) is None] == []


def test_a_pattern_is_compiled_at_its_first_use() -> None:
    made = pattern(r"(\w)b", re.IGNORECASE)
    wrong = pattern(rb"(")

    found = made.fullmatch("aB")

    assert found is not None
    assert found[1] == "a"
    assert made.sub("-", "ab AB") == "- -"
    assert made.flags & re.IGNORECASE
    with pytest.raises(re.error):
        wrong.search(b"")
