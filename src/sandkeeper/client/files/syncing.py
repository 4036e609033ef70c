"""`sync`: what differs in a folder here goes into one of the sandbox, once or as it changes.

Both trees are listed and compared by kind, size, time, permissions and what links say. What
differs goes as one tar stream, of which the server puts each file in place as a whole when it is
there; so whatever breaks off, the next comparison shows what is left to do.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from sandkeeper.blocks import gathered
from sandkeeper.client.completing import remote_paths
from sandkeeper.client.connection import Server
from sandkeeper.client.context import AsJson, verb
from sandkeeper.client.failures import Absence, ClientError, Refused
from sandkeeper.client.files.packing import SENT_BYTES, Packing
from sandkeeper.client.files.paths import file_route, inside, is_inside, joined
from sandkeeper.client.files.trees import FOLDER, Item, LocalTree, comparable, remote_items
from sandkeeper.client.output import complain, print_json, say, size

__all__: list[str] = []

LARGE_BYTES = 1 << 20
"""Of a file that is longer only the permissions are sent where nothing else differs."""
ROUNDS = 3
"""What changes while it is sent is sent again, so often."""
NOTHING_THERE = 404


@verb("sync", group="Files")
def sync(
    server: Server,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder here.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar=":DIR", help="A folder of the sandbox.", autocompletion=remote_paths
        ),
    ],
    *,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on as files change.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete there what is not here.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--no-ignore", help="Also what .gitignore leaves out, and .git.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Only say what would be done.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Name each path.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make a folder of the sandbox like one here: only what differs is sent.

    Neither sent nor deleted is what `.gitignore` files leave out, and `.git`.
    """
    if not is_inside(target):
        raise ClientError(f"the folder of the sandbox is written :PATH, not {target!r}")
    if not source.is_dir():
        raise ClientError(f"{source}: it is no folder")
    if watch and dry_run:
        raise ClientError("--watch does not go with --dry-run")
    local = LocalTree(source, everything=everything, tell=complain)
    one = _Sync(server, local, inside(target), delete=delete, dry_run=dry_run, verbose=verbose)
    if watch:
        _watch(one, local, as_json=as_json)
        return 0
    _print(one.run(), as_json=as_json, dry_run=dry_run)
    return 1 if local.failed or one.failed else 0


def _watch(one: "_Sync", local: LocalTree, *, as_json: bool) -> None:
    """Go on until somebody ends it; what comes while things are sent is seen in the next round."""
    from sandkeeper.client.files.noticing import Notices

    with Notices(local.root) as changes:
        changes.watch(local.look())
        _print(one.run(), as_json=as_json)
        while True:
            changes.wait()
            while changes.watch(local.look()):
                pass  # a new folder may hold what came before it was watched
            done = one.run_again()
            if done.count:
                _print(done, as_json=as_json)


def _print(done: "SyncDone", *, as_json: bool, dry_run: bool = False) -> None:
    if as_json:
        print_json(
            {
                "sent": done.sent,
                "sentBytes": done.sent_bytes,
                "deleted": done.deleted,
                "unchanged": done.unchanged,
            },
            on_a_line=True,
        )
        return
    would = "would be " if dry_run else ""
    say(
        f"{done.sent} {would}sent ({size(done.sent_bytes)}), {done.deleted} {would}deleted, "
        f"{done.unchanged} unchanged"
    )


@dataclass
class SyncDone:
    """What was done in a round; folders and links count as files do."""

    sent: int = 0
    sent_bytes: int = 0
    deleted: int = 0
    unchanged: int = 0

    @property
    def count(self) -> int:
        """How many entries were touched."""
        return self.sent + self.deleted


@dataclass
class SyncPlan:
    """What differs: to be deleted first, to be packed, and of what only the permissions are set."""

    delete: list[str] = field(default_factory=list)
    send: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    unchanged: int = 0


class _Sync:
    """One pair of folders; `failed` says that something was left undone.

    A name there that is no UTF-8 comes with U+FFFD in it, so it can be compared but not deleted.
    """

    def __init__(
        self,
        server: Server,
        local: LocalTree,
        target: str,
        *,
        delete: bool,
        dry_run: bool,
        verbose: bool,
    ) -> None:
        self._server = server
        self._local = local
        self._target = target
        self._delete = delete
        self._dry_run = dry_run
        self._verbose = verbose
        self._there: dict[str, Item] | None = None
        self._unreadable: set[str] = set()
        self.failed = False

    def run(self) -> SyncDone:
        """Compare with what is there now, and make it the same."""
        self._there = None
        return self.run_again()

    def run_again(self) -> SyncDone:
        """The same, with what is known to be there; a server that is away is waited for."""
        done, absence = SyncDone(), Absence(tell=complain)
        self.failed = False
        self._unreadable = set()
        while True:
            before = done.count
            try:
                self._round(done)
                return done
            except ClientError as error:
                self._there = None  # what was sent last may have arrived
                if done.count > before:
                    absence.heard()
                absence.wait(error)

    def _round(self, done: SyncDone) -> None:
        for number in range(ROUNDS):
            here, self._there = self._both()
            plan = self._plan(here, self._there)
            if number == 0:
                done.unchanged = plan.unchanged
            if not (plan.delete or plan.send or plan.modes):
                return
            self._carry_out(plan, here, done)
            if self._dry_run:
                return

    def _both(self) -> tuple[dict[str, Item], dict[str, Item]]:
        """Look at both sides, at the same time where the other one is not known."""
        if self._there is not None:
            return self._local.look(), self._there
        with ThreadPoolExecutor(1) as beside:
            there = beside.submit(remote_items, self._server, self._target)
            return self._local.look(), there.result()

    def _plan(self, here: Mapping[str, Item], there: Mapping[str, Item]) -> SyncPlan:
        plan = SyncPlan()
        known = set()
        for path, item in here.items():
            name = comparable(path)
            known.add(name)
            if path in self._unreadable:
                continue
            other = there.get(name)
            if other is not None and item.is_same(other) and item.is_alike(other):
                plan.unchanged += 1
            elif other is not None and item.is_same(other) and self._is_dear(item):
                plan.modes.append(path)
            else:
                if other is not None and (item.kind == FOLDER) != (other.kind == FOLDER):
                    self._replaced(name, other, plan)
                plan.send.append(path)
        if self._delete:
            plan.delete += self._strangers(there, known)
        plan.delete = _topmost(plan.delete)
        return plan

    def _is_dear(self, item: Item) -> bool:
        return item.kind == FOLDER or item.size >= LARGE_BYTES

    def _replaced(self, path: str, other: Item, plan: SyncPlan) -> None:
        if other.kind == FOLDER and not self._delete:
            raise ClientError(f"{path}: a folder is there, and none here: --delete replaces it")
        plan.delete.append(path)

    def _strangers(self, there: Mapping[str, Item], known: set[str]) -> list[str]:
        """Return what is there and not here; folders that hold something to be kept are kept."""
        hides = self._local.ignored.hides
        kept: set[str] = set()
        found: list[str] = []
        for path in sorted(there, reverse=True):  # what is in a folder comes before it
            if path in known:
                continue
            strange = "\ufffd" in path  # who can say what it is called?
            self.failed = self.failed or strange
            if strange or path in kept or hides(path, folder=there[path].kind == FOLDER):
                kept.add(path.rpartition("/")[0])
            else:
                found.append(path)
        return found

    def _carry_out(self, plan: SyncPlan, here: Mapping[str, Item], done: SyncDone) -> None:
        assert self._there is not None
        for path in plan.delete:
            self._name("deleted", path)
            if not self._dry_run:
                self._remove(path)
            gone = [one for one in self._there if one == path or one.startswith(f"{path}/")]
            done.deleted += len(gone)
            if not self._dry_run:
                for one in gone:
                    del self._there[one]
        for path in plan.modes:
            self._name("sent", path)
            if not self._dry_run:
                self._chmod(path, here[path])
            done.sent += 1
        self._send(plan.send, here, done)

    def _remove(self, path: str) -> None:
        route = file_route("/filesystem", joined(self._target, path))
        try:
            self._server.ask("DELETE", route, query={"recursive": "true"})
        except Refused as error:
            if error.code != NOTHING_THERE:
                raise

    def _chmod(self, path: str, item: Item) -> None:
        assert self._there is not None
        route = file_route("/filesystem-attributes", joined(self._target, path))
        self._server.value("PUT", route, {"permissions": f"{item.mode:o}"})
        self._there[comparable(path)] = item

    def _send(self, paths: list[str], here: Mapping[str, Item], done: SyncDone) -> None:
        assert self._there is not None
        if not paths:
            return
        for path in paths:
            self._name("sent", path)
        if self._dry_run:
            done.sent += len(paths)
            done.sent_bytes += sum(here[path].size for path in paths)
            return
        packing = Packing(self._local.root)
        route = file_route("/filesystem-archive", self._target)
        try:
            self._server.ask("PUT", route, body=gathered(packing.blocks(paths), SENT_BYTES))
        finally:
            self._unreadable |= packing.unreadable
            self.failed = self.failed or bool(packing.unreadable)
        done.sent += len(packing.sent)
        done.sent_bytes += sum(item.size for item in packing.sent.values())
        self._there |= {comparable(path): item for path, item in packing.sent.items()}

    def _name(self, what: str, path: str) -> None:
        if self._verbose:
            say(f"{what} {path}")


def _topmost(paths: list[str]) -> list[str]:
    """Leave out what goes with a folder above it."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda one: one.split("/")):
        if not found or not path.startswith(f"{found[-1]}/"):
            found.append(path)
    return found
