"""A workload with a user of its own gains nothing by what is the operator's."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Server, free_port, needs_root, until
from tests.storage import storage

from sandkeeper.linux.mounts import mounts

pytestmark = needs_root

UID = 61117  # of these tests alone: others stop all processes of nobody
ADMIN = {"Authorization": "Bearer the-operator's"}
OPERATORS = {
    "SANDKEEPER_RCLONE_ARGS": "--s3-secret-access-key=k1-secret",
    "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": "k2-secret",
    "RELACE_API_KEY": "k3-secret",
    "MORPH_API_KEY": "k4-secret",
}
TOKENS = {"SANDKEEPER_ADMIN_TOKEN": "the-operator's", "BL_ARCHIVE_IMPORT_URL": ""}


@pytest.fixture(scope="module")
def apart() -> Iterator[Server]:
    """Return a server of root's whose workload has a user of its own; the operator has a token.

    Not in pytest's folder, which is closed to everybody else.
    """
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        tree = folder / "tree"
        (tree / "closed").mkdir(parents=True)
        (tree / "closed").chmod(0o700)
        (tree / "closed" / "secret").write_text("ROOT-ONLY-SECRET")
        drives = folder / "drives"
        drives.mkdir(mode=0o700)
        env = {
            **TOKENS,
            **OPERATORS,
            "SANDKEEPER_ARCHIVE_ROOT": str(tree),
            "SANDKEEPER_DRIVE_DRIVER": "bind",
            "SANDKEEPER_DRIVE_ROOT": str(drives),
            "SANDKEEPER_RCLONE_REMOTE": f":local:{folder / 'tree'}",
        }
        command = f"env > {folder}/startup/env"
        (folder / "startup").mkdir()
        os.chown(folder / "startup", UID, UID)
        with Server(folder, args=["--user", str(UID), "-c", command], env=env) as running:
            os.chown(running.workdir, UID, UID)
            yield running
            for mount in mounts():
                if mount.path.startswith(name):
                    subprocess.run(["umount", "-l", mount.path], check=False)


# Drives


def mount(server: Server, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return server.client.post("/drives/mount", json=body, headers=headers)


def test_the_workload_mounts_its_own_drives_and_keeps_what_it_wrote(apart: Server) -> None:
    place = apart.workdir / "mine"

    for content in ("", "kept\n"):
        reply = mount(apart, driveName="mine", mountPath=str(place), drivePath="/a/b")
        assert reply.status_code == 200, reply.text
        made = apart.run(f"cat {place}/note; echo kept > {place}/note; stat -c %u {place}")
        assert made["stdout"] == content + f"{UID}\n"
        assert apart.client.delete(f"/drives/mount{place}").status_code == 200
    assert (apart.folder / "drives" / "mine").stat().st_uid == UID


def test_without_a_user_of_the_workload_the_operators_token_mounts(make_server) -> None:
    env = {"SANDKEEPER_ADMIN_TOKEN": "the-operator's", "SANDKEEPER_DRIVE_DRIVER": "bind"}
    own: Server = make_server(env=env)
    place = str(own.workdir / "place")

    refused = mount(own, driveName="x", mountPath=place)
    assert refused.status_code == 403
    assert "needs the operator's right (drives)" in refused.json()["error"]
    assert mount(own, ADMIN, driveName="x", mountPath=place).status_code == 200
    assert own.client.delete(f"/drives/mount{place}").status_code == 403
    assert own.client.delete(f"/drives/mount{place}", headers=ADMIN).status_code == 200


def test_drives_of_others_need_the_operator(apart: Server) -> None:
    drives = apart.folder / "drives"
    (drives / "roots").mkdir()
    (drives / "roots" / "secret").write_text("ROOT-ONLY-SECRET")
    (drives / "mixed" / "closed" / "below").mkdir(parents=True)
    (drives / "mixed" / "closed" / "below" / "secret").write_text("ROOT-ONLY-SECRET")
    os.chown(drives / "mixed", UID, UID)
    (drives / "mixed" / "closed").chmod(0o700)
    (drives / "linked").symlink_to(apart.folder / "tree")
    place = str(apart.workdir / "theirs")
    for name, path in (("roots", "/"), ("mixed", "/closed/below"), ("mixed", "/closed/new")):
        reply = mount(apart, driveName=name, mountPath=place, drivePath=path)
        assert reply.status_code in {403, 500}, (name, path)
        assert re.search("does not belong to the workload|permission denied", reply.text)
    assert mount(apart, driveName="linked", mountPath=place).status_code == 500
    for driver in ("rclone", "blfs", "weed"):
        reply = mount(apart, driveName="x", mountPath=place, driver=driver)
        assert reply.status_code == 403, driver
        assert "send the token of SANDKEEPER_ADMIN_TOKEN, or permit it" in reply.text
    assert not (drives / "mixed" / "closed" / "new").exists()
    assert place not in {one.path for one in mounts()}

    assert mount(apart, ADMIN, driveName="roots", mountPath=place).status_code == 200
    assert mount(apart, driveName="mine", mountPath=place).status_code == 409
    refused = apart.client.delete(f"/drives/mount{place}")
    assert refused.status_code == 403
    assert "was not mounted for the workload's user" in refused.json()["error"]
    assert place in {one.path for one in mounts()}
    assert apart.client.delete(f"/drives/mount{place}", headers=ADMIN).status_code == 200


# What the workload sees


def test_the_workload_inherits_nothing_that_governs_the_server(apart: Server, make_server) -> None:
    env = apart.folder / "startup" / "env"
    started = until(lambda: env.exists() and "PATH=" in (told := env.read_text()) and told)
    apart.client.post("/terminals", json={"sessionId": "t", "cols": 1000})
    apart.client.post("/terminals/t/input", content=b"env; echo d'one'\r")
    params = {"format": "text", "waitFor": "done\n"}
    screen = apart.client.get("/terminals/t/screen", params=params).text
    for shown in (apart.run("env", workingDir="/")["stdout"], started, screen):
        assert "PATH=" in shown
        for name in (*OPERATORS, "SANDKEEPER_", "-secret", "the-operator's"):
            assert name not in shown
    other: Server = make_server(env=OPERATORS)
    assert "RELACE_API_KEY=k3-secret" in other.run("env")["stdout"]


def test_a_token_file_that_the_workload_can_read_ends_the_start(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sandkeeper-") as name:
        path = Path(name) / "token"
        path.write_text("the-operator's")
        Path(name).chmod(0o755)
        path.chmod(0o644)
        env = {
            **os.environ,
            "SANDKEEPER_STATE_DIR": f"{name}/state",
            "SANDKEEPER_ADMIN_TOKEN_FILE": str(path),
        }
        argv = [sys.executable, "-m", "sandkeeper", "--port", "0", "--user", str(UID)]
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=30, check=False
        )

    assert done.returncode == 2
    assert "token can be read by the workload's user" in done.stderr


def test_holders_of_ports_are_told_as_far_as_the_workload_sees_them(apart: Server) -> None:
    listen = "import socket,signal; s=socket.create_server(('127.0.0.1',{})); signal.pause()"
    ours, theirs = free_port(), free_port()
    mine = apart.client.post(
        "/process",
        json={"command": f'exec python3 -S -c "{listen.format(ours)}"', "workingDir": "/"},
    ).json()["pid"]
    root = subprocess.Popen([sys.executable, "-S", "-c", listen.format(theirs)])
    try:

        def found() -> dict[int, Any]:
            listed = apart.client.get("/network/ports").json()["ports"]
            seen = {one["localPort"]: one for one in listed}
            return seen if {ours, theirs} <= seen.keys() else {}

        seen = until(found)
        assert str(seen[ours]["pid"]) == mine
        for port in (theirs, apart.port):
            assert not seen[port].get("pid"), seen[port]
            assert not seen[port].get("processName"), seen[port]
        tree = f"/network/process/{root.pid}/ports"
        assert not apart.client.get(tree).json().get("ports")
        server = apart.client.get(f"/network/process/{apart.pid}/ports").json()["ports"]
        assert {one["localPort"] for one in server} == {ours}  # its child's
        (own,) = apart.client.get(f"/network/process/{mine}/ports").json()["ports"]
        assert own["localPort"] == ours
    finally:
        root.kill()
        root.wait()
        apart.client.delete(f"/process/{mine}/kill")


# The archive


def test_no_export_brings_the_workload_what_root_alone_reads(apart: Server) -> None:
    empty = apart.workdir / "empty"
    apart.run(f"mkdir -p {empty}")
    with storage() as kept:
        for body in (
            {"url": kept.url("x"), "imageMountPoint": str(empty)},
            {"url": kept.url("x"), "imageDevice": "/dev/null"},
            {"dryRun": True, "imageMountPoint": str(empty)},
            {"multipart": {"partUrls": [kept.url("p")], "completeUrl": kept.url("c")}},
        ):
            reply = apart.client.post("/archive/export", json=body)
            assert reply.status_code == 403, body
            assert "secret" not in reply.text
            sent = shlex.quote(str(reply.request.content, "utf-8"))
            done = apart.run(f"curl -s {apart.url}/archive/export -d {sent}", workingDir="/")
            assert "needs the operator's right" in done["stdout"]
        assert kept.asked == []

        body = {"url": kept.url("x"), "imageMountPoint": str(empty), "saveProcesses": False}
        assert apart.client.post("/archive/export", json=body, headers=ADMIN).status_code == 200
        assert b"ROOT-ONLY-SECRET" in kept.kept["x"]
    assert apart.client.post("/archive/resume").status_code == 403
    assert apart.client.post("/archive/resume", headers=ADMIN).status_code == 200
