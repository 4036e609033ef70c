"""Standard input over HTTP: order, back-pressure, end of file, and what is refused."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from tests.harness import Server, over, start, until


def write(server: Server, name: str, data: bytes):
    return server.client.post(
        f"/process/{name}/stdin",
        content=data,
        headers={"Content-Type": "application/octet-stream"},
    )


def close(server: Server, name: str):
    return server.client.delete(f"/process/{name}/stdin")


def test_bytes_arrive_verbatim_and_in_order(server: Server) -> None:
    name = start(server, "sha256sum", stdin=True)["name"]
    data = [bytes([number]) * 70_000 for number in range(20)]
    for part in data:
        reply = write(server, name, part)
        assert (reply.status_code, "message" in reply.json()) == (200, True)
    close(server, name)

    digest = hashlib.sha256(b"".join(data)).hexdigest()
    assert over(server, name)["stdout"].split()[0] == digest


def test_an_empty_body_is_fine_and_end_of_file_is_idempotent(server: Server) -> None:
    name = start(server, "cat; sleep 30", stdin=True)["name"]

    assert write(server, name, b"").status_code == 200
    assert [close(server, name).status_code for _ in range(3)] == [200] * 3
    late = write(server, name, b"late")
    assert (late.status_code, late.json()["error"]) == (
        409,
        "stdin is closed: end of file was already sent",
    )
    server.client.delete(f"/process/{name}/kill")


def test_after_the_exit_a_write_is_409_and_says_so(server: Server) -> None:
    name = start(server, "true", stdin=True)["name"]
    over(server, name)
    reply = write(server, name, b"x")

    assert (reply.status_code, reply.json()["error"]) == (
        409,
        "stdin is closed: the process has exited",
    )
    assert close(server, name).status_code == 200


def test_a_process_without_stdin_refuses_both(server: Server) -> None:
    server.run("true", name="no-stdin")

    for reply in (write(server, "no-stdin", b"x"), close(server, "no-stdin")):
        assert (reply.status_code, reply.json()["error"]) == (
            409,
            "the process was started without stdin",
        )


def test_a_reader_that_closed_its_end_is_a_409(server: Server) -> None:
    name = start(server, "exec 0<&-; echo closed; sleep 30", stdin=True)["name"]
    until(lambda: server.client.get(f"/process/{name}").json()["stdout"])

    assert write(server, name, b"x").status_code == 409
    server.client.delete(f"/process/{name}/kill")


def test_more_than_8_mib_is_413_and_nothing_is_written(server: Server) -> None:
    name = start(server, "wc -c", stdin=True)["name"]

    assert write(server, name, b"x" * ((8 << 20) + 1)).status_code == 413
    assert write(server, name, b"x" * (8 << 20)).status_code == 200
    close(server, name)
    assert over(server, name)["stdout"].strip() == str(8 << 20)


def test_bodies_never_interleave(server: Server) -> None:
    name = start(server, "sleep 0.2; cat", stdin=True)["name"]
    bodies = [bytes([65 + number]) * 300_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda body: write(server, name, body).status_code, bodies))
    close(server, name)
    over(server, name)
    out = server.client.get(f"/process/{name}/logs").json()["stdout"]

    assert replies == [200] * 8
    runs = [out[index * 300_000 : (index + 1) * 300_000] for index in range(8)]
    assert sorted(run.encode() for run in runs) == bodies


def test_a_kill_ends_a_write_that_waits(server: Server) -> None:
    name = start(server, "exec sleep 30", stdin=True)["name"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(write, server, name, b"x" * (4 << 20))
        until(lambda: server.client.get(f"/process/{name}").json()["status"] == "running")
        server.client.delete(f"/process/{name}/kill")

    assert waiting.result().status_code == 409


def test_each_restart_has_a_fresh_pipe(server: Server) -> None:
    name = start(
        server,
        "read line; echo got $line; exit 1",
        restartOnFailure=True,
        maxRestarts=1,
        stdin=True,
    )["name"]
    write(server, name, b"one\n")
    until(lambda: "Attempting" in server.client.get(f"/process/{name}").json()["stdout"])
    until(lambda: server.client.get(f"/process/{name}").json()["restartCount"] == 1)
    assert write(server, name, b"two\n").status_code == 200

    out = over(server, name)["stdout"]
    assert out.startswith("got one\n")
    assert out.endswith("got two\n")


def test_after_a_restart_of_the_server_the_child_reads_end_of_file(make_server) -> None:
    own: Server = make_server()
    name = start(own, "cat; echo eof; sleep 30", stdin=True)["name"]
    write(own, name, b"data\n")
    own.kill9()
    own.restart()

    until(lambda: own.client.get(f"/process/{name}").json()["stdout"] == "data\neof\n")
    seen = own.client.get(f"/process/{name}").json()
    reply = write(own, name, b"x")
    assert seen["stdin"] is True
    assert (reply.status_code, reply.json()["error"].startswith("stdin is closed")) == (409, True)
    own.client.delete(f"/process/{name}/kill")


def test_stdin_is_audited_by_its_size_only(make_server) -> None:
    own: Server = make_server()
    name = start(own, "cat", stdin=True)["name"]
    write(own, name, b"secret")
    close(own, name)
    over(own, name)
    own.stop()

    audits = {line["action"]: line for line in own.log_lines() if line.get("source") == "audit"}
    assert audits["process_stdin_write"]["bytes"] == "6"
    assert audits["process_exec"]["stdin"] == "true"
    assert "process_stdin_close" in audits
    assert not any("secret" in str(line) for line in audits.values())


def test_a_process_that_does_not_read_is_told_with_what_it_has(make_server) -> None:
    server = make_server(constants={"sandkeeper.processes.stdin.WAIT_SECONDS": 0.1})
    name = start(server, "exec sleep 1000", stdin=True)["name"]
    data = bytes(range(256)) * (3 << 12)

    reply = write(server, name, data)
    written = reply.json()["written"]

    assert reply.status_code == 503
    assert "the pipe stayed full" in reply.json()["error"]
    assert 0 < written < len(data)
    server.client.delete(f"/process/{name}/kill")
