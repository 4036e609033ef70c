"""How git is called: its words, its variables, and how it is told a credential.

- No prompt: git may ask nothing of a terminal, ssh neither (it has none: a session of its own), and
  an editor ends at once.
- The credential is in no argument, no variable and no file: it is a memory file that the shell
  before git opens as descriptor 9, for a helper that answers one origin alone (gitcredentials(7)).
  So neither a redirect nor a submodule of another host is told it, and nothing stores it.
- Paths are names, never patterns; what another repository is meant by is not inherited.
"""

import os
import re
from collections.abc import Mapping, Sequence

__all__ = ["command", "memory_file", "variables"]

CREDENTIAL_FD = 9
HELPER = f'!f() {{ test "$1" = get && cat /proc/self/fd/{CREDENTIAL_FD}; }}; f'
WITH_CREDENTIAL = f'exec "$@" {CREDENTIAL_FD}<&0 </dev/null'

_LOCAL = frozenset(
    {
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"),
        *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"),
        *("GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "PAGER", "GIT_ICASE_PATHSPECS"),
        *("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_REDACT_COOKIES"),
    }
)
_TRACES = re.compile(r"GIT_(TRACE|CURL_VERBOSE|DEBUG)")
OURS = {
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_MERGE_AUTOEDIT": "no",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_PROGRESS_DELAY": "0",
    "LANGUAGE": "en",
    "TERM": "dumb",
}
BATCH_SSH = "ssh -oBatchMode=yes"


def variables(
    inherited: Mapping[str, str], given: Mapping[str, str], *, asks: bool
) -> dict[str, str]:
    """Return git's variables. `asks`: programs of the workload's may be asked for a password."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in _LOCAL and not _TRACES.match(name)
    }
    made = {**kept, **OURS, **given}
    if not asks:
        made["GIT_ASKPASS"] = ""  # empty is none, and core.askPass does not count then
    return {"GIT_ASKPASS": "", **made}


def command(
    arguments: Sequence[str], config: Sequence[tuple[str, str]], origin: str, *, secret: bool
) -> list[str]:
    """Return the words of a call; with a `secret` its standard input is that of the helper."""
    words = ["git", "--no-pager"]
    for name, value in (("color.ui", "false"), ("advice.detachedHead", "false"), *config):
        words += ["-c", f"{name}={value}"]
    if secret:
        # An empty one forgets those before it, which would store what is not theirs.
        for name, value in ((f"credential.{origin}.helper", ""), ("credential.helper", "")):
            words += ["-c", f"{name}={value}"]
        words += ["-c", f"credential.{origin}.helper={HELPER}"]
        return ["sh", "-c", WITH_CREDENTIAL, "sh", *words, *arguments]
    return [*words, *arguments]


def memory_file(data: bytes) -> int:
    """Return a descriptor of a file in memory, at its beginning; raises OSError."""
    fd = os.memfd_create("git-input", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
