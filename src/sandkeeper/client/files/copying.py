"""`cp`: files and trees between here and the sandbox."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Annotated, Any, cast

import typer

from sandkeeper.client.completing import remote_paths
from sandkeeper.client.connection import Server
from sandkeeper.client.context import verb
from sandkeeper.client.failures import ClientError
from sandkeeper.client.files.paths import file_route, inside, is_inside, joined, name_of, stat_of
from sandkeeper.client.files.transfer import Moved, download, put_stream
from sandkeeper.client.files.unpacking import unpack
from sandkeeper.client.files.uploading import upload
from sandkeeper.client.output import progress, write_all

__all__: list[str] = []

PIECES = 16
PIECE_BYTES = 1 << 20
HEAD_BYTES = 1024
"""About what a tar has around an entry."""


@verb("cp", group="Files")
def cp(
    server: Server,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="`:path` is in the sandbox.", autocompletion=remote_paths
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="DST", help="`-`: standard input, output.", autocompletion=remote_paths
        ),
    ],
    *,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Copy files and folders into the sandbox, out of it, or within it, as `docker cp` does.

    Into DST when that is a folder, else as DST. A file from standard input or to standard output
    is `-`.
    """
    if is_inside(source) and is_inside(target):
        payload = {"source": inside(source), "destination": inside(target)}
        server.value("POST", "/filesystem-copy", payload)
        return
    if is_inside(source) == is_inside(target):
        raise ClientError("one of SRC and DST is in the sandbox, written :PATH")
    with progress(lambda: _length(server, source, target), quiet=quiet) as moved:
        if is_inside(target):
            _up(server, source, inside(target), moved)
        else:
            _down(server, inside(source), target, moved)


def _length(server: Server, source: str, target: str) -> int | None:
    """Return about how many bytes are to be copied; None where nobody knows before."""
    if is_inside(target):
        path = Path(source)
        if source == "-" or not path.exists():
            return None
        if not path.is_dir():
            return path.stat().st_size
        below = (Path(top) / name for top, _, names in os.walk(path) for name in names)
        return sum(HEAD_BYTES + one.lstat().st_size for one in below)
    found = server.value("GET", file_route("/filesystem-usage", inside(source)))
    heads = found["directories"] and HEAD_BYTES * (found["directories"] + found["files"])
    return int(found["apparent"]) + int(heads)


def _up(server: Server, source: str, target: str, moved: Moved) -> None:
    if source == "-":
        with open(0, "rb", closefd=False) as file:
            put_stream(server, target, file, moved)
        return
    path = Path(source)
    if not path.exists():
        raise ClientError(f"{source}: nothing is there")
    about = stat_of(server, target)
    into = about is not None and about["type"] == "directory"
    if target.endswith("/") and not into:
        raise ClientError(f"{target}: there is no such folder")
    content = source.endswith("/.") or source == "."
    place = joined(target, path.resolve().name) if into and not content else target
    if not path.is_dir():
        upload(server, path, place, moved)
        return
    if about is not None and not into:
        raise ClientError(f"{target}: it is no folder")
    server.ask("PUT", file_route("/filesystem-archive", place), body=_packed(path, moved))


def _packed(folder: Path, moved: Moved) -> Iterator[bytes]:
    """Pack what is in a folder as a tar stream, never more of it in memory than a few pieces."""
    pieces: Queue[bytes | Exception | None] = Queue(PIECES)

    class Pieces:
        def write(self, data: bytes) -> int:
            pieces.put(bytes(data))
            return len(data)

    def pack() -> None:
        try:
            with tarfile.open(
                fileobj=cast("Any", Pieces()),
                mode="w|",
                bufsize=PIECE_BYTES,
                format=tarfile.PAX_FORMAT,
            ) as archive:
                for entry in sorted(os.listdir(folder)):
                    archive.add(folder / entry, entry, filter=_plain)
            pieces.put(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            pieces.put(error)

    Thread(target=pack, daemon=True).start()
    while (piece := pieces.get()) is not None:
        if isinstance(piece, Exception):
            raise ClientError(f"{folder}: {getattr(piece, 'strerror', None) or piece}")
        yield piece
        moved(len(piece))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what is no file: sockets, FIFOs and devices belong to the machine they are on."""
    return member if member.isreg() or member.isdir() or member.issym() or member.islnk() else None


def _down(server: Server, source: str, target: str, moved: Moved) -> None:
    about = stat_of(server, source)
    if about is None:
        raise ClientError(f"{source}: nothing is there")
    folder = about["type"] == "directory"
    if target == "-":
        if folder:
            raise ClientError(f"{source} is a folder: standard output takes one file")
        _print(server, source, moved)
        return
    path = Path(target)
    if target.endswith("/") and not path.is_dir():
        raise ClientError(f"{target}: there is no such folder")
    content = source.endswith("/.") or source == "."
    place = path / name_of(about["path"]) if path.is_dir() and not content else path
    if not folder:
        # An answer's permissions are octal digits; set-user-ID bits are for the sandbox alone.
        download(server, source, place, int(about["permissions"], 8) & 0o777, moved)
        return
    if place.exists() and not place.is_dir():
        raise ClientError(f"{place}: it is no folder")
    place.mkdir(parents=True, exist_ok=True)
    with server.open("GET", file_route("/filesystem-archive", source)) as answer:
        unpack(_counted(answer.blocks(), moved), place)


def _counted(blocks: Iterator[bytes], moved: Moved) -> Iterator[bytes]:
    for block in blocks:
        moved(len(block))
        yield block


def _print(server: Server, source: str, moved: Moved) -> None:
    route = file_route("/filesystem", source)
    with server.open("GET", route, query={"download": "true"}) as answer:
        for block in answer.blocks():
            write_all(1, block)
            moved(len(block))
