"""A fleet's control plane against a cluster: what is made, found, kept and ended, and by whom."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
from tests.apiserver import ApiServer
from tests.fleet.conftest import BOB, Replica, add_key
from tests.harness import until


def claim_of(api: ApiServer, name: str) -> dict:
    return api.call(lambda: json.loads(json.dumps(api.objects["sandboxclaims"][name])))


def test_a_sandbox_is_a_claim_from_its_creation_to_its_end(fleet: Replica, api: ApiServer) -> None:
    made = fleet.create(metadata={"a": "b c/d"}, timeout=100)
    name = made["sandboxID"]
    claim = claim_of(api, name)
    assert claim["spec"]["warmPoolRef"] == {"name": "base"}
    lifecycle = claim["spec"]["lifecycle"]
    assert lifecycle["shutdownPolicy"] == "Delete"
    left = datetime.fromisoformat(lifecycle["shutdownTime"]).timestamp() - time.time()
    assert 50 < left < 102
    assert "env" not in claim["spec"]  # it would force a cold start

    detail = fleet.client.get(f"/sandboxes/{name}").json()
    assert (detail["state"], detail["metadata"]) == ("running", {"a": "b c/d"})
    assert (detail["cpuCount"], detail["memoryMB"]) == (2, 2048)
    assert detail["domain"] == made["domain"] == "fleet.test"
    assert fleet.listed(metadata="a=b%20c%2Fd", state="running") == [name]
    assert fleet.listed(metadata="a=x") == fleet.listed(state="paused") == []
    assert fleet.listed(template="other") == []
    figures = fleet.client.get("/metrics").text
    assert 'sandkeeper_fleet_sandboxes{state="running"} 1.0' in figures

    assert fleet.client.delete(f"/sandboxes/{name}").status_code == 204
    assert fleet.client.delete(f"/sandboxes/{name}").json()["code"] == 404
    assert api.names("sandboxclaims") == api.names("sandboxes") == []
    assert fleet.listed() == []


def test_what_cannot_be_made_is_refused_in_e2bs_words(fleet: Replica) -> None:
    def refused(**fields: object) -> tuple[int, str]:
        reply = fleet.client.post("/v2/sandboxes", json={"templateID": "base", **fields})
        assert reply.json()["code"] == reply.status_code
        return reply.status_code, reply.json()["message"]

    assert refused(templateID="nobody's")[0] == 404
    assert refused(network={"denyOut": ["0.0.0.0/0"]}) == (
        501,
        "network rules are not supported by this server",
    )
    assert refused(metadata={"a": "x" * 70_000})[0] == 413
    assert refused(timeout=-1)[0] == 400
    for path in ("/sandboxes/sf0/fork", "/sandboxes/sf0/snapshots"):
        assert fleet.client.post(path).status_code == 501
    nobody = fleet.asking("e2b_nobody").get("/v2/sandboxes")
    assert (nobody.status_code, nobody.json()["code"]) == (401, 401)
    assert fleet.client.get("/health").status_code == 200
    assert fleet.client.get("/nothing").status_code == 404


def test_a_timeout_is_the_claims_and_connect_never_shortens_it(
    fleet: Replica, api: ApiServer
) -> None:
    name = fleet.create(timeout=1000)["sandboxID"]

    def left() -> float:
        ends = fleet.client.get(f"/sandboxes/{name}").json()["endAt"]
        assert ends == claim_of(api, name)["spec"]["lifecycle"]["shutdownTime"]
        return datetime.fromisoformat(ends).timestamp() - time.time()

    connected = fleet.client.post(f"/v2/sandboxes/{name}/connect", json={"timeout": 10})
    assert connected.status_code == 200
    assert connected.json()["envdAccessToken"].startswith("sk_")
    assert left() > 800
    fleet.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 300})
    assert 100 < left() < 302
    fleet.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 0})
    until(lambda: api.names("sandboxclaims") == [])
    assert fleet.client.get(f"/sandboxes/{name}").status_code == 404


def test_a_list_comes_in_pages_that_nothing_moves(fleet: Replica, api: ApiServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = {one["sandboxID"] for one in pool.map(lambda _: fleet.create(), range(7))}
    seen: list[str] = []
    token = ""
    while True:
        reply = fleet.client.get("/v2/sandboxes", params={"limit": 3, "nextToken": token})
        seen += [one["sandboxID"] for one in reply.json()]
        token = reply.headers.get("x-next-token", "")
        if not token:
            break
        fleet.client.delete(f"/sandboxes/{seen[0]}")  # what was on an earlier page ends
        fleet.create()  # and newer ones come
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    oldest_first = fleet.listed(order="asc", limit=100)
    assert oldest_first == list(reversed(fleet.listed()))
    assert fleet.client.get("/v2/sandboxes?nextToken=!").status_code == 400


def test_the_same_order_makes_one_sandbox_and_another_is_refused(
    fleet: Replica, api: ApiServer
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: fleet.create(key="one", metadata={"a": "b"}), range(8)))
    assert len({one["sandboxID"] for one in made}) == 1
    assert len(api.names("sandboxclaims")) == len(api.names("sandboxes")) == 1
    other = fleet.client.post(
        "/v2/sandboxes", json={"templateID": "base"}, headers={"Idempotency-Key": "one"}
    )
    assert other.status_code == 409


def test_teams_see_their_own_and_have_no_more_than_their_quota(
    fleet: Replica, api: ApiServer
) -> None:
    bob = fleet.asking(BOB)
    theirs = fleet.create()["sandboxID"]
    for path in (f"/sandboxes/{theirs}", f"/sandboxes/{theirs}/metrics"):
        assert bob.get(path).status_code == 404
    assert bob.delete(f"/sandboxes/{theirs}").status_code == 404

    def create(_: int) -> int:
        body = {"templateID": "base", "timeout": 60}
        return bob.post("/v2/sandboxes", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [201] * 2 + [429] * 6
    assert len(bob.get("/v2/sandboxes").json()) == 2
    until(lambda: len(api.names("sandboxclaims")) == 3)
    assert create(0) == 429
    mine = bob.get("/v2/sandboxes").json()[0]["sandboxID"]
    too_long = bob.post(f"/sandboxes/{mine}/timeout", json={"timeout": 601})
    assert too_long.status_code == 400
    bob.delete(f"/sandboxes/{mine}")
    assert create(0) == 201
    assert bob.post("/v2/sandboxes", json={"templateID": "dear"}).status_code == 403


def test_keys_come_and_go_with_their_secrets(fleet: Replica, api: ApiServer) -> None:
    carol = fleet.asking("e2b_carol")
    assert carol.get("/v2/sandboxes").status_code == 401
    add_key(api, "carol", "e2b_carol\n", team="carols")
    until(lambda: carol.get("/v2/sandboxes").status_code == 200)
    api.call(lambda: api.delete("secrets", "carol"))
    until(lambda: carol.get("/v2/sandboxes").status_code == 401)
    add_key(api, "carol", "e2b_carol", sandboxes="many")
    until(lambda: "Secret carol is not taken: sandboxes" in fleet.log.read_text())
    assert carol.get("/v2/sandboxes").status_code == 401


def test_a_pause_suspends_and_connect_resumes(fleet: Replica, api: ApiServer) -> None:
    name = fleet.create(timeout=100, envVars={"COLOUR": "blue"})["sandboxID"]
    backing = claim_of(api, name)["status"]["sandbox"]["name"]

    def mode() -> str:
        return api.call(lambda: api.objects["sandboxes"][backing]["spec"]["operatingMode"])

    assert fleet.client.post(f"/sandboxes/{name}/pause").status_code == 204
    assert mode() == "Suspended"
    assert fleet.client.post(f"/sandboxes/{name}/pause").status_code == 409
    assert fleet.listed(state="paused") == [name]
    assert "shutdownTime" not in claim_of(api, name)["spec"]["lifecycle"]
    away = fleet.client.get("/health", headers={"E2b-Sandbox-Id": name})
    assert (away.status_code, away.json()["message"]) == (502, "The sandbox is paused")
    reply = fleet.client.post(f"/v2/sandboxes/{name}/connect", json={"timeout": 200})
    assert reply.status_code == 201
    assert mode() == "Running"
    ends = datetime.fromisoformat(fleet.client.get(f"/sandboxes/{name}").json()["endAt"])
    assert 100 < ends.timestamp() - time.time() < 202
    assert fleet.listed(state="running") == [name]

    # What is refused changes nothing: a key's longest time is looked at before the resume.
    bob = fleet.asking(BOB)
    mine = bob.post("/v2/sandboxes", json={"templateID": "base", "timeout": 60}).json()["sandboxID"]
    assert bob.post(f"/sandboxes/{mine}/pause").status_code == 204
    too_long = bob.post(f"/v2/sandboxes/{mine}/connect", json={"timeout": 601})
    assert too_long.status_code == 400
    assert bob.get(f"/sandboxes/{mine}").json()["state"] == "paused"
    assert "shutdownTime" not in claim_of(api, mine)["spec"]["lifecycle"]

    other = fleet.create(timeout=1, autoPause=True)["sandboxID"]
    assert "shutdownTime" not in claim_of(api, other)["spec"]["lifecycle"]
    until(lambda: fleet.listed(state="paused") == [other])


def test_what_another_replica_has_paused_gets_no_end(fleet: Replica, api: ApiServer) -> None:
    name = fleet.create(timeout=100)["sandboxID"]
    api.is_late = True
    paused = {"metadata": {"labels": {"fleet.sandkeeper.dev/state": "paused"}}}
    endless = {"spec": {"lifecycle": {"shutdownTime": None}}}
    api.call(lambda: api._patch("sandboxclaims", name, {**paused, **endless}))
    try:
        reply = fleet.client.post(f"/sandboxes/{name}/timeout", json={"timeout": 300})
        assert reply.status_code == 204
        assert "shutdownTime" not in claim_of(api, name)["spec"]["lifecycle"]
        assert fleet.listed(state="paused") == [name]
    finally:
        api.is_late = False


def test_what_the_cluster_forgets_or_cuts_off_is_found_again(
    fleet: Replica, api: ApiServer
) -> None:
    name = fleet.create()["sandboxID"]
    lists = api.call(lambda: len(_lists(api)))
    api.call(api.cut)
    until(lambda: fleet.create()["sandboxID"] in fleet.listed())
    assert api.call(lambda: len(_lists(api))) == lists  # a watch goes on from where it was
    api.forget()
    api.call(lambda: api.delete("sandboxclaims", name))
    until(lambda: api.call(lambda: len(_lists(api))) > lists)
    until(lambda: name not in fleet.listed())

    api.broken = True
    known = fleet.listed()
    assert len(known) == 1
    assert fleet.client.get("/ready").status_code == 200  # what is known is served
    assert fleet.client.post("/v2/sandboxes", json={}).status_code == 503
    api.call(api.cut)
    api.broken = False
    assert fleet.create()["sandboxID"] in fleet.listed()


def _lists(api: ApiServer) -> list[str]:
    return [one for one in api.lists if one == "sandboxclaims"]


def test_a_replica_that_dies_leaves_nothing_and_makes_nothing_twice(
    fleet: Replica, api: ApiServer, make_replica: Callable[..., Replica]
) -> None:
    other = make_replica(SANDKEEPER_FLEET_START_SECONDS="20")
    api.ready = False
    bodies = [{"templateID": "base", "metadata": {"n": str(n)}} for n in range(20)]

    def create(replica: Replica, number: int) -> int:
        try:
            return replica.client.post(
                "/v2/sandboxes",
                json=bodies[number],
                headers={"Idempotency-Key": f"order {number}"},
            ).status_code
        except httpx.TransportError:
            return 0

    with ThreadPoolExecutor(20) as pool:
        first = [pool.submit(create, other, number) for number in range(20)]
        until(lambda: len(api.names("sandboxclaims")) == 20)
        api.settle()
        until(lambda: any(one.done() for one in first))  # all others are in the middle of it
        other.process.kill()
        other.process.wait()
        assert {one.result() for one in first} <= {0, 201}
        for name in api.names("sandboxclaims"):
            claim = claim_of(api, name)
            assert claim["spec"]["lifecycle"]["shutdownTime"]  # it ends, whoever else does
        again = [pool.submit(create, fleet, number) for number in range(20)]
        assert {one.result() for one in again} == {201}
    assert len(api.names("sandboxclaims")) == len(api.names("sandboxes")) == 20
    found = fleet.client.get("/v2/sandboxes").json()
    assert sorted(int(one["metadata"]["n"]) for one in found) == list(range(20))
