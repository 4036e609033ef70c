"""What can go wrong, as a tree of facts. No HTTP and no wire's sentences here.

An error is its class, the task that failed, and the reason: words, or what the system said of a
step. `api.edge.respond` maps each class to a status once; what a wire says of a task is a table in
the wire's folder (the contract's: `api.blaxel.sentences`).

SandkeeperError
├── BadInput              the request itself is wrong
│   └── NoDirectory       what is to be a directory is none
├── Forbidden             a rule or the operator does not allow it
│   └── Misdirected       it is for another server, and came here
├── NotFound              what it names does not exist
├── Conflict              it clashes with the present state
├── PreconditionFailed    the caller's If-Match / If-None-Match no longer holds
├── TooLarge              more than a stated limit
├── RangeNotSatisfiable   a byte range outside the file
├── Unprocessable         well-formed, but it could not be done
│   ├── StartFailed       a program could not be started
│   └── TooLargeToRead    a file has more than what is read as a whole
├── StorageFull           no space or quota left (ENOSPC, EDQUOT)
├── LoopDetected          it went through too many proxies, or came back to where it was
├── TooMany               more than a quota leaves at present
├── NotInstalled          a program, a package or an extra that it needs is not installed
├── Unavailable           not now; the same request may work later
└── Internal              a fault of ours or of the machine
"""

import errno
from collections.abc import Mapping
from enum import Enum, unique
from typing import NamedTuple

__all__ = [
    "BadInput",
    "Conflict",
    "Forbidden",
    "Internal",
    "LoopDetected",
    "Misdirected",
    "NoDirectory",
    "NotFound",
    "NotInstalled",
    "Obstacle",
    "PreconditionFailed",
    "RangeNotSatisfiable",
    "SandkeeperError",
    "StartFailed",
    "StorageFull",
    "Task",
    "TooLarge",
    "TooLargeToRead",
    "TooMany",
    "Unavailable",
    "Unprocessable",
    "Words",
    "failure",
    "reason_of",
]


@unique
class Task(Enum):
    """What was to be done; the value says in plain words that it failed, `{}` what it is about."""

    LIST_DIRECTORY = "failed to list directory"
    WALK_DIRECTORY = "failed to walk directory"
    CREATE_DIRECTORY = "failed to create directory"
    CREATE_ROOT = "failed to create root directory"
    CREATE_PARENT = "failed to create parent directory"
    DELETE_DIRECTORY = "failed to delete directory"
    PACK_DIRECTORY = "failed to read directory"
    UNPACK = "failed to unpack"
    OPEN_FILE = "failed to open file"
    READ_FILE = "failed to read file"
    WRITE_FILE = "failed to write file"
    STORE_FILE = "failed to store file"
    DELETE_FILE = "failed to delete file"
    COPY = "failed to copy {}"
    MOVE = "failed to move {}"
    CHANGE_ATTRIBUTES = "failed to change attributes"
    BEGIN_UPLOAD = "failed to begin upload"
    UPLOAD = "failed to upload"
    UPLOAD_PART = "failed to upload part"
    COMPLETE_UPLOAD = "failed to complete upload"
    ACCEPT_REQUEST = "invalid request"
    FIND_PROCESS = "process {}"
    SHOW_PROCESS = "record of process {}"
    READ_LOGS = "logs of process {}"
    START_PROCESS = "failed to start process"
    STOP_PROCESS = "failed to stop process {}"
    KILL_PROCESS = "failed to kill process {}"
    WRITE_STDIN = "failed to write to stdin"
    START_TERMINAL = "failed to start terminal"
    START_SHELL = "failed to start {}"
    SEARCH_CONTENT = "failed to search content"
    GREP = "failed to grep"
    ACCEPT_DRIVE = "invalid {}"
    ACCEPT_MOUNT_PATH = "invalid mount path"
    MOUNT_DRIVE = "failed to mount drive"
    UNMOUNT_DRIVE = "failed to unmount drive"
    ACCEPT_TUNNEL = "invalid tunnel config"
    APPLY_TUNNEL = "failed to apply tunnel config"
    STOP_TUNNEL = "failed to stop tunnel"


Words = Mapping[Task, str]
"""What a wire says in front of the reason why a task failed."""


class Obstacle(NamedTuple):
    """What the system said: of which step (open, mkdir, …), which path, errno, and its words."""

    step: str
    path: str
    errno: int
    words: str

    @classmethod
    def of(cls, step: str, path: str, error: OSError | ValueError) -> "Obstacle":
        """Return what an error says; the path is the error's own where it has one.

        A ValueError is Python's word for a NUL byte in a name, which the kernel calls EINVAL.
        """
        if not isinstance(error, OSError):
            return cls(step, path, errno.EINVAL, "invalid argument")
        where = error.filename if isinstance(error.filename, str) else path
        return cls(step, where, error.errno or 0, reason_of(error))

    def __str__(self) -> str:
        return f"{self.step} {self.path}: {self.words}"


def reason_of(error: Exception) -> str:
    """Return what the system says, in lower case and without a path; else the error's own text."""
    return (getattr(error, "strerror", None) or str(error)).lower()


class SandkeeperError(Exception):
    """Base of all; `str()` says it in plain words, `said` in those of a wire.

    `reason` is what stood in the way, `task` what failed by it, if anything more than the request
    itself, and `about` what that was about. `code` is an optional machine-readable word, `details`
    are further fields of the answer.
    """

    def __init__(
        self,
        reason: str | Obstacle,
        *,
        task: Task | None = None,
        about: str = "",
        code: str = "",
        **details: object,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.task = task
        self.about = about
        self.code = code
        self.details = details

    def said(self, words: Words) -> str:
        """Return the whole sentence; of a task that a wire has no words for, in plain ones."""
        if self.task is None:
            return str(self.reason)
        begin = words.get(self.task)
        if begin is None:
            begin = f"{self.task.value}: "
        return begin.format(self.about) + str(self.reason)

    def __str__(self) -> str:
        return self.said({})


class BadInput(SandkeeperError):
    """The request itself is wrong."""


class NoDirectory(BadInput):
    """What is to be a directory is none, or not there."""

    def __init__(self) -> None:
        super().__init__("path is not a directory")


class Forbidden(SandkeeperError):
    """A rule or the operator does not allow it."""


class Misdirected(Forbidden):
    """The request is for another server than this one."""


class NotFound(SandkeeperError):
    """What the request names does not exist."""


class Conflict(SandkeeperError):
    """The request clashes with the present state."""


class PreconditionFailed(SandkeeperError):
    """The caller's precondition no longer holds."""


class TooLarge(SandkeeperError):
    """More than a stated limit."""


class RangeNotSatisfiable(SandkeeperError):
    """A byte range outside the file."""


class Unprocessable(SandkeeperError):
    """Well-formed, but it could not be done."""


class StartFailed(Unprocessable):
    """A process could not be started, or started again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, task=Task.START_PROCESS)


class TooLargeToRead(Unprocessable):
    """A file has more than what is read as a whole."""


class StorageFull(SandkeeperError):
    """No space or quota is left (ENOSPC, EDQUOT)."""


class LoopDetected(SandkeeperError):
    """The request went through too many proxies, or came back to where it was."""


class TooMany(SandkeeperError):
    """More than a quota leaves at present; the same may work when something has ended."""


class NotInstalled(SandkeeperError):
    """A program, a package or an extra that this needs is not there; the text says which."""


class Unavailable(SandkeeperError):
    """Not now; the same request may work later."""


class Internal(SandkeeperError):
    """A fault of ours or of the machine."""


def failure(
    kind: type[SandkeeperError],
    task: Task | None,
    step: str,
    path: str,
    error: OSError | ValueError,
    *,
    about: str = "",
) -> SandkeeperError:
    """Make the error of class `kind` of what the system said; a full disk is always StorageFull."""
    reason = Obstacle.of(step, path, error)
    if reason.errno in {errno.ENOSPC, errno.EDQUOT}:
        kind = StorageFull
    return kind(reason, task=task, about=about)
