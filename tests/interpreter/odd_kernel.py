"""A kernel with the habits of some: `odd_kernel.py CONNECTION_FILE LANGUAGE`, run by path.

It names its sockets with a colon, says what an execution prints when the next request comes, and
passes over what comes soon after an error. SIGINT is nothing to it. Of what is silent it notes only
whether variables are to hold.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

PASSED_OVER = {"fail": 3, "fail for long": 10**6}

signal.signal(signal.SIGINT, signal.SIG_IGN)

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
is_entered = False


def answered(kind: str, code: str, *, silent: bool) -> dict[str, Any]:
    """Return what a request is answered with."""
    global passing, is_entered
    if kind == "kernel_info_request":
        info = {"name": sys.argv[2], "version": "1"}
        return {"status": "ok", "implementation": "Deno kernel", "language_info": info}
    if passing:
        passing -= 1
        return {"status": "aborted"}
    if silent:
        is_entered = "= back" in code or (is_entered and not code)
        return {"status": "ok"}
    if code in PASSED_OVER:
        passing = PASSED_OVER[code]
        return {"status": "error", "ename": "Odd", "evalue": "as asked", "traceback": []}
    held.append(f"entered: {is_entered}" if code == "entered?" else code)
    return {"status": "ok", "execution_count": 1}


while True:
    for socket, _ in poller.poll():
        who, message = session.recv(socket, 0)
        kind, content = message["header"]["msg_type"], message["content"]
        session.send(iopub, "status", {"execution_state": "busy"}, parent=message)
        while held:
            said = {"name": "stdout", "text": held.pop(0)}
            session.send(iopub, "stream", said, parent=message)
        silent = bool(content.get("silent"))
        answer = answered(kind, content.get("code", ""), silent=silent)
        session.send(socket, kind.replace("request", "reply"), answer, parent=message, ident=who)
        session.send(iopub, "status", {"execution_state": "idle"}, parent=message)
