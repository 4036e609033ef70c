"""Merging edits by rule: what fits is placed, what is ambiguous is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.codegen.providers.merge import merge
from sandkeeper.errors import Unprocessable

PYTHON = """import os

def a():
    return 1

def b():
    x = 2
    return x

def c():
    return 3
"""

SCRIPT = """function a() {
  one();
}

function b() {
  if (x) {
    two();
  }
}
"""


def test_a_changed_line_between_context_is_replaced() -> None:
    edit = "# ... existing code ...\ndef b():\n    x = 5\n    return x\n# ... existing code ...\n"

    assert merge(PYTHON, edit) == PYTHON.replace("x = 2", "x = 5")


def test_lines_added_after_context_keep_what_follows() -> None:
    edit = "import os\nimport sys\n# ... existing code ...\n"

    assert merge(PYTHON, edit) == PYTHON.replace("import os\n", "import os\nimport sys\n")


def test_lines_added_before_context_are_put_in_front_of_it() -> None:
    edit = "# ... existing code ...\nprint(1)\ndef c():\n# ... existing code ...\n"

    assert merge(PYTHON, edit) == PYTHON.replace("def c()", "print(1)\ndef c()")


def test_lines_that_share_nothing_are_appended_where_the_edit_ends() -> None:
    edit = "# ... existing code ...\ndef d():\n    return 4\n"

    assert merge(PYTHON, edit) == PYTHON + "def d():\n    return 4\n"


def test_a_bracket_closes_the_block_that_its_head_opens() -> None:
    edit = "// ... existing code ...\nfunction a() {\n  three();\n}\n// ... existing code ..."

    assert merge(SCRIPT, edit) == SCRIPT.replace("one()", "three()")


def test_old_lines_left_out_between_context_are_dropped() -> None:
    edit = "# ... existing code ...\ndef b():\n    return x\n# ... existing code ...\n"

    assert merge(PYTHON, edit) == PYTHON.replace("    x = 2\n", "")


def test_an_indented_marker_says_that_the_body_stays() -> None:
    edit = "# ... existing code ...\ndef b():\n    log()\n    # ... existing code ...\n"

    assert merge(PYTHON, edit) == PYTHON.replace("def b():\n", "def b():\n    log()\n")


def test_windows_line_ends_are_kept() -> None:
    edit = "# ... existing code ...\ndef b():\n    x = 5\n    return x\n# ... existing code ...\n"

    assert merge(PYTHON.replace("\n", "\r\n"), edit) == PYTHON.replace("x = 2", "x = 5").replace(
        "\n", "\r\n"
    )


def test_an_empty_file_takes_the_edit_as_it_is() -> None:
    assert merge("", "new\n") == "new\n"


@pytest.mark.parametrize(
    "marker",
    [
        "# ... existing code ...",
        "// ... existing code ...",
        "-- ... existing code ...",
        "/* ... existing code ... */",
        "<!-- ... existing code ... -->",
        "{/* ... existing code ... */}",
        "  ; ... existing code ...",
        "% … existing code …",
        "... existing code ...",
        "REM ... existing code ...",
        "# ... existing code unchanged ...",
    ],
)
def test_the_marker_may_stand_in_any_comment_style(marker: str) -> None:
    edit = f"{marker}\ndef b():\n    x = 5\n    return x\n{marker}\n"

    assert merge(PYTHON, edit) == PYTHON.replace("x = 2", "x = 5")


@pytest.mark.parametrize(
    ("original", "edit"),
    [
        (PYTHON, "def b():\n    return 9\n"),
        (PYTHON, "def b():\n    return 9\n# ... existing code ...\n"),
        (PYTHON, "# ... existing code ...\ndef b():\n    return 9\n# ... existing code ...\n"),
        (PYTHON, "# ... existing code ...\nz = 1\n# ... existing code ...\n"),
        (PYTHON, "# ... existing code ...\nimport os\n    return 3\n# ... existing code ...\n"),
        ("x\ny\nx\nz\n", "# ... existing code ...\nx\nnew\n# ... existing code ...\n"),
        (
            "import x\n\nf {\n  a\n}\n",
            "# ... existing code ...\nimport x\ng {\n}\n# ... existing code ...",
        ),
        (PYTHON, "# ... existing code ...\ndef a():\n    return 7\n"),
        ("", "# ... existing code ...\nx\n"),
    ],
)
def test_an_ambiguous_edit_is_refused(original: str, edit: str) -> None:
    with pytest.raises(Unprocessable):
        merge(original, edit)


line = st.sampled_from(["a", "b", "  a", "  }", "}", "", "c = 1", "# ... existing code ..."])


@given(st.lists(line, max_size=30), st.lists(line, max_size=12))
def test_any_edit_is_merged_or_refused(original: list[str], edit: list[str]) -> None:
    try:
        merged = merge("\n".join(original), "\n".join(edit))
    except Unprocessable:
        return

    wanted = {text.rstrip() for text in edit} - {"# ... existing code ..."}
    assert wanted - {""} <= {text.rstrip() for text in merged.split("\n")}


@given(st.integers(2, 30), st.data())
def test_an_edit_made_of_unique_lines_of_the_file_changes_nothing(count: int, data) -> None:
    original = [f"line {number}" for number in range(count)]
    start = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(start + 1, count))
    edit = ["# ... existing code ...", *original[start:end], "# ... existing code ..."]

    assert merge("\n".join(original), "\n".join(edit)) == "\n".join(original)


@pytest.mark.parametrize("pad", [" ", ".", "…", " .", "\t#"])
def test_a_marker_of_any_length_is_read_at_once(pad: str) -> None:
    """Backtracking would take hours, under the interpreter's lock."""

    def edited(count: int) -> str:
        return merge(PYTHON, f"# ... existing code ...{pad * count}x\ndef d():\n    return 4\n")

    assert edited(200_000) == edited(1)


def test_files_and_edits_of_very_many_lines_are_refused() -> None:
    with pytest.raises(Unprocessable, match="lines"):
        merge("\n" * 1_000_001 + "a", "... existing code ...\na")
    with pytest.raises(Unprocessable, match="fragments"):
        merge("a\n" * 500_000, "... existing code ...\nb\n" * 200)
