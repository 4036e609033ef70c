"""A stand-in for kube-apiserver and agent-sandbox's controller: a peer that speaks their wires.

It keeps objects and a history of changes by resource version, and answers lists in pages, watches
from a version (with bookmarks; 410 where the history does not reach back), creations (409), merge
patches and deletions as the API server does. What the controller does with claims (a Sandbox from a
pool, its end at shutdownTime, suspension) happens here at once. The client that connects is the
real one. Where real binaries can be had, `scripts/fleet-cluster` has them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.later import Later

web = Later("aiohttp.web")

Object = dict[str, Any]

CLAIMS, SANDBOXES = "sandboxclaims", "sandboxes"
EXTENSIONS = "extensions.agents.x-k8s.io/v1beta1"


class ApiServer:
    """Serves on a thread of its own until `close`; `addresses` are those of Pods, in turn.

    With `ready` false claims wait for `settle`, and while it `is_late` watches tell nothing.
    `bookmarks` is how many seconds lie between two.
    """

    def __init__(self, addresses: tuple[str, ...] = ("127.0.0.1",), bookmarks: float = 0.2) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self.lists: list[str] = []
        self.asked: set[tuple[str, str]] = set()
        """Verbs of RBAC and what they were for."""
        self.ready = True
        self.broken = False
        self.is_late = False
        self.addresses = addresses
        self._bookmarks = bookmarks
        self._version = 1000
        self._made = 0
        self._compacted = 0
        self._history: list[tuple[int, str, str, Object]] = []
        self._news = asyncio.Event()
        self._watches: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self.run(self._start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, work: Callable[[], Any]) -> Any:
        """Call something on the server's loop."""

        async def called() -> Any:
            return work()

        return self.run(called())

    def close(self) -> None:
        """Stop serving."""
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def kubeconfig(self, path: Path) -> Path:
        """Write how to get here."""
        named = {"name": "it"}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{**named, "user": {"token": "of-the-fleet"}}],
                    "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        return path

    def put(self, plural: str, name: str, **fields: Any) -> None:
        """Make an object as somebody else would."""
        self.call(lambda: self._create(plural, {"metadata": {"name": name}, **fields}))

    def names(self, plural: str) -> list[str]:
        """Return what there is of a kind."""
        return self.call(lambda: sorted(self.objects.get(plural, {})))

    def forget(self) -> None:
        """Lose the history and end all watches: who goes on from before now gets 410."""

        def lose() -> None:
            self._history.clear()
            self._version += 1
            self._compacted = self._version
            self.cut()

        self.call(lose)

    def cut(self) -> None:
        """End all watches, on the server's loop."""
        for task in self._watches:
            task.cancel()

    # The server

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert self._runner.addresses
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        self.cut()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        at = parts.index("namespaces")
        plural, name = parts[at + 2], "".join(parts[at + 3 : at + 4])
        self.asked.add((_verb(request, name), plural))
        if request.headers.get("Authorization") != "Bearer of-the-fleet":
            return _status(401, "Unauthorized")
        if self.broken:
            return _status(503, "the server is starting")
        kept = self.objects.setdefault(plural, {})
        if request.method == "POST":
            body = await request.json()
            if body["metadata"]["name"] in kept:
                return _status(409, f"{plural} already exists")
            return web.json_response(self._create(plural, body), status=201)
        if not name:
            watched = request.query.get("watch") == "1"
            return await (self._watch if watched else self._list)(request, plural)
        if name not in kept:
            return _status(404, f'{plural} "{name}" not found')
        if request.method == "DELETE":
            self.delete(plural, name)
            return web.json_response({"kind": "Status", "status": "Success"})
        if request.method == "PATCH":
            assert request.content_type == "application/merge-patch+json"
            return web.json_response(self._patch(plural, name, await request.json()))
        return web.json_response(kept[name])

    async def _list(self, request: web.Request, plural: str) -> web.StreamResponse:
        self.lists.append(plural)
        limit = int(request.query.get("limit", "0"))
        after = request.query.get("continue", "")
        names = sorted(name for name in self.objects[plural] if name > after)
        names = [one for one in names if _fits(self.objects[plural][one], request)]
        found = names[:limit] if limit else names
        more = found[-1] if len(found) < len(names) else ""
        return web.json_response(
            {
                "metadata": {"resourceVersion": str(self._version), "continue": more},
                "items": [self.objects[plural][one] for one in found],
            }
        )

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._compacted:
            return _status(410, "too old resource version")
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        task = asyncio.ensure_future(self._tell(request, answer, plural, version))
        self._watches.add(task)
        await asyncio.wait([task], timeout=int(request.query["timeoutSeconds"]))
        task.cancel()
        self._watches.discard(task)
        return answer

    async def _tell(
        self, request: web.Request, answer: web.StreamResponse, plural: str, version: int
    ) -> None:
        while True:
            # Taken at once: what changes from here on is told in the next turn.
            changed, late = self._news, self.is_late
            news = [] if late else self._history[self._after(version) :]
            version = version if late else self._version
            for _number, kind, what, found in news:
                if kind == plural and _fits(found, request):
                    await answer.write(_line(what, found))
            try:
                async with asyncio.timeout(self._bookmarks):
                    await changed.wait()
            except TimeoutError:
                mark = {"metadata": {"resourceVersion": str(version)}}
                await answer.write(_line("BOOKMARK", mark))

    def _after(self, version: int) -> int:
        """Return where in the history what is later than a version begins; it has no holes."""
        return max(0, version - self._history[0][0] + 1) if self._history else 0

    # Objects

    def _create(self, plural: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        meta = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "managedFields": [{"manager": "somebody", "fieldsV1": {"f:spec": {}}}],
        }
        made = {**body, "metadata": {**body["metadata"], **meta}}
        self.objects.setdefault(plural, {})[name] = made
        self._changed(plural, "ADDED", made)
        if plural == CLAIMS:
            self._claimed(made)
        return copy.deepcopy(made)

    def _patch(self, plural: str, name: str, changes: Object) -> Object:
        kept = self.objects[plural]
        kept[name] = _merged(kept[name], changes)
        self._changed(plural, "MODIFIED", kept[name])
        patched = copy.deepcopy(kept[name])
        if plural == CLAIMS:
            self._arm(name)
        elif plural == SANDBOXES:
            self._operate(kept[name])
        return patched

    def delete(self, plural: str, name: str) -> None:
        found = self.objects[plural].pop(name)
        self._changed(plural, "DELETED", found)
        backing = found.get("status", {}).get("sandbox", {}).get("name", "")
        if plural == CLAIMS and backing in self.objects.get(SANDBOXES, {}):
            self.delete(SANDBOXES, backing)

    def _changed(self, plural: str, what: str, found: Object) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, plural, what, copy.deepcopy(found)))
        news, self._news = self._news, asyncio.Event()
        news.set()

    # The controller

    def _claimed(self, claim: Object) -> None:
        self._arm(claim["metadata"]["name"])
        if self.ready:
            self._loop.call_soon(self._adopt, claim["metadata"]["name"])

    def settle(self) -> None:
        """Have all claims that wait get their sandboxes, and those to come at once."""

        def adopt() -> None:
            self.ready = True
            for name, claim in list(self.objects.get(CLAIMS, {}).items()):
                if "status" not in claim:
                    self._adopt(name)

        self.call(adopt)

    def _adopt(self, name: str) -> None:
        claim = self.objects[CLAIMS].get(name)
        if claim is None:
            return
        self._made += 1
        backing = f"{claim['spec']['warmPoolRef']['name']}-{self._made:05}"
        address = self.addresses[(self._made - 1) % len(self.addresses)]
        spec = {"operatingMode": "Running"}
        owner = {"metadata": {"name": backing, "annotations": {"of": name, "at": address}}}
        self._create(SANDBOXES, {**owner, "spec": spec})
        self._patch(CLAIMS, name, _status_of(backing, address))

    def _operate(self, sandbox: Object) -> None:
        about = sandbox["metadata"]["annotations"]
        if about["of"] not in self.objects[CLAIMS]:
            return
        running = sandbox["spec"]["operatingMode"] == "Running"
        address = about["at"] if running else ""
        status = _status_of(sandbox["metadata"]["name"], address)
        self._loop.call_soon(self._patch, CLAIMS, about["of"], status)

    def _arm(self, name: str) -> None:
        ends = self.objects[CLAIMS][name]["spec"].get("lifecycle", {}).get("shutdownTime")
        if ends:
            left = datetime.fromisoformat(ends).timestamp() - datetime.now(UTC).timestamp()
            self._loop.call_later(max(0.0, left), self._expire, name, ends)

    def _expire(self, name: str, ends: str) -> None:
        claim = self.objects[CLAIMS].get(name)
        if claim and claim["spec"]["lifecycle"].get("shutdownTime") == ends:
            self.delete(CLAIMS, name)


def _status_of(backing: str, address: str) -> Object:
    ready = {"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": ""}
    if not address:
        ready |= {"status": "False", "reason": "SandboxSuspended"}
    sandbox = {"name": backing, "podIPs": [address] if address else None}
    return {"status": {"conditions": [ready], "sandbox": sandbox}}


def _merged(known: Any, changes: Any) -> Any:
    """Merge as RFC 7386 says."""
    if not isinstance(changes, dict):
        return changes
    made = dict(known) if isinstance(known, dict) else {}
    for name, value in changes.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = _merged(made.get(name), value)
    return made


def _fits(found: Object, request: web.Request) -> bool:
    label = request.query.get("labelSelector", "")
    return not label or label in found["metadata"].get("labels", {})


def _verb(request: web.Request, name: str) -> str:
    if request.method != "GET":
        return {"POST": "create"}.get(request.method, request.method.lower())
    if name:
        return "get"
    return "watch" if request.query.get("watch") == "1" else "list"


def _line(what: str, found: Object) -> bytes:
    return json.dumps({"type": what, "object": found}).encode() + b"\n"


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code)
