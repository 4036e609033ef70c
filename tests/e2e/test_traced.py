"""A process that a tracer does not let go cannot be reaped, and holds up nobody."""

import os
import sys
from pathlib import Path

import pytest
from tests.harness import Server, until

TRACED = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PTRACER, PTRACE_SEIZE = 0x59616D61, 0x4206
libc.prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
ours, (ready, told) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.setsid()
    failed = libc.ptrace(PTRACE_SEIZE, ours, None, None)
    os.write(told, b"no" if failed else b"ok")
    for fd in (0, 1, 2):
        os.close(fd)
    while True:
        signal.pause()
answer = os.read(ready, 2)
print(answer.decode(), flush=True)
os._exit(7)
"""


@pytest.fixture
def traced(make_server, tmp_path: Path) -> Server:
    own: Server = make_server()
    (own.workdir / "traced.py").write_text(TRACED)
    command = f"exec {sys.executable} -S traced.py"
    reply = own.client.post(
        "/process", json={"command": command, "name": "t", "workingDir": str(own.workdir)}
    )
    assert reply.status_code == 200
    return own


def tracer_of(server: Server) -> int:
    with open(f"/proc/{server.client.get('/process/t').json()['pid']}/status") as file:
        found = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return int(found["TracerPid"])


def test_its_end_is_told_with_its_code_and_others_are_served(traced: Server) -> None:
    ended = traced.client.get("/process/t/wait?timeout=60").json()
    if ended["stdout"] == "no\n":
        pytest.skip("this machine lets nobody trace its parent (kernel.yama.ptrace_scope)")
    tracer = tracer_of(traced)
    assert tracer

    assert (ended["stdout"], ended["exitCode"], ended["exitReason"]) == ("ok\n", 7, "exited")
    assert traced.run("echo on")["stdout"] == "on\n"
    os.kill(tracer, 9)
    until(lambda: not os.path.exists(f"/proc/{ended['pid']}"))
