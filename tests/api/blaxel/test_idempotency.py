"""`Idempotency-Key`: the same request is one process, also after a restart of the server."""

from concurrent.futures import ThreadPoolExecutor

from tests.harness import Server


def post(server: Server, key: str, **body):
    return server.client.post("/process", json=body, headers={"Idempotency-Key": key})


def test_the_same_key_and_body_give_the_same_process_once(server: Server) -> None:
    first = post(server, "k1", command="echo x >> count", workingDir=str(server.workdir))
    again = post(server, "k1", workingDir=str(server.workdir), command="echo x >> count")
    server.client.get(f"/process/{first.json()['pid']}/wait?timeout=60")

    assert again.json()["id"] == first.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (server.workdir / "count").read_text() == "x\n"


def test_another_body_under_the_same_key_is_422(server: Server) -> None:
    post(server, "k2", command="true")
    reply = post(server, "k2", command="false")

    assert (reply.status_code, reply.json()["error"]) == (
        422,
        "the idempotency key was used with another request body",
    )


def test_other_keys_and_no_key_are_other_processes(server: Server) -> None:
    ids = {post(server, key, command="true").json()["id"] for key in ("k3", "k4")}
    ids |= {server.client.post("/process", json={"command": "true"}).json()["id"] for _ in "ab"}

    assert len(ids) == 4


def test_racers_with_one_key_share_one_process(server: Server) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: post(server, "k5", command="sleep 0.1"), range(12)))

    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1


def test_a_start_that_failed_is_not_remembered(server: Server) -> None:
    folder = server.workdir / "later"
    body = {"command": "pwd", "workingDir": str(folder)}
    assert post(server, "k6", **body).status_code == 422
    folder.mkdir()

    assert post(server, "k6", **body).status_code == 200


def test_a_replay_waits_for_completion_when_it_asks_to(server: Server) -> None:
    body = {"command": "sleep 0.2; echo done", "waitForCompletion": True}
    first, again = post(server, "k7", **body), post(server, "k7", **body)

    assert first.json()["stdout"] == again.json()["stdout"] == "done\n"
    assert first.json()["id"] == again.json()["id"]


def test_a_named_process_can_be_asked_for_again_while_it_runs(server: Server) -> None:
    first = post(server, "k8", command="sleep 30", name="named")
    again = post(server, "k8", command="sleep 30", name="named")
    server.client.delete("/process/named/kill")

    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


def test_keys_outlive_the_server(make_server) -> None:
    own: Server = make_server()
    running = post(own, "r", command="sleep 60").json()["id"]
    done = post(own, "d", command="true", waitForCompletion=True).json()["id"]
    own.kill9()
    own.restart()

    assert post(own, "r", command="sleep 60").json()["id"] == running
    assert post(own, "d", command="true", waitForCompletion=True).json()["id"] == done
    assert post(own, "r", command="sleep 61").status_code == 422
    own.client.delete(f"/process/{running}/kill")
