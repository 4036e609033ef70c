"""With a workload's user no file route passes through the server's own entry in /proc."""

import json
import os
import pty
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.harness import Server, needs_root, until
from tests.mcp_calls import Tools

pytestmark = needs_root

UID = 65534
SECRET = "hunter2-from-a-closed-folder"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return one that was started below a folder of root's, with a log file anybody may read."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        closed = folder / "closed"
        project = closed / "project"
        project.mkdir(parents=True)
        closed.chmod(0o700)
        (project / "config.ini").write_text(SECRET)
        (project / "open").mkdir()
        (project / "open").chmod(0o777)
        running = Server(folder, args=["--user", "nobody"], env={"SANDKEEPER_LOCAL_CODEGEN": "1"})
        os.chdir(project)
        try:
            running.start()
        finally:
            os.chdir(before)
        os.chown(running.workdir, UID, UID)
        try:
            yield running
        finally:
            running.__exit__()


def ways(server: Server) -> list[str]:
    """Return names that lead to the server's own entry in /proc, or through it."""
    tid = next(t for t in os.listdir(f"/proc/{server.pid}/task") if int(t) != server.pid)
    work = server.workdir
    for link, target in {
        "own": "/proc/self",
        "cwd": "/proc/self/cwd",
        "deep": f"/proc/{server.pid}/task/{tid}/cwd",
    }.items():
        if not (work / link).is_symlink():
            (work / link).symlink_to(target)
    return [
        "/proc/self",
        "/proc/thread-self",
        f"/proc/{server.pid}",
        f"/proc/{tid}",
        f"/proc/self/task/{tid}",
        f"/proc/self/root/proc/{server.pid}",
        f"/usr/../proc/{server.pid}/task/../",
        f"{work}/own",
    ]


@pytest.mark.parametrize("inside", ["cwd/config.ini", "maps", "limits", "smaps", "exe", "fd/0"])
def test_no_read_goes_through_the_servers_entry(server: Server, inside: str) -> None:
    tools = Tools(server)
    for way in ways(server):
        path = f"{way}/{inside}"
        replies = [
            server.client.get(f"/filesystem/%2F{path}"),
            server.client.get(
                f"/filesystem/%2F{path}", headers={"Accept": "application/octet-stream"}
            ),
            server.client.post(
                "/filesystem-copy", json={"source": path, "destination": f"{server.workdir}/copy"}
            ),
            server.client.put(f"/filesystem-attributes/%2F{path}", json={"permissions": "0666"}),
        ]
        for reply in replies:
            assert reply.status_code >= 400, (path, reply.text)
            assert "error" in reply.json()
        assert SECRET not in json.dumps(tools.call("fsReadFile", path=path))
    assert not (server.workdir / "copy").exists()


def test_no_folder_behind_it_is_read_or_written(server: Server) -> None:
    links = [f"{server.workdir}/cwd", f"{server.workdir}/deep"]
    for way in [*(f"{way}/cwd" for way in ways(server)), *links]:
        client = server.client
        assert SECRET not in client.get(f"/filesystem/tree/{way}?recursive=true&content=true").text
        replies = [
            client.get(f"/filesystem/%2F{way}"),
            client.get(f"/filesystem-archive/%2F{way}"),
            client.get(f"/filesystem-find/%2F{way}"),
            client.get(f"/filesystem-content-search/%2F{way}?query=hunter2"),
            client.get(f"/watch/filesystem/%2F{way}"),
            client.get(f"/codegen/reranking/%2F{way}?query=hunter2&scoreThreshold=0.01"),
        ]
        for reply in replies:
            assert SECRET not in reply.text
            assert "config.ini" not in reply.text
        changes = [
            client.put(f"/filesystem/%2F{way}/open/new", json={"content": "x"}),
            client.put(f"/filesystem/%2F{way}/open/folder", json={"isDirectory": True}),
            client.delete(f"/filesystem/%2F{way}/open?recursive=true"),
            client.post(
                "/filesystem-move",
                json={"source": f"{way}/open", "destination": f"{server.workdir}/moved"},
            ),
            client.post("/process", json={"command": "cat config.ini", "workingDir": way}),
            client.post("/terminals", json={"workingDir": way}),
        ]
        for reply in changes:
            assert reply.status_code >= 400, (way, reply.text)
    assert os.listdir(server.folder / "closed" / "project" / "open") == []


SWAPPING = """
import os
while True:
    for target in ("plain", "/proc/self/cwd"):
        os.symlink(target, "swap.new")
        os.rename("swap.new", "swap")
"""


def test_a_link_that_swaps_under_the_request_opens_nothing(server: Server) -> None:
    """A check beforehand would be outrun; the kernel resolves and checks in one go."""
    work = server.workdir
    (work / "plain").mkdir(exist_ok=True)
    (work / "plain" / "config.ini").write_text("harmless")
    (work / "plain" / "config.ini").chmod(0o644)
    os.chown(work / "plain", UID, UID)
    # As root in the folder of nobody: what swaps need not be the workload's own program.
    swapper = subprocess.Popen([sys.executable, "-I", "-S", "-c", SWAPPING], cwd=work)
    try:
        until(lambda: (work / "swap").is_symlink())
        seen = {
            server.client.get(f"/filesystem/%2F{work}/swap/config.ini").status_code
            for _ in range(100)
        }
        texts = [
            server.client.get(f"/filesystem/%2F{work}/swap/config.ini").text for _ in range(100)
        ]
    finally:
        swapper.kill()
        swapper.wait()
    assert 200 in seen
    assert not any(SECRET in text for text in texts)


def test_what_tells_about_the_machine_is_still_read(server: Server) -> None:
    for path in ("meminfo", "cpuinfo", "uptime", "loadavg", "sys/kernel/hostname", "1/status"):
        reply = server.client.get(f"/filesystem/%2Fproc/{path}")
        assert reply.status_code == 200, path
        assert reply.json()["content"]
    names = server.client.get("/filesystem/%2Fproc").json()
    assert "meminfo" in [entry["name"] for entry in names["files"]]
    started = server.client.post("/process", json={"command": "sleep 100", "name": "other"})
    other = started.json()["pid"]
    assert server.client.get(f"/filesystem/%2Fproc/{other}/limits").status_code == 200
    server.client.delete("/process/other/kill")


def test_another_mount_of_proc_is_no_way_either(server: Server) -> None:
    where = server.folder / "proc"
    bound = server.folder / "bound"
    for folder in (where, bound):
        folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "proc", "proc", where], check=True)
    try:
        subprocess.run(["mount", "--bind", f"/proc/{server.pid}", bound], check=True)
        try:
            for path in (f"{where}/self/maps", f"{where}/{server.pid}/maps", f"{bound}/maps"):
                reply = server.client.get(f"/filesystem/%2F{path}")
                assert reply.status_code >= 400, path
            for path in (f"{where}/self/cwd", f"{bound}/cwd", f"{bound}/task/{server.pid}/cwd"):
                reply = server.client.get(f"/filesystem/%2F{path}/config.ini")
                assert reply.status_code >= 400, path
            assert server.client.get(f"/filesystem/%2F{where}/meminfo").status_code == 200
        finally:
            subprocess.run(["umount", bound], check=True)
    finally:
        subprocess.run(["umount", where], check=True)


def test_nothing_is_written_to_the_terminal_the_server_was_started_from() -> None:
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running = Server(folder)
        env = running.env
        command = [
            str(Path(sys.executable)),
            *("-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(running.port)),
            *("--user", "nobody"),
        ]
        pid, master = pty.fork()
        if pid == 0:
            os.execve(command[0], command, env)
        try:
            until(lambda: answers(running))
            replies = [
                running.client.put(f"/filesystem/%2F{path}", json={"content": "PWNED"})
                for path in ("dev/tty", "proc/self/fd/1", "dev/stdout", "proc/self/fd/0")
            ]
            said = b""
            while select.select([master], [], [], 0.2)[0]:
                said += os.read(master, 4096)
        finally:
            os.kill(pid, 15)
            os.waitpid(pid, 0)
            os.close(master)
            running.client.close()
        assert b"PWNED" not in said
        assert all(reply.status_code >= 400 for reply in replies)


def answers(server: Server) -> bool:
    try:
        return bool(server.client.get("/health").status_code == 200)
    except httpx.TransportError:
        return False
