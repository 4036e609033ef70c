"""A workload that wants to be root: every route acts for its user, none for the server."""

import io
import itertools
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness import Server, needs_root, until
from tests.mcp_calls import Tools

from sandkeeper.processes.runs import pipes_folder

SYSCTL = "/proc/sys/vm/overcommit_ratio"
"""Anything below /proc/sys goes by the effective uid; this one is written with its own value."""


@pytest.fixture(scope="module")
def hostile() -> Iterator[Server]:
    """Return a server of root's whose workload is nobody, with nobody's folder as its workdir.

    Not in pytest's folder, which each run closes again for everybody else.
    """
    env = {"SANDKEEPER_LOCAL_CODEGEN": "1"}
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Server(folder, args=["--user", "nobody"], env=env) as running:
            os.chown(running.workdir, 65534, 65534)
            closed = folder / "closed"
            (closed / "below").mkdir(parents=True)
            closed.chmod(0o700)
            (closed / "below" / "readable").write_text("root's words\n")
            (folder / "secret").write_text("root's words\n")
            (folder / "secret").chmod(0o600)
            yield running


def secrets(server: Server) -> list[Path]:
    return [server.folder / "secret", server.folder / "closed" / "below" / "readable"]


@needs_root
def test_no_read_shows_what_is_roots(hostile: Server) -> None:
    client, tools = hostile.client, Tools(hostile)
    for path in secrets(hostile):
        folder = path.parent
        replies: list[httpx.Response] = [
            client.get(f"/filesystem/{path}"),
            client.get(f"/filesystem/{path}", headers={"Accept": "application/octet-stream"}),
            client.get(f"/filesystem/tree/{folder}?recursive=true&content=true"),
            client.get(f"/filesystem-archive/{folder}"),
            client.get(f"/filesystem-content-search/{folder}?query=words"),
            client.post(
                "/filesystem-copy",
                json={"source": str(path), "destination": str(hostile.workdir / "copy")},
            ),
            client.post(
                "/filesystem-move",
                json={"source": str(path), "destination": str(hostile.workdir / "moved")},
            ),
            client.get(f"/codegen/reranking/{folder}?query=words&scoreThreshold=0.01"),
        ]
        told = [reply.content for reply in replies]
        told += [
            json.dumps(tools.call("fsReadFile", path=str(path))).encode(),
            json.dumps(tools.call("codegenGrepSearch", query="words")).encode(),
            json.dumps(
                tools.call(
                    "codegenReadFileRange",
                    targetFile=str(path),
                    startLineOneIndexed=1,
                    endLineOneIndexedInclusive=2,
                )
            ).encode(),
        ]
        for words in told:
            assert b"root's words" not in words
    assert list(hostile.workdir.iterdir()) == []


def writes(server: Server, path: str) -> Iterator[Any]:
    """Try every route that could write to a path."""
    client, tools = server.client, Tools(server)
    text = Path(path).read_text()
    source = server.workdir / "source"
    client.put(f"/filesystem/{source}", json={"content": text})
    yield client.put(f"/filesystem/{path}", json={"content": text})
    yield client.put(f"/filesystem/{path}", files={"file": ("x", text.encode())})
    yield client.post(
        f"/filesystem-edit/{path}", json={"edits": [{"oldString": text, "newString": text + "x"}]}
    )
    yield client.put(f"/filesystem-attributes/{path}", json={"permissions": "0666"})
    yield client.put(f"/filesystem-attributes/{path}", json={"owner": "nobody"})
    yield client.post("/filesystem-copy", json={"source": str(source), "destination": path})
    yield client.post("/filesystem-move", json={"source": str(source), "destination": path})
    yield client.delete(f"/filesystem/{path}")
    yield client.put(f"/codegen/fastapply/{path}", json={"codeEdit": text})
    session = client.post(f"/filesystem-multipart/initiate/{path}", json={})
    if session.status_code == 200:
        one = f"/filesystem-multipart/{session.json()['uploadId']}"
        part = client.put(f"{one}/part?partNumber=1", files={"file": ("x", text.encode())})
        parts = [{"partNumber": 1, "etag": part.json().get("etag", "")}]
        yield client.post(f"{one}/complete", json={"parts": parts})
        client.delete(f"{one}/abort")
    yield tools.call("fsWriteFile", path=path, content=text)
    yield tools.call("fsEditFile", path=path, oldString=text, newString=text + "x")
    client.delete(f"/filesystem/{source}")


def failed(reply: Any) -> bool:
    if isinstance(reply, httpx.Response):
        return reply.status_code >= 400
    return bool(reply.get("isError"))


@needs_root
def test_no_write_reaches_what_is_roots(hostile: Server) -> None:
    secret, link = hostile.folder / "secret", hostile.workdir / "link"
    before = secret.stat()
    for path in (str(secret), SYSCTL):
        value = Path(path).read_text()
        for reply in writes(hostile, path):
            assert failed(reply), (path, getattr(reply, "request", ""), reply)
        assert Path(path).read_text() == value
    attempts = 1
    for number in range(20):
        # A link of the user's own may go, what it leads to must stay.
        link.unlink(missing_ok=True)
        link.symlink_to(secret)
        os.chown(link, 65534, 65534, follow_symlinks=False)
        every = writes(hostile, str(link))
        attempts = sum(1 for _ in itertools.islice(every, number, number + 1))
        every.close()
        if not attempts:
            break
    link.unlink(missing_ok=True)
    after = secret.stat()
    assert (after.st_ino, after.st_uid, after.st_mode) == (
        before.st_ino,
        before.st_uid,
        before.st_mode,
    )
    assert secret.read_text() == "root's words\n"
    (hostile.workdir / "source").unlink(missing_ok=True)


@needs_root
def test_kernel_settings_are_not_writable_through_any_route(hostile: Server) -> None:
    with open(SYSCTL) as file:
        value = file.read()
    reply = hostile.client.put(f"/filesystem/{SYSCTL}", json={"content": value})
    assert reply.status_code >= 400, "a route to root: kernel.core_pattern is next to it"


@needs_root
def test_an_archive_brings_no_devices_and_no_files_of_roots(hostile: Server) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind in (("device", tarfile.CHRTYPE), ("suid", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.devmajor, member.devminor = kind, 0o4777, 1, 1
            tar.addfile(member)
    target = hostile.workdir / "unpacked"
    target.mkdir()
    os.chown(target, 65534, 65534)
    hostile.client.put(f"/filesystem-archive/{target}?owners=true", content=data.getvalue())

    for path in target.iterdir():
        assert path.lstat().st_uid == 65534
        assert not path.is_char_device()
    subprocess.run(["rm", "-r", target], check=True)


@needs_root
@pytest.mark.parametrize("way", ["process", "terminal"])
def test_nobody_starts_below_a_folder_that_is_closed(hostile: Server, way: str) -> None:
    below = str(hostile.folder / "closed" / "below")
    if way == "process":
        body = {"command": "cat readable", "workingDir": below, "waitForCompletion": True}
        reply = hostile.client.post("/process", json=body)
        said = f"could not access working directory '{below}'"
    else:
        reply = hostile.client.post("/terminals", json={"name": "t", "workingDir": below})
        said = "permission denied"

    assert reply.status_code == 422
    assert said in reply.json()["error"]


@needs_root
def test_a_working_directory_that_is_the_users_is_entered(hostile: Server) -> None:
    made = hostile.run("pwd; echo mine > file", workingDir=str(hostile.workdir))

    assert made["stdout"] == f"{hostile.workdir}\n"
    assert (hostile.workdir / "file").stat().st_uid == 65534
    (hostile.workdir / "file").unlink()


@needs_root
def test_a_child_has_three_descriptors_and_no_capability(hostile: Server) -> None:
    made = hostile.run(
        "exec python3 -S -c \"import os; print(sorted(map(int, os.listdir('/proc/self/fd')))); "
        "print([l for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm', "
        "'CapInh', 'CapAmb')) and int(l.split()[1], 16)]); print(os.getresuid(), os.getresgid())\"",
        workingDir="/",
    )

    assert made["stdout"].splitlines() == [
        "[0, 1, 2, 3]",  # the third is the listing itself
        "[]",
        "(65534, 65534, 65534) (65534, 65534, 65534)",
    ]


@needs_root
def test_variables_of_a_request_change_neither_the_user_nor_the_score(hostile: Server) -> None:
    env = {
        "LD_PRELOAD": "/nonexistent.so",
        "BASH_ENV": "/dev/stdin",
        "HOME": "/root",
        "USER": "root",
        "PYTHONPATH": "/root",
        "SHELL": "/bin/false",
        "PATH": f"{hostile.workdir}:{os.environ['PATH']}",
    }
    made = hostile.run(
        "id -u; echo $HOME; cat /proc/self/oom_score_adj; "
        "(echo -500 > /proc/self/oom_score_adj) 2>/dev/null || echo refused",
        workingDir="/",
        env=env,
    )

    uid, home, score, lowered = made["stdout"].split()
    assert (uid, score, lowered) == ("65534", "500", "refused")
    assert home != "/root"


@needs_root
def test_the_servers_own_places_are_closed(hostile: Server) -> None:
    state = hostile.state
    pipes = pipes_folder(state, hostile.env.get("XDG_RUNTIME_DIR", ""))
    assert pipes.exists()
    made = hostile.run(
        f"ls {state} {state}/runs {state}/temporaries; cat {state}/keeper.sock; "
        f"ls {pipes}; cat {hostile.log_path}; "
        "cat /proc/$PPID/environ; ls /proc/$PPID/fd; true",
        workingDir="/",
    )
    assert made["stdout"] == ""
    code = f"import socket; socket.socket(1, 5).connect('{state}/keeper.sock')"
    assert "PermissionError" in hostile.run(f'python3 -S -c "{code}"', workingDir="/")["stderr"]
    for path in (state, state / "runs", hostile.log_path, Path("/proc/self/environ")):
        assert hostile.client.get(f"/filesystem/{path}").status_code >= 400, path


def test_the_token_stays_with_the_server(make_server) -> None:
    own: Server = make_server(env={"SANDKEEPER_TOKEN": "governs"})
    own.client.headers["Authorization"] = "Bearer governs"

    assert "governs" not in own.run("env", workingDir="/")["stdout"]


@needs_root
def test_a_document_that_the_workload_can_write_is_not_obeyed(make_server, tmp_path) -> None:
    document = tmp_path / "metadata"
    env = {"BL_METADATA_PATH": str(document), "SANDKEEPER_WORKLOAD_MAY": "environment"}
    own: Server = make_server(args=["--user", "nobody"], env=env)
    document.write_text('{"generation": 1, "environment": {"PLANTED": "yes"}}')
    for owner, mode in ((65534, 0o600), (0, 0o666)):
        os.chown(document, owner, owner)
        document.chmod(mode)
        reply = own.client.post("/environment/reload")
        assert reply.status_code == 500
        assert "workload" in reply.json()["error"]
    os.mkfifo(tmp_path / "fifo")
    document.unlink()
    document.symlink_to(tmp_path / "fifo")
    assert own.client.post("/environment/reload").status_code == 500
    document.unlink()
    document.write_text('{"generation": 2, "environment": {"GIVEN": "yes"}}')
    assert own.client.post("/environment/reload").json()["generation"] == 2


@needs_root
def test_a_log_that_is_somebody_elses_link_is_refused(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "log"
    link.symlink_to(target)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", "0"],
        env={**os.environ, "SANDKEEPER_LOG": str(link), "SANDKEEPER_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert done.returncode == 1
    assert "symbolic link of another user" in done.stderr
    assert not target.exists()


@needs_root
def test_pages_of_other_hosts_get_no_terminal_and_no_port(hostile: Server) -> None:
    for path in ("/terminal/ws", "/port/1/"):
        with socket.create_connection(("127.0.0.1", hostile.port)) as sock:
            head = (
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{hostile.port}\r\n"
                "Origin: http://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            sock.sendall(head.encode())
            status = sock.recv(64).split()[1]
            assert status != b"101", path


def test_ranking_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    for name in ("msgspec", "collections", "sandkeeper"):
        (tmp_path / f"{name}.py").write_text(f"open({str(planted)!r}, 'w').close()")
    own = Server(tmp_path / "own", env={"SANDKEEPER_LOCAL_CODEGEN": "1"})
    own.env["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    (own.workdir / "a.txt").write_text("words of a file\n")
    command = [sys.executable, "-P", "-m", "sandkeeper", "--port", str(own.port)]
    with subprocess.Popen(command, env=own.env, cwd=tmp_path) as process:
        try:
            until(lambda: reachable(own))
            reply = own.client.get(f"/codegen/reranking/{own.workdir}?query=words")
            assert (reply.status_code, len(reply.json()["files"])) == (200, 1), reply.text
            assert not planted.exists()
        finally:
            process.terminate()
            own.client.close()
            own.let_go()


def reachable(server: Server) -> bool:
    try:
        return server.client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@needs_root
def test_a_wait_for_a_file_sees_what_the_user_sees(hostile: Server) -> None:
    hostile.client.post(
        "/process", json={"command": "sleep 60", "name": "waits", "workingDir": "/"}
    )
    hidden = str(hostile.folder / "closed" / "below" / "readable")
    reply = hostile.client.post(
        "/process/waits/wait-for", json={"any": [{"file": hidden}], "timeout": 0.3}
    )
    shown = hostile.client.post(
        "/process/waits/wait-for", json={"any": [{"file": str(hostile.folder / "secret")}]}
    )

    assert (reply.status_code, shown.status_code) == (422, 200)
    hostile.client.delete("/process/waits/kill")
    until(lambda: hostile.client.get("/process/waits").json()["status"] == "killed")


@needs_root
def test_a_terminal_is_the_users_and_brings_nothing_of_the_servers(hostile: Server) -> None:
    body = {"sessionId": "mine", "shell": "/bin/sh", "workingDir": "/", "cols": 200}
    assert hostile.client.post("/terminals", json=body).status_code == 201
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))), os.getgroups())"
    typed = f'id -u; stat -c %U $(tty); python3 -S -c "{code}"; echo fin""ished\r'

    def screen(awaited: str) -> list[str]:
        asked = {"waitFor": awaited, "timeout": 60}
        return hostile.client.get("/terminals/mine/screen", params=asked).json()["lines"]

    screen("$")  # what is typed earlier is echoed before the prompt
    hostile.client.post("/terminals/mine/input", content=typed.encode())
    lines = screen("finished")
    hostile.client.delete("/terminals/mine")

    end = lines.index("finished")
    assert lines[end - 3 : end + 1] == [
        "65534",
        "nobody",
        "[0, 1, 2, 3] [65534]",
        "finished",
    ]


@needs_root
def test_no_program_of_the_workload_is_in_the_session_of_the_server(hostile: Server) -> None:
    """There it could continue us when we were stopped, and enter our process groups (kill(2))."""
    done = hostile.run(f"kill -CONT {hostile.pid} || echo refused; ps -o sid= -p $$")

    refused, session = done["stdout"].split()
    assert refused == "refused"
    assert int(session) != os.getsid(hostile.pid)


@needs_root
def test_what_is_mounted_where_tells_no_text_of_the_servers_links(hostile: Server) -> None:
    for path in ("/proc/self/cwd/x", f"/proc/{hostile.pid}/cwd/x", "/proc/self/exe"):
        wanted = {"driveName": "told", "mountPath": path, "driver": "bind"}
        reply = hostile.client.post("/drives/mount", json=wanted)
        assert reply.status_code == 400
        assert "/proc/" in reply.json()["error"]
        gone = hostile.client.delete("/drives/mount" + path)
        assert gone.status_code == 400
        assert "/proc/" in gone.json()["error"] or "does not exist" in gone.json()["error"]
