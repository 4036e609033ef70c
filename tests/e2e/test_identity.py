"""A server with a workload's user, and one whose environment is set from outside."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, needs_root
from tests.mcp_calls import Tools

CAP_SYS_RESOURCE = 1 << 24  # lowering a score needs it

MakeServer = Callable[..., Server]


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """The test's folder, made reachable for every user."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    return tmp_path


def told(server: Server, command: str, **fields: Any) -> list[str]:
    return server.run(command, workingDir="/", **fields)["stdout"].split()


@needs_root
def test_processes_run_as_the_user_with_its_groups_and_home(
    make_server: MakeServer, open_path: Path
) -> None:
    server = make_server(args=["--user", "nobody:daemon"])

    uid, user, logname, home, group = told(
        server, "id -u; echo $USER $LOGNAME $HOME; id -gn", env={"HOME": "/root", "USER": "root"}
    )

    assert uid == str(65534)
    assert (user, logname, group) == ("nobody", "nobody", "daemon")
    assert home != "/root"
    groups = told(server, "id -G")
    assert "0" not in groups
    assert told(server, "cat /proc/self/oom_score_adj") == ["500"]


@needs_root
def test_the_home_is_the_users_for_files_and_for_working_directories(
    make_server: MakeServer, open_path: Path
) -> None:
    mine = open_path / "mine"
    mine.mkdir()
    os.chown(mine, 61131, 61131)
    server = make_server(args=["--user", "61131"], env={"HOME": str(open_path)})
    home = f"~{mine}"  # the home of a user that nobody knows is /

    assert server.client.put(f"/filesystem/{home}/f", json={"content": "text"}).is_success

    assert (mine / "f").read_text() == "text"
    assert server.run("pwd; cat f", workingDir=home)["stdout"] == f"{mine}\ntext"
    body = {"oldString": "text", "newString": "more"}
    assert server.client.post(f"/filesystem-edit/{home}/f", json=body).is_success
    assert '"f"' in server.client.get(f"/filesystem-find/{home}").text
    assert '"f"' in server.client.get(f"/filesystem-search/{home}?query=f").text
    assert '"f"' in server.client.get(f"/filesystem-content-search/{home}?query=more").text
    assert server.client.get(f"/filesystem-changes/{home}").is_success
    tools = Tools(server)
    assert tools.value("fsReadFile", path=f"{home}/f")["content"] == "more"
    done = tools.value("processExecute", command="pwd", workingDir=home, waitForCompletion=True)
    assert str(mine) in json.dumps(done)


@needs_root
def test_no_request_field_changes_the_user(make_server: MakeServer, open_path: Path) -> None:
    server = make_server(args=["--user", "nobody"])

    asked = {"command": "id -u", "user": "root", "waitForCompletion": True}
    refused = server.client.post("/process", json=asked)
    answer = told(server, "id -u", env={"BL_SANDBOX_USER": "root"})

    assert refused.status_code == 403
    assert "'root'" in refused.json()["error"]
    assert answer == ["65534"]


@needs_root
def test_the_variable_counts_only_when_it_is_enabled(
    make_server: MakeServer, open_path: Path
) -> None:
    off = make_server(env={"BL_SANDBOX_USER": "nobody"})
    on = make_server(env={"BL_SANDBOX_USER": "54321", "BL_SANDBOX_USER_ENABLED": "true"})

    assert told(off, "id -u") == ["0"]
    assert told(on, "id -u; echo $HOME") == ["54321", "/"]


@needs_root
def test_a_restart_and_root_only_files_keep_to_the_user(
    make_server: MakeServer, open_path: Path
) -> None:
    server = make_server(args=["--user", "nobody"])
    secret = open_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)

    done = server.run(
        f"id -u; cat {secret}; exit 1", workingDir="/", restartOnFailure=True, maxRestarts=1
    )

    assert done["stdout"].split().count("65534") == 2
    assert "root's" not in done["stdout"]


@needs_root
def test_the_process_may_reopen_its_own_output(make_server: MakeServer, open_path: Path) -> None:
    server = make_server(args=["--user", "nobody"])

    assert told(server, "echo again > /dev/stdout") == ["again"]


@pytest.mark.parametrize("user", ["root", "0", "no-such-user", "nobody:x:y", str(2**32 - 1)])
def test_a_server_with_an_unusable_user_does_not_start(user: str) -> None:
    command = [sys.executable, "-m", "sandkeeper", "--port", "1", "--user", user]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("sandkeeper: cannot run as the configured user: ")


def test_the_server_protects_itself_from_the_oom_killer_and_nobody_else(
    make_server: MakeServer,
) -> None:
    server = make_server()
    status = Path("/proc/self/status").read_text()
    may_lower = int(status.split("CapEff:")[1].split()[0], 16) & CAP_SYS_RESOURCE
    expected = "-500" if may_lower else Path("/proc/self/oom_score_adj").read_text().strip()

    assert Path(f"/proc/{server.pid}/oom_score_adj").read_text().strip() == expected
    assert told(server, "cat /proc/self/oom_score_adj") == ["500"]


def test_settings_may_come_from_the_env_file(make_server: MakeServer, tmp_path: Path) -> None:
    path = tmp_path / "vars"
    path.write_bytes(b"SANDKEEPER_TOKEN\0from-file\0SK_PATH\0x\0")
    server = make_server(env={"BL_ENV_VAR_PATH": str(path)})

    assert server.client.get("/").status_code == 401
    server.client.headers["Authorization"] = "Bearer from-file"
    assert told(server, "echo $SK_PATH") == ["x"]


def test_a_reload_reaches_later_processes(make_server: MakeServer, tmp_path: Path) -> None:
    document = tmp_path / "metadata"
    server = make_server(env={"BL_METADATA_PATH": str(document), "SK_A": "start"})

    missing = server.client.post("/environment/reload")
    document.write_text("{")
    broken = server.client.post("/environment/reload")
    document.write_text(json.dumps({"generation": 7, "environment": {"SK_A": "a", "SK_B": "b"}}))
    done = server.client.post("/environment/reload")
    first = told(server, "echo $SK_A $SK_B")
    document.write_text(json.dumps({"generation": 8, "environment": {"SK_A": "c"}}))
    again = server.client.post("/environment/reload")

    assert (missing.status_code, broken.status_code) == (404, 500)
    assert "error" in missing.json()
    assert "error" in broken.json()
    assert done.json() == {"generation": 7, "applied": 2, "removed": 0}
    assert first == ["a", "b"]
    assert again.json() == {"generation": 8, "applied": 1, "removed": 1}
    assert told(server, "echo $SK_A ${SK_B-gone}") == ["c", "gone"]


@needs_root
def test_a_workload_cannot_reach_root_through_the_state_folder(
    make_server: MakeServer, open_path: Path
) -> None:
    server = make_server(args=["--user", "nobody"])

    done = server.run(f"ls {server.state}; cat {server.state}/*/*; true", workingDir="/")

    assert done["stdout"] == ""
    assert os.stat(server.state).st_mode & 0o077 == 0


ISOLATED = """
import socket, sys
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        try:
            sock.connect((address, int(sys.argv[1])))
            sock.sendall(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
            print("answered" if sock.recv(100) else "closed")
        except OSError:
            print("closed")
"""


@needs_root
def test_an_isolated_workload_does_not_reach_the_api(
    make_server: MakeServer, open_path: Path
) -> None:
    server = make_server(
        env={"BL_SANDBOX_API_ISOLATION": "true", "BL_SANDBOX_USER": "nobody"},
        args=["--host", "::"],
    )
    command = f"python3 -c '{ISOLATED}' {server.port} 127.0.0.1 ::1; id -un"

    assert server.run(command)["stdout"].split() == ["closed", "closed", "nobody"]
    assert server.client.get("/health").status_code == 200


@needs_root
def test_isolation_without_a_user_to_isolate_ends_the_start(tmp_path: Path) -> None:
    env = {**os.environ, "BL_SANDBOX_API_ISOLATION": "true", "SANDKEEPER_STATE_DIR": str(tmp_path)}
    env.pop("BL_SANDBOX_USER", None)
    command = [sys.executable, "-m", "sandkeeper", "--port", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert "BL_SANDBOX_API_ISOLATION='true' is no use without a workload user" in done.stderr
