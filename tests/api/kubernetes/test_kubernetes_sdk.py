"""The published client of agent-sandbox, unchanged, on both of its wires."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, alive, free_port, needs_root, until
from tests.later import Later

from sandkeeper.settings import BadSettings, Settings

grpc = Later("grpc")
stubs = Later("k8s_agent_sandbox.commands._process_stubs")
exceptions = Later("k8s_agent_sandbox.exceptions")
models = Later("k8s_agent_sandbox.models")
client = Later("k8s_agent_sandbox.sandbox")


class Cluster:
    """The part of Kubernetes that the client asks: where the sandbox is."""

    injected_api_client = None

    def get_sandbox(self, _name: str, _namespace: str) -> dict[str, Any]:
        return {"status": {"podIPs": ["127.0.0.1"]}}


class Kube(Server):
    """A server with all wires of agent-sandbox."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.runtime, self.grpc = free_port(), free_port()
        env = {
            "SANDKEEPER_RUNTIME_PORT": str(self.runtime),
            "SANDKEEPER_GRPC_PORT": str(self.grpc),
            "SANDBOX_BASE_DIR": str(folder / "root"),
            "SANDBOX_ID": "sb-1",
            "SANDBOX_API_TOKEN": "hidden",
            **({"SANDKEEPER_TOKEN": token} if token else {}),
        }
        super().__init__(folder, env=env)
        self.root = folder / "root"

    def sandbox(self, wire: str) -> Any:
        configs: dict[str, Any] = {
            "direct": models.SandboxDirectConnectionConfig(
                api_url=f"http://127.0.0.1:{self.runtime}"
            ),
            "in-cluster": models.SandboxInClusterConnectionConfig(server_port=self.runtime),
            "sandboxd": models.SandboxdInClusterConnectionConfig(
                mode="in-cluster-pod-ip", rest_port=self.port, grpc_port=self.grpc
            ),
        }
        return client.Sandbox(
            "claim", "sb-1", connection_config=configs[wire], k8s_helper=Cluster()
        )


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    with Kube(tmp_path_factory.mktemp("kube")) as running:
        yield running


@pytest.fixture
def stub(kube: Kube) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{kube.grpc}") as channel:
        yield stubs.process_pb2_grpc.ProcessServiceStub(channel)


def config(*words: str, **fields: Any) -> Any:
    return stubs.process_pb2.ProcessConfig(command=list(words), **fields)


@pytest.mark.parametrize("wire", ["direct", "in-cluster", "sandboxd"])
def test_the_client_runs_writes_reads_and_lists(kube: Kube, wire: str) -> None:
    sandbox = kube.sandbox(wire)
    commands, files = sandbox.commands, sandbox.files
    assert commands is not None
    assert files is not None

    done = commands.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code, done.timed_out) == (
        "out\n",
        "err\n",
        3,
        False,
    )
    late = commands.run("echo before; sleep 1000", command_timeout=0.5)
    assert (late.timed_out, late.exit_code) == (True, 124)
    assert commands.run("pwd").stdout.strip() == str(kube.root)

    name = f"{wire}/a b/ü.txt"
    files.write(name, "one\n")
    assert files.read(name) == b"one\n"
    files.write(name, io.BytesIO(b"x" * (1 << 20)))
    kept = io.BytesIO()
    assert files.read_to(name, kept) == 1 << 20
    assert (kube.root / name).stat().st_size == 1 << 20
    (kube.root / wire / "link").symlink_to("/etc")
    listed = {one.name: one for one in files.list(wire)}
    assert {name: one.type for name, one in listed.items()} == {"a b": "directory"}
    (entry,) = files.list(f"{wire}/a b")
    assert (entry.name, entry.size, entry.type) == ("ü.txt", 1 << 20, "file")
    assert abs(entry.modified.timestamp() - time.time()) < 3600
    assert files.exists(name)
    assert not files.exists("nowhere")
    for missing in ("nowhere", "link/passwd"):
        with pytest.raises(exceptions.SandboxRequestError) as failed:
            files.read(f"{wire}/{missing}")
        assert failed.value.status_code == (404 if missing == "nowhere" else 403)
    sandbox.close_connection()


def test_sandboxd_removes_and_takes_variables_and_folders(kube: Kube) -> None:
    sandbox = kube.sandbox("sandboxd")
    commands, files = sandbox.commands, sandbox.files
    assert commands is not None
    assert files is not None
    files.write("gone/a/b.txt", "x")

    with pytest.raises(exceptions.SandboxRequestError) as failed:
        files.delete("gone")
    assert failed.value.status_code == 409
    files.delete("gone/a/b.txt")
    files.delete("gone", recursive=True)
    assert not (kube.root / "gone").exists()
    with pytest.raises(exceptions.SandboxRequestError) as failed:
        files.delete("gone")
    assert failed.value.status_code == 404
    files.write("sub/x", "x")
    done = commands.run("echo $GREETING; pwd", env={"GREETING": "hello"}, cwd="sub")
    assert done.stdout == f"hello\n{kube.root}/sub\n"
    with pytest.raises(RuntimeError, match="PERMISSION_DENIED"):
        commands.run("true", cwd="../..")
    sandbox.close_connection()


def test_rest_is_as_its_description_says(kube: Kube) -> None:
    at = kube.url + "/v1/files"
    put = httpx.put(f"{at}/run.sh?mode=0755", content=b"#!/bin/sh\n")
    assert (put.status_code, put.content) == (204, b"")
    assert (kube.root / "run.sh").stat().st_mode & 0o777 == 0o755
    form = httpx.put(f"{at}/form.txt", files={"file": ("other", b"of a form")})
    assert form.status_code == 204

    read = httpx.get(f"{at}/form.txt", headers={"Range": "bytes=0-1"})
    assert (read.status_code, read.content) == (206, b"of")
    assert read.headers["content-type"] == "application/octet-stream"
    root = httpx.get(f"{at}/").json()
    assert root["path"] == "/"
    (entry,) = [one for one in root["entries"] if one["name"] == "run.sh"]
    assert (entry["type"], entry["size"], entry["mode"]) == ("file", 10, "0755")
    assert httpx.head(f"{at}/run.sh").headers["content-length"] == "10"
    assert httpx.head(f"{at}/nowhere").status_code == 404

    refusals = [
        ("PUT", "/x?mode=9", 400, "INVALID_ARGUMENT"),
        ("PUT", "/", 400, "INVALID_ARGUMENT"),
        ("GET", "/%2E%2E/etc/passwd", 403, "PERMISSION_DENIED"),
        ("DELETE", "/%2E", 409, "CONFLICT"),
        ("DELETE", "/run.sh?recursive=perhaps", 400, "INVALID_ARGUMENT"),
        ("GET", "/nowhere", 404, "NOT_FOUND"),
    ]
    for method, path, status, code in refusals:
        reply = httpx.request(method, at + path)
        assert (reply.status_code, reply.json()["code"]) == (status, code), path
        assert reply.json()["message"]
    assert httpx.get(kube.url + "/v1/health").json()["status"] == "ok"
    env = httpx.get(kube.url + "/v1/metadata").json()["env"]
    assert env["SANDBOX_ID"] == "sb-1"
    assert "SANDBOX_API_TOKEN" not in env


def test_the_runtime_is_at_its_own_port_and_everything_else_there_too(kube: Kube) -> None:
    there = f"http://127.0.0.1:{kube.runtime}"
    assert httpx.get(there + "/").json()["status"] == "ok"
    assert httpx.get(there + "/health").json()["status"] == "ok"
    missing = httpx.post(there + "/execute", json={"command": ""})
    assert (missing.status_code, missing.json()["message"]) == (400, "command is required")
    assert httpx.get(there + "/download/%2E%2E%2Fx").status_code == 403
    assert httpx.get(kube.url + "/").json()["message"] == "sandkeeper is running"
    assert httpx.get(kube.url + "/download/x").status_code == 404
    same = httpx.post(kube.url + "/python-runtime/execute", json={"command": "echo $0"})
    assert same.json()["exit_code"] == 0


def test_a_stream_tells_the_number_the_output_and_the_end(kube: Kube, stub: Any) -> None:
    call = stub.Start(
        stubs.process_pb2.StartRequest(
            config=config("sh", "-c", "read x; echo got $x; cat >&2; exit 7")
        )
    )
    number = next(call).init.process_id
    stub.WriteStdin(stubs.process_pb2.WriteStdinRequest(process_id=number, input=b"line\nrest"))
    stub.WriteStdin(stubs.process_pb2.WriteStdinRequest(process_id=number, eof={}))
    events = list(call)

    assert b"".join(one.stdout for one in events) == b"got line\n"
    assert b"".join(one.stderr for one in events) == b"rest"
    assert events[-1].exit.exit_code == 7
    assert kube.client.get(f"/process/{number}").json()["status"] == "failed"
    with pytest.raises(grpc.RpcError) as failed:
        stub.WriteStdin(stubs.process_pb2.WriteStdinRequest(process_id=number, input=b"x"))
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_terminal_has_its_size_and_takes_another(
    stub: Any,
) -> None:
    call = stub.Start(
        stubs.process_pb2.StartRequest(
            config=config("sh", "-c", "stty size; read x; stty size; tty"),
            pty=stubs.process_pb2.PTY(cols=100, rows=30),
        )
    )
    number = next(call).init.process_id
    seen = b""
    while b"30 100" not in seen:
        seen += next(call).stdout
    stub.ResizeTTY(stubs.process_pb2.ResizeTTYRequest(process_id=number, cols=90, rows=20))
    stub.WriteStdin(stubs.process_pb2.WriteStdinRequest(process_id=number, input=b"\n"))
    events = list(call)
    seen += b"".join(one.stdout for one in events)

    assert b"20 90" in seen
    assert b"/dev/pts/" in seen
    assert events[-1].exit.exit_code == 0


def test_children_that_are_prepared_by_us_are_not_disturbed_by_the_library(
    kube: Kube, stub: Any
) -> None:
    """gRPC's own handlers of fork(2) crash a child that runs code of ours before its exec."""
    size = stubs.process_pb2.PTY(cols=80, rows=24)
    ends = [
        list(stub.Start(stubs.process_pb2.StartRequest(config=config("true"), pty=size)))[-1].exit
        for _ in range(20)
    ]
    assert [end.exit_code for end in ends] == [0] * 20
    limited = [kube.run("true", limits={"openFiles": 64})["exitCode"] for _ in range(10)]
    assert limited == [0] * 10
    assert "GRPC_ENABLE_FORK" not in kube.run("env")["logs"]


def test_signals_end_the_group_and_what_is_wrong_has_its_status(
    stub: Any,
) -> None:
    call = stub.Start(
        stubs.process_pb2.StartRequest(config=config("sh", "-c", "sleep 1000 & wait"))
    )
    number = next(call).init.process_id
    signal = stubs.process_pb2.SendSignalRequest(
        process_id=number, signal=stubs.process_pb2.SIGNAL_SIGTERM
    )
    stub.SendSignal(signal)
    assert list(call)[-1].exit.exit_code == -1

    code = grpc.StatusCode
    wrong = [
        (stub.SendSignal, signal, code.NOT_FOUND),
        (stub.Execute, stubs.process_pb2.ExecuteRequest(), code.INVALID_ARGUMENT),
        (stub.Execute, stubs.process_pb2.ExecuteRequest(config=config("/no/such")), code.INTERNAL),
        (
            stub.Execute,
            stubs.process_pb2.ExecuteRequest(config=config("ls", cwd="no")),
            code.NOT_FOUND,
        ),
        (stub.ResizeTTY, stubs.process_pb2.ResizeTTYRequest(process_id=0), code.NOT_FOUND),
    ]
    for call_of, request, status in wrong:
        with pytest.raises(grpc.RpcError) as failed:
            call_of(request)
        assert failed.value.code() == status, request


def test_who_cancels_ends_what_only_they_wait_for(kube: Kube, stub: Any) -> None:
    pids = []
    # Several at once: some are cancelled before the server has heard of their start.
    waiting = {}
    for name in map(str, range(12)):
        command = config("sh", "-c", f"echo $$ > pid-{name}; exec sleep 1000")
        waiting[name] = stub.Execute.future(stubs.process_pb2.ExecuteRequest(config=command))
    for name, call in waiting.items():
        path = kube.root / f"pid-{name}"
        pids.append(int(until(lambda path=path: path.exists() and path.read_text().strip())))
        call.cancel()
    until(lambda: not any(map(alive, pids)))

    left = stub.Start(stubs.process_pb2.StartRequest(config=config("sleep", "1000")))
    number = next(left).init.process_id
    left.cancel()
    assert kube.client.get(f"/process/{number}").json()["status"] == "running"
    kube.client.delete(f"/process/{number}/kill")


def test_a_reader_that_rests_holds_up_nobody(kube: Kube, stub: Any) -> None:
    size = 20_000_000
    call = stub.Start(
        stubs.process_pb2.StartRequest(config=config("head", "-c", str(size), "/dev/zero"))
    )
    number = next(call).init.process_id
    record = until(
        lambda: (
            (one := kube.client.get(f"/process/{number}").json())["exitCode"] == 0
            and one["status"] == "completed"
            and one["stdoutBytes"] == size
            and one
        )
    )
    assert record["stdoutBytes"] == size  # and not more

    assert sum(len(one.stdout) for one in call) == size


def test_a_token_is_asked_for_on_every_wire(tmp_path: Path) -> None:
    with Kube(tmp_path / "guarded", token="open-sesame") as kube:
        there = f"http://127.0.0.1:{kube.runtime}"
        key = {"X-Blaxel-Authorization": "Bearer open-sesame"}
        assert httpx.get(there + "/").status_code == 200
        assert httpx.get(kube.url + "/v1/health").status_code == 200
        assert httpx.get(kube.url + "/v1/files/").json()["code"] == "UNAUTHENTICATED"
        body = {"command": "echo in"}
        assert httpx.post(there + "/execute", json=body).status_code == 401
        assert httpx.post(there + "/execute", json=body, headers=key).json()["stdout"] == "in\n"
        sandbox = client.Sandbox(
            "claim",
            "sb-1",
            connection_config=models.SandboxDirectConnectionConfig(
                api_url=there, extra_headers=key
            ),
            k8s_helper=Cluster(),
        )
        assert sandbox.commands is not None
        assert sandbox.commands.run("echo in").stdout == "in\n"
        with grpc.insecure_channel(f"127.0.0.1:{kube.grpc}") as channel:
            stub = stubs.process_pb2_grpc.ProcessServiceStub(channel)
            request = stubs.process_pb2.ExecuteRequest(config=config("echo", "in"))
            with pytest.raises(grpc.RpcError) as failed:
                stub.Execute(request)
            assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED
            given = (("x-blaxel-authorization", "Bearer open-sesame"),)
            assert stub.Execute(request, metadata=given).stdout == b"in\n"


def test_a_workload_that_is_kept_away_finds_no_way_round(tmp_path: Path) -> None:
    env = {"SANDKEEPER_GRPC_PORT": "9090", "BL_SANDBOX_API_ISOLATION": "true"}
    with pytest.raises(BadSettings, match="SANDKEEPER_GRPC_PORT"):
        Settings.read({**env, "SANDKEEPER_STATE_DIR": str(tmp_path)}, user="nobody")


def test_a_port_that_is_taken_ends_the_start_with_its_reason(kube: Kube, tmp_path: Path) -> None:
    env = {**os.environ, "SANDKEEPER_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    env |= {"SANDKEEPER_GRPC_PORT": str(kube.grpc), "SANDKEEPER_LOG": "none"}
    words = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", "0"]
    ended = subprocess.run(words, env=env, capture_output=True, timeout=120, text=True)

    assert ended.returncode == 1
    assert f"gRPC cannot listen on 127.0.0.1:{kube.grpc}" in ended.stderr
    assert "Traceback" not in ended.stderr


@needs_root
def test_what_others_run_is_out_of_reach_of_the_users_token(tmp_path: Path) -> None:
    port = free_port()
    env = {
        "SANDKEEPER_TOKEN": "user",
        "SANDKEEPER_ADMIN_TOKEN": "admin",
        "SANDKEEPER_USERS": "bin",
        "SANDKEEPER_GRPC_PORT": str(port),
    }
    address = f"127.0.0.1:{port}"
    with Server(tmp_path, env=env, args=["--user", "daemon"]) as own:
        as_admin = {"X-Blaxel-Authorization": "Bearer admin"}
        body = {"command": "cat", "user": "bin", "stdin": True}
        made = own.client.post("/process", json=body, headers=as_admin)
        request = stubs.process_pb2.SendSignalRequest(
            process_id=int(made.json()["pid"]), signal=stubs.process_pb2.SIGNAL_SIGKILL
        )
        with grpc.insecure_channel(address) as channel:
            send = stubs.process_pb2_grpc.ProcessServiceStub(channel).SendSignal
            with pytest.raises(grpc.RpcError) as failed:
                send(request, metadata=[("x-blaxel-authorization", "Bearer user")])
            assert failed.value.code() == grpc.StatusCode.NOT_FOUND
            send(request, metadata=[("x-blaxel-authorization", "Bearer admin")])
