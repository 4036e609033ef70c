"""A kernel with the habits of some: `odd_kernel.py CONNECTION_FILE`, run by path.

It names its sockets with a colon, says what an execution prints when the next request comes, and
passes over what comes soon after an error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

PASSED_OVER = 3

facts = json.loads(Path(sys.argv[1]).read_bytes())
session = Session(key=facts["key"].encode())
context = zmq.Context()


def bound(kind: int, name: str) -> Any:
    """Return a socket that listens."""
    made = context.socket(kind)
    made.bind(f"{facts['transport']}://{facts['ip']}:{facts[name + '_port']}")
    return made


shell, control, stdin = (bound(zmq.ROUTER, name) for name in ("shell", "control", "stdin"))
iopub, heart = bound(zmq.PUB, "iopub"), bound(zmq.REP, "hb")
poller = zmq.Poller()
poller.register(shell, zmq.POLLIN)
poller.register(control, zmq.POLLIN)
held: list[str] = []
passing = 0


def answered(kind: str, code: str) -> dict[str, Any]:
    """Return what a request is answered with."""
    global passing
    if kind == "kernel_info_request":
        info = {"name": "odd", "version": "1"}
        return {"status": "ok", "implementation": "Deno kernel", "language_info": info}
    if passing:
        passing -= 1
        return {"status": "aborted"}
    if code == "fail":
        passing = PASSED_OVER
        return {"status": "error", "ename": "Odd", "evalue": "as asked", "traceback": []}
    held.extend([code] if code else [])
    return {"status": "ok", "execution_count": 1}


while True:
    for socket, _ in poller.poll():
        who, message = session.recv(socket, 0)
        kind, content = message["header"]["msg_type"], message["content"]
        session.send(iopub, "status", {"execution_state": "busy"}, parent=message)
        while held:
            said = {"name": "stdout", "text": held.pop(0)}
            session.send(iopub, "stream", said, parent=message)
        answer = answered(kind, content.get("code", ""))
        session.send(socket, kind.replace("request", "reply"), answer, parent=message, ident=who)
        session.send(iopub, "status", {"execution_state": "idle"}, parent=message)
