"""The guard of an upgrade: runs a new version in this very process, and goes back if it fails.

Run by path with the new version's interpreter, as the first thing after exec; it imports nothing of
the new version and of this one nothing either. It reads a plan from a memfd (its number is the only
argument), as JSON:

    run       arguments of the new server; its module is run as `python -m sandkeeper` would
    paths     folders to look for modules in first (the way back needs them)
    handover  descriptor of the document both servers read (upgrade.handover)
    listener  descriptor of the first listening socket, ours to keep until the verdict
    listeners those of all of them; absent when there is one
    address   host and port to ask for /health, the version expected there, seconds it may take
    verdict   descriptor of a pipe to write `ok` to once the new server answers; a server that is
              told to stop before closes the other end
    back      the way back: arguments and environment of the earlier server, and the descriptor of
              the plan that its guard reads; absent when this is the way back

Who watches what:

- an exception, an exit or a return of the new server before the verdict: seen here, in its own
  stack; the way back is an exec in the same process, so pid, children and sockets stay.
- a server that does not answer: seen by the *judge*, a forked process that asks for /health; its
  word reaches a thread here, which execs.
- a server that dies hard (a signal, `os._exit`): seen by the judge on a pidfd. The process is gone,
  so the judge itself becomes the earlier server. With pid 1 its whole pid namespace ends; whoever
  started that starts it again.
- one that hangs with the interpreter's lock: the judge kills it and does the same.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

ASK_EVERY = 0.05
ASK_SECONDS = 2.0
AGAIN_AFTER = 0.5
OBEY_SECONDS = 2.0


def healthy(address: list[Any], watched: list[int]) -> str:
    """Ask for /health once; return what is wrong, empty when the right version answers.

    What happens at the `watched` descriptors ends the waiting for an answer.
    """
    host, port, version = address[:3]
    try:
        with socket.create_connection((host, port), ASK_SECONDS) as sock:
            sock.settimeout(ASK_SECONDS)
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: guard\r\nConnection: close\r\n\r\n")
            watching: list[Any] = [sock, *watched]
            if sock not in select.select(watching, [], [], ASK_SECONDS)[0]:
                return "/health is not answered"
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ")[1:2] != [b"200"]:
            return f"/health answers {head[:40]!r}"
        found = json.loads(body).get("version")
        return "" if found == version else f"/health tells version {found}, not {version}"
    except (OSError, ValueError, AttributeError) as error:
        return f"/health cannot be asked: {error!r}"


class Ended(Exception):
    """The server needs no verdict any more: it went back by itself or was told to stop."""


def await_health(address: list[Any], server: int, word: int) -> str:
    """Ask until it answers twice; return why it is given up, empty when it answers."""
    poller = select.poll()
    for fd in (server, word):
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + address[3]
    good = 0
    while good < 2:
        wait = AGAIN_AFTER if good else ASK_EVERY
        if poller.poll(wait * 1000):
            if os.read(word, 16) == b"bye" or not died(server):
                raise Ended
            return "its process died"
        wrong = healthy(address, [server, word])
        good = good + 1 if not wrong else 0
        if wrong and time.monotonic() > deadline:
            return wrong
    return ""


def died(server: int) -> bool:
    """Say whether the process of a pidfd has ended; give it a moment to do so."""
    return bool(select.select([server], [], [], 1.0)[0])


def judge(plan: dict[str, Any], server: int, word: int) -> None:
    """Give the verdict over the process of pidfd `server`; raises Ended when it needs none."""
    why = await_health(plan["address"], server, word)
    if not why:
        os.write(word, b"ok")
        return
    if not select.select([server], [], [], 0)[0]:
        os.write(word, b"back " + why.encode())
        # Without a word, or the end of its end of `word`, the process hangs.
        if select.select([word], [], [], OBEY_SECONDS)[0] and (
            os.read(word, 16) == b"bye" or not died(server)
        ):
            return
        signal.pidfd_send_signal(server, signal.SIGKILL)
        why += "; it did not obey and was killed"
        if not died(server):
            return  # pid 1 of a namespace cannot be killed from inside
    os.setsid()
    go_back(plan, why)


def fork_judge(plan: dict[str, Any]) -> int:
    """Fork the judge; return the descriptor its word comes on."""
    ours, its = socket.socketpair()
    server = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        try:
            keep = {0, 1, 2, its.fileno(), server, *inherited(plan)}
            for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
                if fd not in keep:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            judge(plan, server, its.fileno())
        except Ended:
            pass
        finally:
            os._exit(0)
    os.close(server)
    its.close()
    return ours.detach()


def inherited(plan: dict[str, Any]) -> list[int]:
    """Return the descriptors that the way back needs."""
    return [*listeners(plan), plan["handover"], plan["back"]["plan"]]


def listeners(plan: dict[str, Any]) -> list[int]:
    """Return the descriptors of all listening sockets."""
    found: list[int] = plan.get("listeners") or [plan["listener"]]
    return found


def go_back(plan: dict[str, Any], why: str) -> None:
    """Become the earlier server again; the document tells it why. Only returns by OSError."""
    document = json.loads(os.pread(plan["handover"], 64 << 20, 0))
    document["failed"] = why
    document["listener"], document["verdict"] = plan["listener"], -1
    document["listeners"] = listeners(plan)
    # Descriptors the new server has closed or used in other ways are no sockets of ours any more.
    document["connections"] = [
        held for held in document.get("connections", []) if is_inheritable(held["fd"])
    ]
    data = json.dumps(document).encode()
    os.ftruncate(plan["handover"], 0)
    os.pwrite(plan["handover"], data, 0)
    back = plan["back"]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ignore(plan.get("ignored", []))
    os.execve(back["arguments"][0], back["arguments"], back["environment"])


def ignore(numbers: list[int]) -> None:
    """Ignore signals in whichever thread this is: signal.signal is for the main one."""
    import ctypes  # seldom needed, and slow to import

    ignored = ctypes.c_void_p(int(signal.SIG_IGN))
    for number in numbers:
        ctypes.CDLL(None).signal(number, ignored)


def is_inheritable(fd: int) -> bool:
    """Say whether a descriptor is open and lives on over exec: nobody has taken it yet."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


class Watch(threading.Thread):
    """Waits for the judge's word beside the new server."""

    def __init__(self, plan: dict[str, Any], word: int) -> None:
        super().__init__(name="upgrade-guard", daemon=True)
        self.plan = plan
        self.word = word
        self.over = False
        self.going = False

    def run(self) -> None:
        """Obey: tell the server that it may stay, or go back."""
        said = os.read(self.word, 4096)
        if said.startswith(b"back "):
            self.go_back(said[5:].decode("utf-8", "replace"))
        if self.going:
            return  # the judge was told, and the descriptors are still needed
        # Silence is a judge that was killed: then nothing speaks against the new server.
        self.over = True
        with contextlib.suppress(OSError):  # it is being stopped
            os.write(self.plan["verdict"], b"ok")
        for fd in (self.plan["verdict"], self.word, *inherited(self.plan)):
            os.close(fd)

    def let_go(self) -> bool:
        """Say whether the server ended because it was told to: then nobody goes back."""
        if self.over:
            return True
        poller = select.poll()
        poller.register(self.plan["verdict"], 0)
        if not poller.poll(0):
            return False
        os.write(self.word, b"bye")
        return True

    def go_back(self, why: str) -> None:
        """Go back in this process. The judge must know: what ends later is not its affair."""
        self.going = True
        with contextlib.suppress(OSError):
            os.write(self.word, b"bye")
        go_back(self.plan, why)

    def leave(self) -> None:
        """End at once, for good."""
        os.write(self.word, b"bye")
        os._exit(0)


def main(number: int) -> None:
    """Run the server of the plan."""
    plan = json.loads(os.pread(number, 64 << 20, 0))
    os.close(number)
    sys.path[:0] = plan.get("paths", [])
    sys.argv = ["sandkeeper", *plan["run"]]
    if "back" not in plan:
        runpy.run_module("sandkeeper", run_name="__main__", alter_sys=True)
        return
    watch = Watch(plan, fork_judge(plan))
    # Until the server has handlers of its own: who ends us now does not want the way back.
    signal.signal(signal.SIGTERM, lambda *_: watch.leave())
    watch.start()
    try:
        runpy.run_module("sandkeeper", run_name="__main__", alter_sys=True)
        why = "it returned"
    except BaseException as error:
        if watch.let_go():
            raise
        why = f"it ended with {error!r}"
    if not watch.let_go():
        watch.go_back(why[:4000])


if __name__ == "__main__":
    main(int(sys.argv[1]))
