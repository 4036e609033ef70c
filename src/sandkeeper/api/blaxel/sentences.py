"""What the contract says of a task that failed: its sentences, word for word, in one place."""

from sandkeeper.errors import SandkeeperError, Task, TooLargeToRead, Words

__all__ = ["BEGINNINGS", "sentence"]

BEGINNINGS: Words = {
    Task.LIST_DIRECTORY: "error listing directory: ",
    Task.WALK_DIRECTORY: "error walking directory: ",
    Task.CREATE_DIRECTORY: "error creating directory: ",
    Task.CREATE_ROOT: "error creating root directory: ",
    Task.CREATE_PARENT: "error creating parent directory: ",
    Task.DELETE_DIRECTORY: "error deleting directory: ",
    Task.PACK_DIRECTORY: "error reading directory: ",
    Task.UNPACK: "error unpacking: ",
    Task.OPEN_FILE: "error opening file: ",
    Task.READ_FILE: "error reading file: ",
    Task.WRITE_FILE: "error writing file: ",
    Task.STORE_FILE: "error writing binary file: ",
    Task.DELETE_FILE: "error deleting file: ",
    Task.COPY: "error copying {}: ",
    Task.MOVE: "error moving {}: ",
    Task.CHANGE_ATTRIBUTES: "error changing attributes: ",
    Task.BEGIN_UPLOAD: "failed to initiate upload: ",
    Task.UPLOAD: "failed to upload: ",
    Task.UPLOAD_PART: "failed to upload part: ",
    Task.COMPLETE_UPLOAD: "failed to complete upload: ",
    Task.ACCEPT_REQUEST: "invalid request body: ",
    Task.FIND_PROCESS: "process with Identifier {} ",
    Task.SHOW_PROCESS: "process ",
    Task.READ_LOGS: "process with PID {} ",
    Task.START_PROCESS: "failed to start process: ",
    Task.STOP_PROCESS: "process with Identifier {} ",
    Task.KILL_PROCESS: "failed to kill process with Identifier {}: ",
    Task.WRITE_STDIN: "failed to write to stdin: ",
    Task.START_TERMINAL: "failed to start terminal: ",
    Task.START_SHELL: "failed to start {}: ",
    Task.SEARCH_CONTENT: "content search failed: ",
    Task.GREP: "grep search failed: ",
    Task.ACCEPT_DRIVE: "Invalid {}: ",
    Task.ACCEPT_MOUNT_PATH: "Invalid mount path: ",
    Task.MOUNT_DRIVE: "Failed to mount drive: ",
    Task.UNMOUNT_DRIVE: "Failed to unmount drive: ",
    Task.ACCEPT_TUNNEL: "invalid tunnel config: ",
    Task.APPLY_TUNNEL: "failed to apply tunnel config: ",
    Task.STOP_TUNNEL: "failed to stop tunnel: ",
}


def sentence(error: SandkeeperError) -> str:
    """Return what the contract says of an error."""
    text = error.said(BEGINNINGS)
    if isinstance(error, TooLargeToRead):
        return f"{text}; download it with Accept: application/octet-stream"
    return text
