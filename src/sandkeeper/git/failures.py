"""Git's failures as errors of ours: told by its words (in English, `program.variables`)."""

import re

from sandkeeper.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    SandkeeperError,
    StorageFull,
    Unprocessable,
)

__all__ = ["failure_of"]

TOLD_CHARACTERS = 1000


_KINDS: tuple[tuple[str, type[SandkeeperError], str], ...] = (
    (r"not a git repository|must be run in a work tree", NotFound, "NOT_A_REPOSITORY"),
    (r"detected dubious ownership", Forbidden, "DUBIOUS_OWNERSHIP"),
    (
        r"Authentication failed|could not read (Username|Password)|Permission denied \(|"
        r"Invalid username or|HTTP Basic: Access denied|Host key verification failed|"
        r"The requested URL returned error: 40[13]|terminal prompts disabled",
        Forbidden,
        "AUTHENTICATION_FAILED",
    ),
    (
        r"repository '[^']*' not found|does not appear to be a git repository|"
        r"Repository not found|repository .* does not exist|No such remote",
        NotFound,
        "REMOTE_NOT_FOUND",
    ),
    (
        r"Could not resolve host|Failed to connect|Connection refused|Connection timed out|"
        r"Network is unreachable|unable to access|Could not read from remote repository",
        Unprocessable,
        "UNREACHABLE",
    ),
    (r"is not a valid branch name|is outside repository", BadInput, ""),
    (r"No space left on device|Disk quota exceeded", StorageFull, "NO_SPACE"),
    (
        r"already exists and is not an empty directory|A branch named .* already exists|"
        r"a branch named .* already exists",
        Conflict,
        "ALREADY_EXISTS",
    ),
    (r"Unable to create '[^']*\.lock': File exists|cannot lock ref", Conflict, "LOCKED"),
    (
        r"would be overwritten by|Please commit (or stash|your changes)|"
        r"You have unstaged changes|contains uncommitted changes",
        Conflict,
        "LOCAL_CHANGES",
    ),
    (
        r"you need to resolve your current index|Committing is not possible because you have "
        r"unmerged|Pulling is not possible because you have unmerged|You have not concluded|"
        r"is unmerged|Exiting because of an? unfinished|Exiting because of unfinished",
        Conflict,
        "UNFINISHED",
    ),
    (r"\[(remote )?rejected\]|non-fast-forward|failed to push some refs", Conflict, "REJECTED"),
    (
        r"Not possible to fast-forward|refusing to merge unrelated|"
        r"need to specify how to reconcile|divergent branches",
        Conflict,
        "DIVERGED",
    ),
    (r"the branch .* is not fully merged|is not fully merged", Conflict, "NOT_MERGED"),
    (r"[Cc]annot delete branch .*(checked out|used by worktree)", Conflict, "CURRENT_BRANCH"),
    (r"nothing to commit|no changes added to commit|nothing added to commit", Conflict, "NOTHING"),
    (
        r"Please tell me who you are|empty ident name|unable to auto-detect email",
        Unprocessable,
        "IDENTITY_UNKNOWN",
    ),
    (
        r"unknown revision|bad revision|did not match any file|Not a valid object name|"
        r"Remote branch .* not found|couldn't find remote ref|is not a commit|not a valid ref|"
        r"branch '[^']*' not found|invalid reference|src refspec .* does not match|"
        r"reference is not a tree|no such path|does not have any commits yet|"
        r"no such (branch|ref)|ambiguous argument",
        NotFound,
        "NO_SUCH_REF",
    ),
    (r"no tracking information|has no upstream branch|No configured push", Conflict, "NO_UPSTREAM"),
    (r"No remote repository specified|No such remote", NotFound, "REMOTE_NOT_FOUND"),
)
_TABLE = [(re.compile(pattern), kind, code) for pattern, kind, code in _KINDS]


def failure_of(action: str, told: str) -> SandkeeperError:
    """Return the error for what git said when it ended with one."""
    text = told.strip()
    shown = text
    if len(text) > 2 * TOLD_CHARACTERS:
        shown = f"{text[:TOLD_CHARACTERS]}\n…\n{text[-TOLD_CHARACTERS:]}"
    for pattern, kind, code in _TABLE:
        if pattern.search(text):
            return kind(f"git {action}: {shown}", code=code)
    return Unprocessable(
        f"git {action}: {shown or 'it failed and said nothing'}", code="GIT_FAILED"
    )
