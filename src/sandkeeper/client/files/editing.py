"""`edit`: a file of the sandbox in the person's own editor."""

import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sandkeeper.client.completing import paths
from sandkeeper.client.connection import Server
from sandkeeper.client.context import verb
from sandkeeper.client.failures import ClientError, Refused
from sandkeeper.client.files.paths import file_route, inside, name_of
from sandkeeper.client.files.transfer import put_bytes
from sandkeeper.client.output import is_terminal, say
from sandkeeper.client.variables import variable

__all__: list[str] = []


@verb("edit", group="Files")
def edit(
    server: Server, path: Annotated[str, typer.Argument(metavar="PATH", autocompletion=paths)]
) -> None:
    """Open a file in $EDITOR; what somebody else changed meanwhile is not overwritten."""
    place = inside(path)
    tag, before = _fetched(server, place)
    folder = Path(tempfile.mkdtemp(prefix="sandkeeper-"))
    copy = folder / (name_of(place) or "file")
    try:
        copy.write_bytes(before)
        _edited(copy)
        after = copy.read_bytes()
        if after == before:
            say("nothing was changed")
        else:
            put_bytes(server, place, after, {"If-Match": tag} if tag else {"If-None-Match": "*"})
    except BaseException as error:
        # Whatever happens, also an interrupt: what somebody has written is not thrown away.
        if not _differs(copy, before):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        changed = isinstance(error, Refused) and error.code == 412
        why = "it was changed meanwhile" if changed else str(error) or "interrupted"
        raise ClientError(f"{place}: {why}; your version is in {copy}") from None
    shutil.rmtree(folder, ignore_errors=True)


def _differs(copy: Path, before: bytes) -> bool:
    try:
        return copy.read_bytes() != before
    except OSError:
        return False


def _edited(copy: Path) -> None:
    editor = shlex.split(variable("VISUAL") or variable("EDITOR"))
    if not editor:
        if not (is_terminal(0) and is_terminal(1)):
            raise ClientError("there is no terminal for vi: $EDITOR names another editor")
        editor = ["vi"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the editor's while that runs
    try:
        status = subprocess.run(
            [*editor, str(copy)], check=False, preexec_fn=_take_interrupts
        ).returncode
    except OSError as error:
        raise ClientError(f"{editor[0]}: {str(error.strerror).lower()}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise ClientError(f"{editor[0]} ended with {status}; nothing was changed")


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _fetched(server: Server, place: str) -> tuple[str, bytes]:
    try:
        with server.open(
            "GET", file_route("/filesystem", place), query={"download": "true"}
        ) as answer:
            return answer.header("ETag"), answer.read()
    except Refused as error:
        if error.code == 404:
            return "", b""
        raise
