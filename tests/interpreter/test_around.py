"""What is around the kernels: the extra, the warm one, the workload's user, others' requests."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import kernels
from tests.harness import Server, needs_root, until

UID = 61117


def test_without_the_extra_the_answer_says_what_to_install(tmp_path: Path) -> None:
    constants = {"sandkeeper.interpreter.kernel_start.LIBRARY": "no_such_library"}
    with Server(tmp_path, env=kernels.environment(), constants=constants) as server:
        reply = server.client.post("/code/contexts", json={})

        assert reply.status_code == 501
        assert "pip install 'sandkeeper[code]'" in reply.json()["error"]
        assert server.client.get("/code/contexts").json() == {"contexts": []}


def spares(server: Server) -> list[dict[str, object]]:
    """Return the records of warm contexts."""
    found = (server.state / "code" / "contexts").glob("*/meta.json")
    return [made for made in (json.loads(one.read_bytes()) for one in found) if made.get("spare")]


def test_a_warm_kernel_becomes_what_is_asked_for(tmp_path: Path) -> None:
    env = kernels.environment(SANDKEEPER_CODE_WARM="1")
    with Server(tmp_path, env=env) as server:
        (spare,) = until(lambda: spares(server))
        assert server.client.get("/code/contexts").json() == {"contexts": []}
        assert server.client.get(f"/code/contexts/{spare['id']}").status_code == 404
        made = kernels.context(server, name="mine", env={"ONE": "1"}, cwd="/usr")

        assert (made.id, made.record["name"]) == (spare["id"], "mine")
        said = made.run("import os; print(os.environ['ONE'], os.getcwd())")["stdout"]
        assert said == "1 /usr\n"
        (other,) = until(lambda: spares(server))
        assert other["id"] != made.id
        wrong = server.client.post("/code/contexts", json={"cwd": "/no/such/folder"})
        assert (wrong.status_code, "/no/such/folder" in wrong.text) == (422, True)
        server.kill9()
        server.start()
        assert {one["id"] for one in server.client.get("/code/contexts").json()["contexts"]} == {
            made.id
        }
        assert made.run("os.getcwd()")["results"][0]["data"]["text/plain"] == "'/usr'"
        again = made.post("restart")
        assert again["pid"] != made.record["pid"]
        assert made.run("import os; print(os.environ['ONE'])")["stdout"] == "1\n"


def test_a_kernel_that_wants_a_message_is_interrupted_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "by-message"
    folder.mkdir(parents=True)
    python = str(kernels.kernel_python() / "bin" / "python")
    spec = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "By message",
        "language": "snake",
        "interrupt_mode": "message",
        "env": {"FOUND": "${HOME}/x"},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    env = kernels.environment(
        JUPYTER_PATH=str(tmp_path / "jupyter"), SANDKEEPER_CODE_INTERRUPT_MS="120000"
    )
    with Server(tmp_path / "server", env=env) as server:
        made = kernels.context(server, language="snake")
        said = made.run("import os; print(os.environ['FOUND'])")["stdout"]
        assert said == f"{server.home}/x\n"
        running, waiting = made.start("print(1, flush=True)\nwhile True: pass"), made.start("1")
        until(lambda: server.client.get(f"/code/executions/{running}").json()["stdout"])
        stopped = server.client.post(f"/code/executions/{waiting}/interrupt").json()
        assert stopped["status"] == "cancelled"
        assert server.client.get(f"/code/executions/{running}").json()["status"] == "running"
        stopped = server.client.post(f"/code/executions/{running}/interrupt").json()
        assert stopped["status"] == "interrupted"
        assert made.run("2")["status"] == "ok"


@pytest.fixture
def apart() -> Iterator[Server]:
    """Return a server of root's whose workload is a user of its own; others may look at it."""
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        place = folder / "jupyter" / "kernels" / "teller"
        place.mkdir(parents=True)
        told = (
            "f='{connection_file}'; d=$(dirname $f); "
            'echo "$(id -u) $(stat -c "%a %u" $d) $(stat -c "%a %u" $f) '
            '$(stat -c %a $(dirname $d)) $(ls $(dirname $d) 2>&1 | wc -l)" >&2; exit 3'
        )
        spec = {"argv": ["sh", "-c", told], "display_name": "teller", "language": "none"}
        (place / "kernel.json").write_text(json.dumps(spec))
        env = kernels.environment(JUPYTER_PATH=str(folder / "jupyter"))
        with Server(folder / "server", args=["--user", str(UID)], env=env) as running:
            running.folder.chmod(0o755)
            yield running


@needs_root
def test_a_kernel_is_the_workloads_and_its_sockets_nobody_elses(apart: Server) -> None:
    reply = apart.client.post("/code/contexts", json={"language": "teller"})

    assert reply.status_code == 422
    # Who it is, its folder, its connection file, the folder above: not to be listed by anybody.
    told = f"{UID} 700 {UID} 600 {UID} 711 1"
    assert reply.json()["error"].endswith(f"(exit code 3): {told}")


def test_two_servers_on_other_states_have_other_scribes(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "a", env=kernels.environment()) as first,
        Server(tmp_path / "b", env=kernels.environment()) as second,
    ):
        one, two = (kernels.context(server, language="bash") for server in (first, second))
        one.run("x=1")

        assert one.run("echo ${x-none}")["stdout"] == "1\n"
        assert two.run("echo ${x-none}")["stdout"] == "none\n"
        assert os.path.exists(first.state / "code" / "scribe.sock")
        assert second.client.get(one.path).status_code == 404
