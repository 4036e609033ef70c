"""`sandkeeper fleet` in front of a real cluster, and the published client of E2B."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from cluster import kwok
from daemons import wait
from e2b import Sandbox, SandboxQuery
from e2b.exceptions import NotFoundException, SandboxException, ServiceBusyException
from pools import Fleet
from replica import KEY, SECONDS, Replica, add_key

pytestmark = [
    # The published client leaves what it has of a kubectl to the interpreter.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CREATES = 50


@pytest.fixture(scope="module")
def replicas(fleet: Fleet, guarded: str) -> Iterator[list[Replica]]:
    """Two replicas of one fleet, and a key for its clients."""
    add_key(fleet)
    with ExitStack() as stack:
        made = []
        for name in ("replica-one", "replica-two"):
            made.append(Replica(fleet, name))
            stack.callback(made[-1].kill)
        yield made


def claims(fleet: Fleet, state: str = "") -> dict[str, Any]:
    """Return the fleet's claims by their names."""
    label = "fleet.sandkeeper.dev/team" if not state else f"fleet.sandkeeper.dev/state={state}"
    found = fleet.get("sandboxclaims", "-l", label)["items"]
    return {one["metadata"]["name"]: one for one in found}


def test_the_client_claims_runs_writes_watches_and_kills(
    fleet: Fleet, replicas: list[Replica]
) -> None:
    one, two = replicas
    box = Sandbox.create(timeout=300, metadata={"by": "fleet-test"}, **one.options)
    assert box.commands.run("echo out; echo err >&2").stdout == "out\n"
    box.files.make_dir("/workspace/seen")
    seen: list[Any] = []
    handle = box.files.watch_dir("/workspace/seen")
    box.files.write("/workspace/seen/a.txt", "hello")
    assert box.files.read("/workspace/seen/a.txt") == "hello"
    assert [entry.name for entry in box.files.list("/workspace/seen")] == ["a.txt"]

    def changed() -> bool:
        seen.extend(handle.get_new_events())
        return any(event.name == "a.txt" for event in seen)

    wait(changed, "the change of a file", 30)
    handle.stop()

    # The other replica knows it, though it was never told.
    query = SandboxQuery(metadata={"by": "fleet-test"})
    listed = Sandbox.list(query=query, **two.options).next_items()
    assert [found.sandbox_id for found in listed] == [box.sandbox_id]
    again = Sandbox.connect(box.sandbox_id, **two.options)
    assert again.commands.run("cat /workspace/seen/a.txt").stdout == "hello"

    assert again.kill() is True
    wait(lambda: box.sandbox_id not in claims(fleet), "the end of a claim", 60)
    with pytest.raises((NotFoundException, SandboxException)):
        Sandbox.connect(box.sandbox_id, **one.options)


def test_a_sandbox_whose_time_is_up_ends_while_nobody_looks(
    fleet: Fleet, replicas: list[Replica]
) -> None:
    """Its end is the cluster's, not a replica's: here none of them runs."""
    alone = Replica(fleet, "replica-three")
    box = Sandbox.create(timeout=5, **alone.options)
    assert box.sandbox_id in claims(fleet)
    alone.kill()
    for one in replicas:
        one.process.send_signal(signal.SIGSTOP)
    try:
        wait(lambda: box.sandbox_id not in claims(fleet), "the end of a claim", 90)
    finally:
        for one in replicas:
            one.process.send_signal(signal.SIGCONT)


def test_a_stream_ends_with_its_pod_and_the_sandbox_answers_from_the_next_one(
    fleet: Fleet, replicas: list[Replica]
) -> None:
    box = Sandbox.create(timeout=600, **replicas[0].options)
    endless = "while true; do echo on; sleep 0.1; done"
    handle = box.commands.run(endless, background=True, timeout=0)
    pod = claims(fleet)[box.sandbox_id]["status"]["sandbox"]["name"]
    seen = 0
    with pytest.raises(Exception, match=r"."):  # however the client tells that it broke off
        for _ in handle:
            seen += 1
            if seen == 3:
                fleet.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    assert seen >= 3

    def answers() -> bool:
        try:
            return bool(box.commands.run("echo again").stdout == "again\n")
        except Exception:  # noqa: BLE001 - the same, for as long as there is no Pod
            return False

    wait(answers, "an answer of the Pod made anew", 120)
    box.kill()


def test_sandboxes_are_reached_and_listed_while_there_is_no_api_server(
    fleet: Fleet, replicas: list[Replica]
) -> None:
    one, two = replicas
    box = Sandbox.create(timeout=600, metadata={"by": "no-api"}, **one.options)
    query = SandboxQuery(metadata={"by": "no-api"})
    wait(lambda: Sandbox.list(query=query, **two.options).next_items(), "the other replica", 30)
    fleet.cluster.stop("kube-apiserver", signal.SIGKILL)
    try:
        for replica in replicas:
            listed = Sandbox.list(query=query, **replica.options).next_items()
            assert [found.sandbox_id for found in listed] == [box.sandbox_id]
            info = {"sandbox_id": box.sandbox_id}
            asked = {**info, "api_key": KEY, "api_url": replica.url}
            assert Sandbox.get_info(**asked).state.value == "running"
        assert box.commands.run("echo here").stdout == "here\n"
        with pytest.raises(ServiceBusyException, match="503"):
            Sandbox.create(timeout=600, **one.options)
    finally:
        fleet.cluster.again("kube-apiserver")
        wait(fleet.cluster.ready, "the API server, again")
    made = Sandbox.create(timeout=600, **two.options)
    assert made.commands.run("echo new").stdout == "new\n"
    for gone in (made, box):
        gone.kill()


def test_a_replica_killed_during_fifty_creations_leaves_nothing_over_and_nothing_double(
    fleet: Fleet, replicas: list[Replica], figures: Callable[[str, Any], None]
) -> None:
    kwok(fleet.cluster)
    container = "/spec/podTemplate/spec/containers/0"
    fleet.pool(
        "fake",
        20,
        {"op": "add", "path": "/spec/podTemplate/spec/nodeSelector", "value": {"type": "kwok"}},
        {
            "op": "add",
            "path": "/spec/podTemplate/spec/tolerations",
            "value": [{"key": "type", "operator": "Equal", "value": "kwok"}],
        },
        {"op": "remove", "path": f"{container}/startupProbe"},
    )
    fleet.filled("fake", 20)
    before = set(claims(fleet))
    doomed = Replica(fleet, "replica-doomed")
    survivor = replicas[0]
    told: list[str] = []
    lost: list[str] = []

    def create(number: int) -> None:
        replica = doomed if number % 2 else survivor
        try:
            made = Sandbox.create("fake", timeout=600, **replica.options)
        except Exception as error:  # noqa: BLE001 - however the client says that nobody answered
            assert replica is doomed, error
            lost.append(str(error))
            return
        told.append(made.sandbox_id)
        if len(told) == CREATES // 5:
            doomed.kill()

    with ThreadPoolExecutor(10) as workers:
        list(workers.map(create, range(CREATES)))
    doomed.kill()
    assert len(told) + len(lost) == CREATES
    assert len(lost) > 0
    assert len(set(told)) == len(told)

    # What was half made ends by itself; what is left is what somebody was told of, or may list.
    wait(lambda: not claims(fleet, "starting"), "the end of what was half made", 3 * SECONDS + 60)
    left = {name: one for name, one in claims(fleet).items() if name not in before}
    assert set(told) <= set(left)
    assert len(left) <= CREATES
    paginator = Sandbox.list(limit=100, **survivor.options)
    listed = set()
    while paginator.has_next:
        listed |= {one.sandbox_id for one in paginator.next_items()}
    assert set(left) <= listed
    backing = [one["status"]["sandbox"]["name"] for one in left.values()]
    assert len(set(backing)) == len(backing)
    counts = f"{len(told)}, {len(lost)}, {len(left)}"
    figures("50 creations, a replica killed: told, lost, left", counts)

    for name in left:
        Sandbox.kill(name, **survivor.options)
    wait(lambda: not set(left) & set(claims(fleet)), "the end of all claims", 120)

    def only_the_pool() -> bool:
        owned = [one["metadata"] for one in fleet.get("sandboxes.agents.x-k8s.io")["items"]]
        return not {one["name"] for one in owned} & set(backing)

    wait(only_the_pool, "the end of all sandboxes", 180)
    fleet.kubectl("delete", "sandboxwarmpool", "fake")
