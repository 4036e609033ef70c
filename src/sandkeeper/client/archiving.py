"""`export` and `import`: what a sandbox changed, as a file here (docs/archive.md)."""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from sandkeeper.client.connection import Server
from sandkeeper.client.context import AsJson, verb
from sandkeeper.client.failures import Absence, ClientError, Refused
from sandkeeper.client.files.paths import file_route
from sandkeeper.client.files.transfer import Moved, fetch
from sandkeeper.client.files.uploading import upload
from sandkeeper.client.output import complain, print_json, progress, say, size, write_all

__all__: list[str] = []

GROUP = "Server"
CONTENT = "/archive/content"
EXPORT_SECONDS = 3 * 3600.0
PAUSE_SECONDS = 0.5
OTHER_ARCHIVE = 412
SIGNS = {"added": "A", "modified": "M", "deleted": "D"}


@verb("export", group=GROUP)
def export(
    server: Server,
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="Where to; `-` is standard output.")
    ] = "",
    *,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only list what would be in it.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Start again what ran, instead of leaving it frozen.")
    ] = False,
    exclude: Annotated[
        list[str], typer.Option("--exclude", metavar="PATH", help="Leave out what is there.")
    ] = [],  # noqa: B006
    compress: Annotated[bool, typer.Option("-z", "--zstd", help="Packed by zstd.")] = False,
    seconds: Annotated[
        int, typer.Option("-t", "--time", min=0, max=600, help="Grace for what runs.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Save what the sandbox changed on top of its image, with the list of its processes.

    They are stopped first. It is meant to go on elsewhere (`import`), so it stays frozen.
    """
    wanted: dict[str, Any] = {"excludes": exclude, "stopTimeoutSeconds": seconds}
    if dry_run:
        found = server.value(
            "POST", "/archive/export", {**wanted, "dryRun": True}, seconds=EXPORT_SECONDS
        )
        _list(found, as_json=as_json)
        return
    if not file:
        raise typer.BadParameter("where to? give FILE, or - for standard output")
    order = {**wanted, "download": True, "compression": "zstd" if compress else "none"}
    if file == "-":
        done = server.value("POST", "/archive/export", order, seconds=EXPORT_SECONDS)
        _fetch(server, lambda block: write_all(1, block), lambda _count: None)
    else:
        done = _saved(server, order, Path(file))
    if go_on:
        server.value("POST", "/archive/resume")
    else:
        server.value("DELETE", CONTENT)
    if file != "-" and as_json:
        print_json(done)
    elif file != "-":
        say(f"{file}: {size(done['size'])}, {_counted(done['manifest'])}")
    if not go_on:
        complain("the sandbox stays frozen, for it is meant to go on elsewhere (--go-on)")


def _list(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for one in found["changes"]:
        say(f"{SIGNS.get(one['kind'], one['kind'])} {one['path']}")
    say(f"{size(found['size'])}, {_counted(found['manifest'])}")


def _counted(manifest: dict[str, Any]) -> str:
    deleted = len(manifest["deleted"])
    return f"{manifest['added']} added, {manifest['modified']} modified, {deleted} deleted"


def _saved(server: Server, order: dict[str, Any], target: Path) -> Any:
    """Export to a file here, whole or not at all; nothing is stopped where it cannot be written."""
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            done = server.value("POST", "/archive/export", order, seconds=EXPORT_SECONDS)
            with progress(lambda: int(done["size"])) as moved:
                _fetch(server, file.write, moved)
        part.replace(target)
    except OSError as error:
        raise ClientError(
            f"{target}: {str(error.strerror).lower()}; sandkeeper thaw starts again what ran"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink()
    return done


def _fetch(server: Server, write: Callable[[bytes], object], moved: Moved) -> None:
    """Get the archive that is kept.

    A server that was started again keeps none: it has begun again what it had stopped.
    """
    fetch(server, CONTENT, write, moved, condition="If-Match")


@verb("thaw", group=GROUP)
def thaw(server: Server) -> None:
    """Lift the freeze that an export has left."""
    say(str(server.value("POST", "/archive/resume")["state"]))


@verb("import", group=GROUP)
def import_(
    server: Server,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` has saved.")],
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    seconds: Annotated[
        int, typer.Option("-t", "--time", min=0, max=600, help="Grace for what runs.")
    ] = 30,
) -> None:
    """Apply what another sandbox has changed, and start what ran there; what runs here is stopped.

    A large file goes on where an earlier try stopped.
    """
    if not file.is_file():
        raise ClientError(f"{file}: it is no file")
    if not yes and not typer.confirm(f"overwrite files of {server.url}, stop what runs?", err=True):
        raise ClientError("nothing was changed")
    place = _place(file)
    try:
        with progress(lambda: file.stat().st_size) as moved:
            upload(server, file, place, moved)
        payload = {"path": place, "stopTimeoutSeconds": seconds}
        server.value("POST", "/archive/import", payload, seconds=EXPORT_SECONDS)
        done = _applied(server)
    except Refused as error:
        raise ClientError(f"{file}: {error}") from None
    finally:
        with suppress(ClientError):
            server.ask("DELETE", file_route("/filesystem", place))
    if done.get("error"):
        raise ClientError(f"{file}: {done['error']}")
    say(f"{done['restored']} restored, {done['deleted']} deleted")


def _place(file: Path) -> str:
    """Return where the file lies in the sandbox: the same for the same file, to go on with it."""
    info = file.stat()
    told = f"{file.resolve()} {info.st_size} {info.st_mtime_ns}".encode("utf-8", "surrogateescape")
    return f"/tmp/sandkeeper-import-{hashlib.sha256(told).hexdigest()[:16]}-{os.getuid()}.tar"


def _applied(server: Server) -> dict[str, Any]:
    """Wait for the end of a restore; raises ClientError when the server knows of none any more."""
    absence = Absence()
    while True:
        try:
            found = server.value("GET", "/archive/status").get("restore")
        except ClientError as error:
            absence.wait(error)
            continue
        absence.heard()
        if found is None:
            raise ClientError("the server was started again meanwhile: it may be half done")
        if found.get("finishedAt"):
            return dict(found)
        time.sleep(PAUSE_SECONDS)  # noqa: TID251 - a restore tells its end to nobody
