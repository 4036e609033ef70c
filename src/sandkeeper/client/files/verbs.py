"""Verbs about files in the sandbox, but for those that carry whole files (`transfer`)."""

import glob
import json
import stat
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from sandkeeper.client.completing import paths, paths_or_processes
from sandkeeper.client.connection import Query, Server
from sandkeeper.client.context import AsJson, verb
from sandkeeper.client.failures import Absence, ClientError, NoServer, Refused
from sandkeeper.client.files.paths import (
    absolute,
    file_route,
    inside,
    is_inside,
    joined,
    stat_of,
)
from sandkeeper.client.output import Column, complain, print_json, print_table, say, size, write_all
from sandkeeper.client.processes import each, remove

__all__: list[str] = []

GROUP = "Files"
DOWNLOAD = {"download": "true"}
COLUMNS = [
    Column("MODE", spare=2),
    Column("OWNER", spare=3),
    Column("SIZE", right=True),
    Column("CHANGED", spare=1),
    Column("NAME"),
]
TREE_MOST = 1_000_000
GO_LINK = 1 << 27

Where = Annotated[
    str,
    typer.Argument(metavar="[PATH]", help="A path in the sandbox.", autocompletion=paths),
]
Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Paths in the sandbox.", autocompletion=paths),
]
Long = Annotated[bool, typer.Option("-l", help="With modes, owners, sizes and times.")]


@verb("ls", group=GROUP)
def ls(
    server: Server,
    path: Where = ".",
    *,
    long: Long = False,
    hidden: Annotated[bool, typer.Option("-a", "--all", help="Names with a dot, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a folder."""
    folder = inside(path)
    about = stat_of(server, folder)
    if about is None:
        raise ClientError(f"{folder}: nothing is there")
    if about["type"] != "directory":
        entries = [{**about, "kind": "file"}]
    else:
        entries = [
            one
            for one in _entries(server.value("GET", file_route("/filesystem", folder)))
            if hidden or not one["name"].startswith(".")
        ]
    if as_json:
        print_json(entries)
    elif long:
        print_table(COLUMNS, [_row(server, folder, one) for one in entries])
    else:
        for one in entries:
            say(one["name"] + ("/" if one["kind"] == "directory" else ""))


def _entries(listing: dict[str, Any]) -> list[dict[str, Any]]:
    found = [{**one, "kind": "directory"} for one in listing["subdirectories"]]
    found += [{**one, "kind": "file"} for one in listing["files"]]
    return sorted(found, key=lambda one: str(one["name"]))


def _row(server: Server, folder: str, entry: dict[str, Any]) -> list[str]:
    if "permissions" not in entry:
        entry = {**entry, **(stat_of(server, joined(folder, entry["name"])) or {})}
    return [
        _mode(entry),
        str(entry.get("owner", "?")),
        size(entry.get("size")),
        str(entry.get("lastModified", ""))[:19].replace("T", " "),
        entry["name"] + ("/" if entry["kind"] == "directory" else ""),
    ]


def _mode(entry: dict[str, Any]) -> str:
    """Write a mode as ls does; the API has Go's bits, in which links are marked by 1 << 27."""
    bits = int(str(entry.get("permissions", "0")), 8)
    kind = stat.S_IFLNK if bits & GO_LINK else stat.S_IFREG
    if entry["kind"] == "directory":
        kind = stat.S_IFDIR
    return stat.filemode(kind | bits & 0o777)


@verb("cat", group=GROUP)
def cat(server: Server, paths: Paths) -> int:
    """Print files, byte for byte."""

    def one(path: str) -> None:
        with server.open("GET", file_route("/filesystem", inside(path)), query=DOWNLOAD) as answer:
            for block in answer.blocks():
                write_all(1, block)

    return each(paths, one)


@verb("mkdir", group=GROUP)
def mkdir(server: Server, paths: Paths) -> int:
    """Make folders, and those above them."""
    return each(
        paths,
        lambda one: server.value(
            "PUT", file_route("/filesystem", inside(one)), {"isDirectory": True}
        ),
    )


@verb("mv", group=GROUP)
def mv(
    server: Server,
    source: Annotated[str, typer.Argument(metavar="SRC", autocompletion=paths)],
    target: Annotated[str, typer.Argument(metavar="DST", autocompletion=paths)],
    *,
    keep: Annotated[
        bool, typer.Option("-n", "--no-clobber", help="Fail when something is there.")
    ] = False,
) -> None:
    """Move or rename a file or folder; into DST when that is a folder."""
    payload = {"source": inside(source), "destination": inside(target), "noOverwrite": keep}
    server.value("POST", "/filesystem-move", payload)


@verb("rm", group=GROUP)
def rm(
    server: Server,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar=":PATH|ID...", help="Paths have a colon.", autocompletion=paths_or_processes
        ),
    ],
    *,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Folders, too.")] = False,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Nothing there is fine; kill first.")
    ] = False,
) -> int:
    """Remove files (`:PATH`), or processes that are over, with their output (`ID`)."""

    def one(target: str) -> None:
        if not is_inside(target):
            try:
                remove(server, target, force=force)
            except Refused as error:
                if error.code != 404 or "/" not in target:
                    raise
                raise Refused(f"{error}; a path is written :{target}", 404) from None
            return
        if target == ":":
            raise Refused("what is removed is written :PATH", 400)
        query = {"recursive": "true"} if recursive else None
        try:
            server.value("DELETE", file_route("/filesystem", inside(target)), query=query)
        except Refused as error:
            if not force or error.code != 404:
                raise

    return each(targets, one)


@verb("find", group=GROUP)
def find(
    server: Server,
    folder: Where = ".",
    *,
    name: Annotated[list[str], typer.Option(help="A glob on names.")] = [],  # noqa: B006
    kind: Annotated[str, typer.Option("--type", metavar="f|d", help="Files, or folders.")] = "f",
    hidden: Annotated[bool, typer.Option("-a", "--all", help="Names with a dot, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is below a folder."""
    query = {
        "type": {"f": "file", "d": "directory"}.get(kind, kind),
        "patterns": ",".join(name) or None,
        "excludeDirs": ",",
        "excludeHidden": "false" if hidden else None,
        "maxResults": 0,
    }
    _matches(server, "/filesystem-find", folder, query, as_json, lambda one: str(one["path"]))


@verb("grep", group=GROUP)
def grep(
    server: Server,
    text: str,
    folder: Where = ".",
    *,
    ignore_case: Annotated[bool, typer.Option("-i", "--ignore-case")] = False,
    name: Annotated[str, typer.Option("--include", help="A glob on names.")] = "",
    context: Annotated[int, typer.Option("-C", "--context", min=0, max=20)] = 0,
    as_json: AsJson = False,
) -> int:
    """Search a text in a file, or in those below a folder; 1 when there is none."""
    about = stat_of(server, inside(folder))
    only = ""
    if about is not None and about["type"] == "file":
        above, _, only = absolute(server, inside(folder)).rpartition("/")
        folder, name = above or "/", glob.escape(only)  # the route takes folders alone
    query = {
        "query": text,
        "caseSensitive": "false" if ignore_case else "true",
        "filePattern": name or None,
        "contextLines": context or None,
        "maxResults": 0,
        "recursive": "false" if only else None,
    }

    def line(one: dict[str, Any]) -> str:
        return f"{one['path']}:{one['line']}:{one.get('context') or one['text']}"

    found = _matches(server, "/filesystem-content-search", folder, query, as_json, line, only)
    return 0 if found else 1


def _matches(
    server: Server,
    route: str,
    folder: str,
    query: dict[str, Any],
    as_json: bool,
    line: Callable[[dict[str, Any]], str],
    only: str = "",
) -> int:
    """Print what is found, of `only` that path where one is given; returns how many."""
    found = server.value("GET", file_route(route, inside(folder)), query=query)["matches"]
    matches = [one for one in found if only in {"", one["path"]}]
    if as_json:
        print_json(matches)
    else:
        for one in matches:
            for part in line(one).split("\n"):
                say(part)
    return len(matches)


@verb("tree", group=GROUP)
def tree(server: Server, folder: Where = ".", *, as_json: AsJson = False) -> None:
    """Draw a folder and all below it."""
    place = inside(folder)
    top = absolute(server, place)
    query: Query = {"recursive": "true", "maxFiles": TREE_MOST}
    found = server.value("GET", file_route("/filesystem/tree", top), query=query)
    if as_json:
        print_json(found)
        return
    below: dict[str, list[tuple[str, bool]]] = {}
    for kind, directory in (("subdirectories", True), ("files", False)):
        for one in found[kind]:
            above, _, name = one["path"].rpartition("/")
            below.setdefault(above or "/", []).append((name, directory))
    say(place)
    for text in _branches(below, top.rstrip("/") or "/"):
        say(text)


def _branches(below: dict[str, list[tuple[str, bool]]], top: str) -> Iterator[str]:
    """Draw what is below; without recursion, for folders may lie deeper than a stack goes."""
    open_: list[tuple[str, str, list[tuple[str, bool]]]] = [
        (top, "", sorted(below.get(top, []), reverse=True))
    ]
    while open_:
        place, lead, entries = open_[-1]
        if not entries:
            open_.pop()
            continue
        name, directory = entries.pop()
        yield f"{lead}{'├── ' if entries else '└── '}{name}{'/' if directory else ''}"
        if directory:
            path = f"{place.rstrip('/')}/{name}"
            deeper = lead + ("│   " if entries else "    ")
            open_.append((path, deeper, sorted(below.get(path, []), reverse=True)))


@verb("du", group=GROUP)
def du(server: Server, path: Where = ".", *, as_json: AsJson = False) -> None:
    """Say how much a folder holds, and what is free."""
    usage = server.value("GET", file_route("/filesystem-usage", inside(path)))
    if as_json:
        print_json(usage)
        return
    say(
        f"{size(usage['disk'])} on disk, {size(usage['apparent'])} of content in "
        f"{usage['files']} files and {usage['directories']} folders; "
        f"{size(usage['filesystemFree'])} of {size(usage['filesystemSize'])} free"
    )


@verb("watch", group=GROUP)
def watch(
    server: Server,
    folder: Where = ".",
    *,
    flat: Annotated[bool, typer.Option("--flat", help="Only the folder itself.")] = False,
    ignore: Annotated[list[str], typer.Option(help="Leave out paths with this text.")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Tell what changes below a folder as it changes."""
    place = inside(folder).rstrip("/") or "/"
    route = file_route("/watch/filesystem", place) + ("" if flat else "/**")
    query = {"ignore": ",".join(ignore) or None}
    absence = Absence(tell=complain)
    while True:
        try:
            with server.open("GET", route, query=query) as answer:
                absence.heard()
                for line in answer.lines():
                    if line.startswith(b"{"):
                        _tell_change(json.loads(line), as_json=as_json)
            raise NoServer(f"{server.url}: what changes now is not seen")
        except ClientError as error:
            absence.wait(error)


def _tell_change(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(event, on_a_line=True)
    else:
        say(f"{event['op']:<10} {event['path'].rstrip('/')}/{event['name']}")


@verb("changes", group=GROUP)
def changes(
    server: Server,
    folder: Where = ".",
    *,
    cursor: Annotated[str, typer.Option("--since", help="Where the last answer ended.")] = "",
    as_json: AsJson = False,
) -> None:
    """Tell what has changed below a folder since a cursor, and the next cursor."""
    route = file_route("/filesystem-changes", inside(folder))
    found = server.value("GET", route, query={"since": cursor or None})
    if as_json:
        print_json(found)
        return
    if found["reset"] and cursor:
        complain("what happened before this cursor is not known any more")
    for sign, kind in (("A", "created"), ("M", "changed"), ("D", "deleted")):
        for name in found[kind]:
            say(f"{sign} {name}")
    say(f"cursor {found['cursor']}")
