"""The exporter of OTLP, run by path: `exporter_main.py DESCRIPTOR SERVICE INSTANCE SIGNAL...`.

A load of a signal comes by its socket, is encoded and posted, and what became of it is answered; a
thread for each signal, so a collector that takes no traces still gets logs. It remembers nothing
that its server does not have as well, so it may end at any time. At the end of its socket it does.
"""

import json
import os
import queue
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

SIGNALS = ("logs", "traces", "metrics")
HEAD = struct.Struct("=BI")
"""Number of the signal, bytes of the load."""
NO_LIBRARY = 3
"""The exit status where OpenTelemetry is not installed."""
ALIVE_SECONDS = 5.0
NICE = 5


class Answers:
    """The way back, for all threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def say(self, **fields: object) -> None:
        """Send one line; the server is always ready to read, or gone."""
        with self._lock:
            try:
                self._sock.sendall(json.dumps(fields).encode() + b"\n")
            except OSError:
                os._exit(0)


def serve(sock: socket.socket, service: str, instance: str, signals: list[str]) -> None:
    """Export until the other end is closed."""
    from sandkeeper.observability.otlp.posting import export_for, resource

    answers, who = Answers(sock), resource(service, instance)
    loads: dict[int, queue.SimpleQueue[bytes]] = {}
    for name in signals:
        number, coming = SIGNALS.index(name), queue.SimpleQueue[bytes]()
        loads[number] = coming
        values = (number, coming, export_for(name, who), answers)
        threading.Thread(target=work, args=values, daemon=True).start()
    while True:
        if not select.select([sock], [], [], ALIVE_SECONDS)[0]:
            answers.say()
            continue
        head = sock.recv(HEAD.size, socket.MSG_WAITALL)
        if len(head) < HEAD.size:
            os._exit(0)  # threads may be in the middle of a request
        number, size = HEAD.unpack(head)
        load = sock.recv(size, socket.MSG_WAITALL)
        if len(load) < size:
            os._exit(0)
        loads[number].put(load)


def work(
    number: int,
    coming: "queue.SimpleQueue[bytes]",
    export: Callable[[bytes], Iterable[dict[str, Any]]],
    answers: Answers,
) -> None:
    """Export the loads of one signal, one after the other."""
    while True:
        load = coming.get()
        try:
            for outcome in export(load):
                answers.say(lane=number, **outcome)
        except Exception as error:  # noqa: BLE001 - sent again, it would fail again
            lost = load.count(b"\n") or 1
            answers.say(lane=number, done=True, lost=lost, why=f"it cannot be encoded: {error!r}")


if __name__ == "__main__":
    # -I leaves nothing of the environment on the path; our own package need not be on it, either.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [one for one in sys.path if one != here]
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(here))))
    os.nice(NICE)
    with socket.socket(fileno=int(sys.argv[1])) as given:
        try:
            serve(given, sys.argv[2], sys.argv[3], sys.argv[4:])
        except ImportError:
            os._exit(NO_LIBRARY)
