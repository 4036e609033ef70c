"""The published clients beyond processes and files: code, drives, ports, interpreter, health."""

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.harness import Server, needs_root, until
from tests.later import Later
from tests.node_client import run_node

models = Later("blaxel.core.client.models")
blaxel = Later("blaxel.core.sandbox")

EVENTS = (
    {"type": "stdout", "text": "hello\n"},
    {"type": "number_of_executions", "execution_count": 3},
    {"type": "result", "text": "2", "is_main_result": True},
)
# Some calls of the client make an HTTP client each and leave its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Have them collected while they may be."""
    yield
    gc.collect()


class Interpreter(BaseHTTPRequestHandler):
    """Speaks as the interpreter's image does, and answers everything else with what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        if self.path == "/contexts":
            self.wfile.write(json.dumps({"id": "c1"}).encode())
        elif self.path == "/execute":
            assert json.loads(body)["code"] == "1 + 1"
            for event in EVENTS:
                self.wfile.write(json.dumps(event).encode() + b"\n")
        else:
            self.wfile.write(f"{self.path} ".encode() + body)

    def log_message(self, *_args: object) -> None:
        pass


def listening() -> ThreadingHTTPServer | None:
    try:
        return ThreadingHTTPServer(("127.0.0.1", 8888), Interpreter)
    except OSError:  # another test keeps the port the clients insist on (tests.interpreter_port)
        return None


@pytest.fixture(scope="module")
def interpreter() -> Iterator[int]:
    web: ThreadingHTTPServer = until(listening, timeout=200)
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    yield 8888
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("rest")
    env = {"SANDKEEPER_LOCAL_CODEGEN": "1", "SANDKEEPER_DRIVE_DRIVER": "bind"}
    with Server(folder, env=env) as server:
        yield server


@pytest.mark.timeout(400)
def test_the_python_client_reaches_the_interpreter(local: Server, interpreter: int) -> None:
    out: list[str] = []

    async def use() -> Any:
        record = models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())
        client = blaxel.CodeInterpreter(record, force_url=local.url)
        context = await client.create_code_context(language="python")
        done = await client.run_code(
            "1 + 1", context=context, on_stdout=lambda one: out.append(one.text)
        )
        return context.id, done

    context, done = asyncio.run(use())

    assert (context, out, done.execution_count) == ("c1", ["hello\n"], 3)
    assert [one.text for one in done.results] == ["2"]


def test_the_python_client_reads_health_ports_and_monitors(local: Server) -> None:
    from blaxel.core.sandbox.client.api.network import (
        delete_network_process_pid_monitor,
        delete_network_tunnel,
        get_network_process_pid_ports,
        post_network_process_pid_monitor,
        put_network_tunnel_config,
    )
    from blaxel.core.sandbox.client.client import Client
    from blaxel.core.sandbox.client.models import PortMonitorRequest, TunnelConfigRequest

    async def health() -> Any:
        record = models.Sandbox(metadata=models.Metadata(name="local"), spec=models.SandboxSpec())
        return await blaxel.SandboxInstance(record, force_url=local.url).system.health()

    with Client(base_url=local.url) as client:
        ports = get_network_process_pid_ports.sync_detailed(local.pid, client=client)
        started = post_network_process_pid_monitor.sync_detailed(
            local.pid, client=client, body=PortMonitorRequest(callback="http://127.0.0.1:9/")
        )
        stopped = delete_network_process_pid_monitor.sync_detailed(local.pid, client=client)
        wrong = put_network_tunnel_config.sync_detailed(
            client=client, body=TunnelConfigRequest(config="e30=")
        )
        idle = delete_network_tunnel.sync_detailed(client=client)

    assert asyncio.run(health()).status == "ok"
    assert (ports.status_code, ports.parsed["pid"]) == (200, local.pid)
    assert local.port in {one["localPort"] for one in ports.parsed["ports"]}
    assert "started" in json.loads(started.content)["message"]
    assert "stopped" in json.loads(stopped.content)["message"]
    assert (wrong.status_code, idle.status_code) == (422, 400)


@pytest.fixture(scope="module")
def seen(local: Server, interpreter: int) -> dict[str, Any]:
    """Return what the Node client saw."""
    return run_node("rest.mjs", local.url, local.workdir, interpreter)


@needs_root
@pytest.mark.timeout(400)
def test_the_node_client_edits_and_ranks_code(seen: dict[str, Any], local: Server) -> None:
    assert seen["edited"] == [True, "local", "one\nand a half\ntwo\n"]
    assert seen["ranked"] == [f"{local.workdir}/code.js"]
    assert seen["noFolder"] == 400


@needs_root
def test_the_node_client_mounts_lists_and_unmounts(seen: dict[str, Any], local: Server) -> None:
    place = f"{local.workdir}/mnt/x y"

    assert seen["mounted"] == [True, "node-drive", place, False]
    assert seen["listed"] == [["node-drive", place, "/"]]
    assert (seen["inUse"], seen["unmounted"], seen["unmountedTwice"]) == (409, True, 400)


@needs_root
def test_the_node_client_reaches_ports_and_the_interpreter(seen: dict[str, Any]) -> None:
    assert seen["fetched"] == [200, "/a/b?c=1 body"]
    assert (seen["context"], seen["executed"]) == ("c1", [["hello\n"], ["2"], 3])
