"""What E2B's wire says of a task that failed."""

from sandkeeper.errors import SandkeeperError, Task, Words

__all__ = ["sentence"]

BEGINNINGS: Words = {
    Task.OPEN_FILE: "error opening file: ",
    Task.STORE_FILE: "error writing binary file: ",
    Task.DELETE_FILE: "error deleting file: ",
    Task.DELETE_DIRECTORY: "error deleting directory: ",
    Task.START_PROCESS: "",
}


def sentence(error: SandkeeperError) -> str:
    """Return what the wire says of an error."""
    return error.said(BEGINNINGS)
