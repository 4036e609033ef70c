"""What can go wrong, as a tree. No HTTP here: `api.app` maps each class to a status once.

SandkeeperError
├── BadInput              the request itself is wrong
├── Forbidden             a rule or the operator does not allow it
│   └── Misdirected       it is for another server, and came here
├── NotFound              what it names does not exist
├── Conflict              it clashes with the present state
├── PreconditionFailed    the caller's If-Match / If-None-Match no longer holds
├── TooLarge              more than a stated limit
├── RangeNotSatisfiable   a byte range outside the file
├── Unprocessable         well-formed, but it could not be done
│   └── StartFailed       a program could not be started
├── StorageFull           no space or quota left (ENOSPC, EDQUOT)
├── LoopDetected          it went through too many proxies, or came back to where it was
├── TooMany               more than a quota leaves at present
├── NotInstalled          a program, a package or an extra that it needs is not installed
├── Unavailable           not now; the same request may work later
└── Internal              a fault of ours or of the machine
"""

__all__ = [
    "BadInput",
    "Conflict",
    "Forbidden",
    "Internal",
    "LoopDetected",
    "Misdirected",
    "NotFound",
    "NotInstalled",
    "PreconditionFailed",
    "RangeNotSatisfiable",
    "SandkeeperError",
    "StartFailed",
    "StorageFull",
    "TooLarge",
    "TooMany",
    "Unavailable",
    "Unprocessable",
]


class SandkeeperError(Exception):
    """Base of all; `str()` is the text a client sees, `code` an optional machine-readable word.

    `details` are further fields of the answer.
    """

    def __init__(self, message: str, *, code: str = "", **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class BadInput(SandkeeperError):
    """The request itself is wrong."""


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
    """A process could not be started, or started again; `why` says what stood in the way."""

    def __init__(self, why: str) -> None:
        super().__init__(f"failed to start process: {why}")
        self.why = why


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
