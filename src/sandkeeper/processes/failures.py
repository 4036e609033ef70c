"""What can go wrong with a start, as facts; what a client reads is made of them."""

from sandkeeper.errors import Unprocessable

__all__ = ["NoFolder", "StartFailed"]


class StartFailed(Unprocessable):
    """A process could not be started, or started again; `why` says what stood in the way."""

    def __init__(self, why: str) -> None:
        super().__init__(f"failed to start process: {why}")
        self.why = why


class NoFolder(StartFailed):
    """The working directory of a process is not there."""

    def __init__(self, folder: str, command: str) -> None:
        super().__init__(
            f"could not execute command '{command}' because folder '{folder}' does not exist"
        )
        self.folder = folder
