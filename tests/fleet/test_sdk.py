"""E2B's published client, unchanged, against a fleet: its sandboxes are claims and real servers."""

import pytest
from tests.apiserver import ApiServer
from tests.fleet.conftest import ALICE, Replica, add_key
from tests.harness import Server, until
from tests.later import Later
from tests.node_client import run_node

e2b = Later("e2b")

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_a_sandbox_is_made_used_found_paused_and_killed(fleet: Replica, pod: Server) -> None:
    pointed = {"api_url": fleet.url, "sandbox_url": fleet.url, "api_key": ALICE}
    made = e2b.Sandbox.create(
        "base", timeout=120, metadata={"who": "me & you"}, envs={"COLOUR": "blue"}, **pointed
    )
    assert made.commands.run("echo $COLOUR").stdout == "blue\n"
    path = str(pod.workdir / "a.txt")
    made.files.write(path, "hello")
    assert made.files.read(path) == "hello"
    seen: list[str] = []
    handle = made.commands.run(
        "echo one; echo two >&2; read x; echo $x", background=True, stdin=True
    )
    made.commands.send_stdin(handle.pid, "three\n")
    assert handle.wait(on_stdout=seen.append).stderr == "two\n"
    assert "".join(seen) == "one\nthree\n"

    assert made.is_running()
    assert made.get_info().metadata == {"who": "me & you"}
    assert made.get_metrics()[0].mem_total > 0
    made.set_timeout(300)
    query = e2b.SandboxQuery(metadata={"who": "me & you"})
    pages = e2b.Sandbox.list(query=query, limit=1, **pointed)
    assert [one.sandbox_id for one in pages.next_items()] == [made.sandbox_id]
    assert not pages.has_next

    made.pause()
    assert not made.is_running()
    again = e2b.Sandbox.connect(made.sandbox_id, timeout=60, **pointed)
    assert again.files.read(path) == "hello"
    assert again.kill()
    assert not again.is_running()
    with pytest.raises(e2b.SandboxNotFoundException):
        e2b.Sandbox.connect(made.sandbox_id, **pointed)
    with pytest.raises(e2b.AuthenticationException):
        e2b.Sandbox.create("base", **{**pointed, "api_key": "e2b_wrong"})


def test_a_quota_is_told_as_a_limit(fleet: Replica, api: ApiServer) -> None:
    add_key(api, "dan", "e2b_dan", sandboxes="1")
    until(lambda: fleet.asking("e2b_dan").get("/v2/sandboxes").status_code == 200)
    pointed = {"api_url": fleet.url, "sandbox_url": fleet.url, "api_key": "e2b_dan"}
    e2b.Sandbox.create("base", **pointed)
    with pytest.raises(e2b.RateLimitException):
        e2b.Sandbox.create("base", **pointed)


def test_the_javascript_client_finds_the_same(fleet: Replica, pod: Server) -> None:
    assert run_node("e2b-fleet.mjs", fleet.url, ALICE, pod.workdir) == {
        "out": "out\n",
        "err": "err\n",
        "read": "hello",
        "listed": True,
        "states": [False, True, True, False],
    }
