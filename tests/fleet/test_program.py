"""The command `sandkeeper fleet`, its manifests, and what its parts make of odd input."""

import asyncio
import base64
import contextlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sandkeeper.api.control.source import Wanted
from sandkeeper.api.port.answers import Addressee, response_headers
from sandkeeper.errors import BadInput, Unavailable
from sandkeeper.fleet.claims import Claims, page_of
from sandkeeper.fleet.keys import Keys
from sandkeeper.fleet.objects import (
    Claim,
    Meta,
    SandboxTemplate,
    Secret,
    WarmPool,
    record_of,
    size_of,
)
from sandkeeper.fleet.pods import Pods
from sandkeeper.fleet.pools import Pools
from sandkeeper.log.lines import Log
from sandkeeper.log.sink import Sink
from sandkeeper.settings.fleet import CATALOGUE, FleetSettings
from sandkeeper.settings.variables import BadSettings, Variables

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "fleet"
NAMED = {name for settings in CATALOGUE.values() for name in settings}


def claim(name: str, version: int, second: int = 0, **labels: str) -> Claim:
    labels = {"fleet.sandkeeper.dev/team": "a", "fleet.sandkeeper.dev/state": "running", **labels}
    made = datetime(2026, 11, 29, 0, 0, second, tzinfo=UTC)
    meta = Meta(name=name, resource_version=str(version), creation_timestamp=made, labels=labels)
    return Claim(metadata=meta)


def test_settings_that_make_no_sense_are_told_together() -> None:
    wrong = {"SANDKEEPER_FLEET_POD_PORT": "http", "SANDKEEPER_FLEET_DOMAIN": "a b"}
    with pytest.raises(BadSettings) as told:
        FleetSettings.read(Variables(wrong))
    assert [fault.split(":")[0].split("=")[0] for fault in told.value.faults] == list(wrong)
    strange = FleetSettings.read(Variables({"SANDKEEPER_FLEET_DOMIAN": "a.b"}))
    assert strange.doubts == ("SANDKEEPER_FLEET_DOMIAN is no setting",)
    own = {name for name in FleetSettings.kinds() if name.startswith("SANDKEEPER_FLEET_")}
    page = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    assert own <= NAMED
    assert [name for name in own if f"`{name}`" not in page] == []


def test_a_start_without_a_cluster_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandkeeper", "fleet", "--port", "0", "--log", "none"]
    command += ["--host", "127.0.0.1", "--fleet-kubeconfig", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "sandkeeper fleet: cannot start: the cluster cannot be found" in done.stderr


def test_the_manifests_name_what_is_there() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    names = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == names
    known: dict[str, Any] = {
        one["kind"]: one
        for name in names
        for one in yaml.safe_load_all((FOLDER / name).read_text())
    }
    deployment = known["Deployment"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert {one["name"] for one in container["env"]} <= NAMED
    assert container["image"] == listed["images"][0]["name"]
    assert deployment["replicas"] == 2
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        known["Service"]["spec"]["selector"],
        known["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_what_comes_late_changes_nothing() -> None:
    claims = Claims()
    claims.change(claim("sf1", 5))
    claims.change(claim("sf1", 3, **{"fleet.sandkeeper.dev/state": "paused"}))
    assert claims.by_id["sf1"].state == "running"
    claims.forget("sf1")
    claims.change(claim("sf1", 5))
    assert claims.get("sf1") is None
    assert claims.count("a") == 0
    claims.change(claim("sf1", 9))  # made anew, by the same order
    assert claims.get("sf1") is not None


def test_a_list_that_is_read_again_keeps_what_is_younger_than_it() -> None:
    claims = Claims()
    for name in ("sf1", "sf2"):
        claims.change(claim(name, 5))
    claims.replace([claim("sf2", 5)])
    claims.change(claim("sf3", 8))
    claims.replace(None)
    assert set(claims.by_id) == {"sf2", "sf3"}


def test_a_list_that_broke_off_keeps_nothing_alive() -> None:
    claims, keys, pools = Claims(), Keys(Log(Sink(2, dropped_line=lambda _: b""))), Pools()
    pool, key = WarmPool(metadata=Meta(name="p")), base64.b64encode(b"e2b_key").decode()
    secret = Secret(metadata=Meta(name="k"), data={"key": key})
    for one, first in ((claims, claim("sf1", 5)), (keys, secret), (pools, pool)):
        one.begin()
        one.replace([first])  # of the second page came an error, and meanwhile it ended
        one.begin()
        one.replace(None)
    assert (claims.count("a"), keys.team_of([b"e2b_key"]), "p" in pools) == (0, None, False)


def test_a_claim_that_changes_its_team_leaves_nothing_with_the_first() -> None:
    claims = Claims()
    claims.change(claim("sf1", 5))
    claims.change(claim("sf1", 6, **{"fleet.sandkeeper.dev/team": "b"}))
    assert (claims.count("a"), claims.count("b")) == (0, 1)
    claims.forget("sf1")
    assert claims.count("b") == 0


@pytest.mark.anyio
async def test_a_sandbox_that_answers_without_end_is_given_up() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        writer.close()

    serving = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = serving.sockets[0].getsockname()[1]
    record = record_of(claim("sf1", 5))
    assert record is not None
    pods = Pods(port, "")
    with pytest.raises(Unavailable, match="more than it was asked"):
        await pods.use(msgspec.structs.replace(record, address="127.0.0.1"))
    await pods.close()
    serving.close()


def test_a_sandbox_sets_cookies_for_its_own_name_alone() -> None:
    audience = Addressee(host=b"3000-a.fleet.test", is_whole=True)
    for sent, kept in (
        (b"a=1; Domain=fleet.test; Path=/", b"a=1; Path=/"),
        (b"sandkeeper_port=1; Path=/", b"sandkeeper_port=1; Path=/"),  # of the server there
    ):
        assert response_headers(200, [(b"Set-Cookie", sent)], audience) == [(b"set-cookie", kept)]


def test_the_rank_of_a_claim_is_its_place_in_the_clusters_order() -> None:
    claims = Claims()
    with claims.following("sf2") as second, claims.following("sf1") as first:
        claims.change(claim("sf1", 5))
        claims.change(claim("sf2", 6))
        claims.change(claim("sf1", 7))
        assert (first.rank, second.rank) == (1, 2)
        claims.forget("sf1")
        assert first.ended
    with claims.following("sf4") as birth:
        claims.replace([claim("sf4", 9), claim("sf3", 10)])  # a list has another order
        claims.replace(None)
        assert birth.rank == 2


@pytest.mark.anyio
async def test_a_search_finds_all_that_fit_and_every_page_ends() -> None:
    claims = Claims()
    for number in range(2500):
        claims.change(claim(f"sf{number:04}", number, number % 60))
    for oldest_first in (False, True):
        after, seen = "", []
        while True:
            wanted = Wanted(limit=100, after=after, oldest_first=oldest_first)
            found, after = await page_of(claims, "a", wanted)
            seen += [one.id for one in found]
            if not after:
                break
            assert len(found) == 100
        assert len(set(seen)) == len(seen) == 2500
    assert await page_of(claims, "b", Wanted()) == ([], "")
    assert await page_of(claims, "a", Wanted(metadata={"a": "b"})) == ([], "")
    for token in ("!", "Zm9v", "bmFuIHg", "aW5mIHg"):  # no base64; foo; nan and inf for a time
        with pytest.raises(BadInput):
            await page_of(claims, "a", Wanted(after=token))


@pytest.mark.parametrize(
    ("cpu", "memory", "seen"),
    [
        ("1500m", "2Gi", (2, 2 << 30)),
        (2, "512M", (2, 512_000_000)),
        ("0.5", "1e9", (1, 10**9)),
        ("many", "-1", (0, 0)),
    ],
)
def test_sizes_are_read_as_kubernetes_writes_them(cpu: Any, memory: str, seen: Any) -> None:
    limits = {"cpu": cpu, "memory": memory}
    pod = {"spec": {"containers": [{"resources": {"limits": limits}}]}}
    body = {"metadata": {"name": "t"}, "spec": {"podTemplate": pod}}
    size = size_of(msgspec.convert(body, type=SandboxTemplate))
    assert (size.cpu_count, size.memory) == seen
