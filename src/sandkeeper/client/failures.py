"""What can go wrong on this side, with its exit status: a person sees one sentence."""

__all__ = [
    "ClientError",
    "NoServer",
    "NobodyReads",
    "NotAllowed",
    "Refused",
]


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
