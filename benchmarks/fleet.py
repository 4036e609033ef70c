"""`sandkeeper fleet` with many sandboxes: memory, pages of lists, what a route adds, creations.

The cluster is the tests' stand-in for kube-apiserver and agent-sandbox (`tests/apiserver.py`), in a
process of its own; the Pods are one real server. Run: `.venv/bin/python -m benchmarks.fleet`.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from tests.apiserver import ApiServer
from tests.fleet.conftest import ALICE, POD_TOKEN, Replica, add_key
from tests.harness import Server, resident, until

TEAM = "alice"


def cluster(count: int, pipe: Connection) -> None:
    """Serve a cluster with so many sandboxes; tells its port, and obeys `churn` and `end`."""
    api = ApiServer(bookmarks=1.0)
    api.put("sandboxtemplates", "python", spec={})
    api.put("sandboxwarmpools", "base", spec={"sandboxTemplateRef": {"name": "python"}})
    add_key(api, TEAM, ALICE)

    def claim(number: int) -> dict[str, object]:
        told = {"number": str(number), "owner": f"user-{number % 500}", "project": "benchmark"}
        return {
            "metadata": {
                "name": f"sf{number:018x}",
                "labels": {
                    "fleet.sandkeeper.dev/team": TEAM,
                    "fleet.sandkeeper.dev/state": "running",
                },
                "annotations": {"fleet.sandkeeper.dev/metadata": json.dumps(told)},
            },
            "spec": {
                "warmPoolRef": {"name": "base"},
                "lifecycle": {"shutdownTime": "2099-01-01T00:00:00Z"},
            },
        }

    def fill() -> None:
        for number in range(count):
            api._create("sandboxclaims", claim(number))

    api.call(fill)
    until(lambda: len(api.names("sandboxes")) >= count, every=0.5)
    pipe.send((api.port, str(api.kubeconfig(Path(tempfile.mkdtemp()) / "kubeconfig"))))
    while (order := pipe.recv()) != "end":
        number, seconds = order
        until_ = time.monotonic() + seconds
        at = 0
        while time.monotonic() < until_:
            name = f"sf{at % count:018x}"
            changes = {"metadata": {"annotations": {"touched": str(at)}}}
            api.call(lambda name=name, changes=changes: api._patch("sandboxclaims", name, changes))
            at += 1
            time.sleep(1 / number)
        pipe.send(at)
    api.close()


def timed(work: object, times: int) -> list[float]:
    """Return the sorted milliseconds of calls."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()  # type: ignore[operator]
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def told(name: str, found: list[float]) -> None:
    """Print what came out."""
    p99 = found[int(len(found) * 0.99)]
    print(f"{name}: p50 {statistics.median(found):.2f} ms, p99 {p99:.2f} ms", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=1000)
    options = parser.parse_args()
    os.environ["DISABLE_REQUEST_LOGGING"] = "true"
    ours, theirs = multiprocessing.Pipe()
    serving = multiprocessing.get_context("spawn").Process(
        target=cluster, args=(options.count, theirs)
    )
    serving.start()
    _, kubeconfig = ours.recv()
    folder = Path(tempfile.mkdtemp())
    (folder / "pod").mkdir()
    with Server(folder / "pod", env={"SANDKEEPER_TOKEN": POD_TOKEN}, cold=True) as pod:
        api_file = _File(kubeconfig)
        began = time.perf_counter()
        fleet = Replica(folder / "fleet", api_file, pod.port)  # type: ignore[arg-type]
        print(f"from its start to ready: {time.perf_counter() - began:.1f} s")
        print(f"memory: {resident(fleet.process.pid) / 1e6:.0f} MB", flush=True)
        lists(fleet, options.times)
        ours.send((100, options.times / 100))
        print("while 100 of them change each second:")
        lists(fleet, options.times // 4)
        routes(fleet, pod, options.times)
        print(f"changes: {ours.recv()}")
        print("at rest:")
        routes(fleet, pod, options.times)
        creations(fleet)
        print(f"memory: {resident(fleet.process.pid) / 1e6:.0f} MB")
        fleet.stop()
    ours.send("end")
    serving.join()


class _File:
    """A kubeconfig that is there already."""

    def __init__(self, path: str) -> None:
        self._path = path

    def kubeconfig(self, _path: Path) -> str:
        """Return it."""
        return self._path


def lists(fleet: Replica, times: int) -> None:
    """Measure pages."""
    get = fleet.client.get
    before = _cpu(fleet.process.pid)
    told("a page of 100", timed(lambda: get("/v2/sandboxes"), times))
    each = (_cpu(fleet.process.pid) - before) / times * 1000
    print(f"  {each:.2f} ms of CPU each")
    query = "/v2/sandboxes?metadata=owner%3Duser-7"
    told("those of one owner (20 of all)", timed(lambda: get(query), times // 4))
    query = "/v2/sandboxes?metadata=owner%3Dnobody"
    before = _cpu(fleet.process.pid)
    told("a filter that none fits", timed(lambda: get(query), times // 4))
    each = (_cpu(fleet.process.pid) - before) / (times // 4) * 1000
    print(f"  {each:.2f} ms of CPU each")


def routes(fleet: Replica, pod: Server, times: int) -> None:
    """Measure what the way through the fleet adds."""
    fields = {"E2b-Sandbox-Id": f"sf{3:018x}"}
    before = _cpu(fleet.process.pid)
    through = httpx.Client(base_url=fleet.url, headers=fields, trust_env=False, verify=False)
    straight = httpx.Client(base_url=pod.url, headers=fields, trust_env=False, verify=False)
    there, here = [], []
    for _ in range(times):
        there += timed(lambda: straight.get("/health"), 1)
        here += timed(lambda: through.get("/health"), 1)
    there.sort()
    here.sort()
    told("GET /health of a sandbox, straight", there)
    told("through the fleet", here)
    added = statistics.median(here) - statistics.median(there)
    late = here[int(times * 0.99)] - there[int(times * 0.99)]
    each = (_cpu(fleet.process.pid) - before) / times * 1000
    print(f"added: p50 {added:.2f} ms, p99 {late:.2f} ms; {each:.2f} ms of CPU", flush=True)


def creations(fleet: Replica, count: int = 500) -> None:
    """Measure creations, several at a time."""
    with ThreadPoolExecutor(20) as pool:
        began = time.perf_counter()
        cpu = _cpu(fleet.process.pid)
        list(pool.map(lambda _: fleet.create(), range(count)))
        seconds = time.perf_counter() - began
        cpu = _cpu(fleet.process.pid) - cpu
    each = cpu / count * 1000
    print(f"creations, 20 at once: {count / seconds:.0f} a second, {each:.1f} ms of CPU each")


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
