"""What can go wrong on this side, with its exit status: a person sees one sentence.

A server that is away is no failure yet: who waits for it, how long, and what is said of that.
"""

import time
from collections.abc import Callable

__all__ = [
    "AGAIN_SECONDS",
    "Absence",
    "ClientError",
    "NoServer",
    "NobodyReads",
    "NotAllowed",
    "Refused",
    "is_absence",
]

AGAIN_SECONDS = 60.0
"""A server that has been away for longer is given up."""
AWAY = {502, 503, 504}
"""A server that starts or ends, or what stands before one that is not there."""
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)


class ClientError(Exception):
    """Base of all; `str()` is the sentence, `status` the exit status."""

    status = 1


class Refused(ClientError):
    """The server answered with an error; `code` is its HTTP status, `details` its whole answer."""

    def __init__(self, sentence: str, code: int, details: object = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.details = details


class NoServer(ClientError):
    """Nothing answers there, or something that is no server of this API.

    `code` is the HTTP status of an answer that nobody of this API gives; 0 without any.
    """

    status = 3

    def __init__(self, sentence: str, code: int = 0) -> None:
        super().__init__(sentence)
        self.code = code


class NobodyReads(Exception):
    """Standard output is a pipe that nobody reads any more."""


class NotAllowed(ClientError):
    """The token is missing or wrong, or opens less than this."""

    status = 4


def is_absence(error: ClientError) -> bool:
    """Say whether a failure is that nobody is there, and may be again in a moment."""
    if isinstance(error, NoServer):
        return error.code in {0, *AWAY}
    return isinstance(error, Refused) and error.code in AWAY


class Absence:
    """How long a server has been away: from the first failure to its next sign of life.

    `tell` is told once when it has gone, and when it is back.
    """

    def __init__(
        self, seconds: float | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self._seconds = AGAIN_SECONDS if seconds is None else seconds
        self._tell = tell
        self._since: float | None = None
        self._tries = 0

    def heard(self) -> None:
        """Take notice of a sign of life: what has left here, or only may have arrived, is none."""
        if self._since is not None and self._tell is not None:
            self._tell("connected again")
        self._since, self._tries = None, 0

    def bear(self, error: ClientError) -> float:
        """Return the seconds after which to ask again; raises what is no absence, or lasts."""
        if not is_absence(error):
            raise error
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._tell is not None:
                self._tell(f"{error}; trying again")
        elif now - self._since > self._seconds:
            raise error
        self._tries += 1
        return PAUSES[min(self._tries, len(PAUSES)) - 1]

    def wait(self, error: ClientError) -> None:
        """Wait a moment before one asks again; raises as `bear` does."""
        time.sleep(self.bear(error))  # noqa: TID251 - nothing tells when the server is back
