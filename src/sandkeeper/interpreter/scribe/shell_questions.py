"""What a kept shell can be asked: scripts that it runs in a copy of itself, and their answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["QUESTIONS", "ShellQuestion", "quoted"]

MATCHES = 1000
_WORD_BEFORE = re.compile(r"[^\s;|&<>()\"'`=]*\Z")
_BEGINS_COMMAND = re.compile(r"(?:^|[;|&({\n]|\b(?:do|then|else|time)\s)\s*\Z")
_NAME_BEFORE = re.compile(r"[\w./~+-]*\Z")
_NAME_BEHIND = re.compile(r"[\w./~+-]*")


@dataclass(frozen=True, slots=True)
class ShellQuestion:
    """`script` of some arguments is run, `read` makes the answer of what that wrote."""

    script: Callable[[dict[str, Any]], str]
    read: Callable[[bytes, dict[str, Any]], Any]


def quoted(text: str) -> str:
    """Return a text as one word of Bash, on one line."""
    inner = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{inner}'"


def _texts(answer: bytes) -> list[str]:
    return answer.decode("utf-8", "replace").split("\0")[:-1]


# Completion: commands at the beginning of one, variables behind a dollar sign, else files


def _before(arguments: dict[str, Any]) -> tuple[str, str]:
    """Return the word before the cursor, and what stands before that."""
    text = str(arguments["code"])[: int(arguments["cursor"])]
    found = _WORD_BEFORE.search(text)
    word = found[0] if found else ""
    return word, text[: len(text) - len(word)]


def _completion(arguments: dict[str, Any]) -> str:
    word, before = _before(arguments)
    if "$" in word:
        stem, sign, name = word.rpartition("$")
        brace = "{" if name.startswith("{") else ""
        kind, lead, word = "-v", f"{stem}{sign}{brace}", name.removeprefix("{")
    elif _BEGINS_COMMAND.search(before) and "/" not in word:
        kind, lead = "-c", ""
    else:
        kind, lead = "-f", ""
    folders = "  [[ -d $__sk_name ]] && __sk_name+=/\n" if kind == "-f" else ""
    return (
        f"builtin mapfile -t __sk_list < <(builtin compgen {kind} -- {quoted(word)} 2>/dev/null)\n"
        f'for __sk_name in "${{__sk_list[@]:0:{MATCHES}}}"; do\n'
        f"{folders}"
        f"  builtin printf '%s%s\\0' {quoted(lead)} \"$__sk_name\"\n"
        "done"
    )


def _completed(answer: bytes, arguments: dict[str, Any]) -> dict[str, Any]:
    word, before = _before(arguments)
    matches = sorted({one for one in _texts(answer) if "__sk_" not in one})
    found = [{"text": one, "type": ""} for one in matches]
    return {"matches": found, "start": len(before), "end": len(before) + len(word)}


# Inspection: what a name is


def _name_at(arguments: dict[str, Any]) -> str:
    text, cursor = str(arguments["code"]), int(arguments["cursor"])
    before, behind = _NAME_BEFORE.search(text[:cursor]), _NAME_BEHIND.match(text[cursor:])
    return (before[0] if before else "") + (behind[0] if behind else "")


def _inspection(arguments: dict[str, Any]) -> str:
    name = quoted(_name_at(arguments))
    wanted = f"builtin type -- {name}; builtin declare -p -- {name}"
    if arguments.get("detail"):
        wanted += f"; builtin help -- {name}"
    return f"{{ {wanted}; }} 2>/dev/null"


def _inspected(answer: bytes, _arguments: dict[str, Any]) -> dict[str, Any]:
    text = answer.decode("utf-8", "replace")
    return {"found": bool(text), "data": {"text/plain": text} if text else {}}


# Variables: those that cells have made


VARIABLES = """\
builtin declare -A __sk_seen
for __sk_name in "${__sk_known[@]}"; do __sk_seen[$__sk_name]=1; done
builtin mapfile -t __sk_list < <(builtin compgen -v)
for __sk_name in "${__sk_list[@]:0:1000}"; do
  [[ -n ${__sk_seen[$__sk_name]-} ]] || __sk_is_own "$__sk_name" && continue
  __sk_code=$(builtin declare -p "$__sk_name" 2>/dev/null) || continue
  builtin printf '%s\\0%s\\0' "$__sk_name" "${__sk_code:0:4000}"
  builtin declare -n __sk_one=$__sk_name
  builtin printf '%s\\0%s\\0' "${#__sk_one[@]}" "${__sk_one:0:1000}"
  builtin unset -n __sk_one
done
"""
KINDS = {"a": "array", "A": "associative array", "i": "integer", "n": "reference"}


def _variables(answer: bytes, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    texts = _texts(answer)
    found = []
    for name, declared, size, plain in zip(*(texts[at::4] for at in range(4)), strict=False):
        flags = declared.split(" ", 2)[1] if declared.startswith("declare -") else "--"
        kind = next((KINDS[flag] for flag in flags if flag in KINDS), "string")
        one: dict[str, Any] = {"name": name, "type": kind}
        if "array" in kind:
            one |= {"value": declared.partition("=")[2], "size": [int(size)]}
        else:
            one["value"] = plain
        found.append(one)
    return found


QUESTIONS = {
    "complete": ShellQuestion(_completion, _completed),
    "inspect": ShellQuestion(_inspection, _inspected),
    "variables": ShellQuestion(lambda _: VARIABLES, _variables),
}
