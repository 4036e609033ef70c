"""The egress proxy against a direct connection: the same two programs, with and without it.

Method: a server process sends 1 GiB to a client process over loopback, directly and through a
CONNECT tunnel; the median of five alternating pairs of runs is compared. With TLS between client
and server, as nearly all egress has it, and as raw bytes: then nothing but the kernel's copying is
left to compare with, and on two cores three processes share what two had. A third figure opens 500
tunnels, exchanges a message on each and keeps them all open.
"""

import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import Row, percentile

TITLE = "Egress proxy"

SIZE = 1 << 30
PAIRS = 5
TUNNELS = 500
Context = multiprocessing.get_context("fork")


def _certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    subprocess.run([*command, "-subj", "/CN=localhost"], check=True, capture_output=True)
    return cert, key


def _source(queue: Any, files: tuple[Path, Path] | None) -> None:
    """Send SIZE bytes to whoever connects."""
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    listener = socket.create_server(("127.0.0.1", 0))
    queue.put(listener.getsockname()[1])
    data = bytes(256 << 10)
    while True:
        sock, _ = listener.accept()
        try:
            if context:
                sock = context.wrap_socket(sock, server_side=True)
            for _ in range(SIZE // len(data)):
                sock.sendall(data)
        except OSError:
            continue
        finally:
            sock.close()


def _echo_behind_connect(queue: Any) -> None:
    """Answer CONNECT, then be an echo."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    queue.put(listener.getsockname()[1])

    def serve(sock: socket.socket) -> None:
        with sock:
            while chunk := sock.recv(65536):
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if chunk.startswith(b"CONNECT") else chunk)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def _source_behind_connect(queue: Any, files: tuple[Path, Path] | None) -> None:
    """Be proxy and source in one: answer CONNECT, then send as `_source` does."""
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    listener = socket.create_server(("127.0.0.1", 0))
    queue.put(listener.getsockname()[1])
    data = bytes(256 << 10)
    while True:
        sock, _ = listener.accept()
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            if context:
                sock = context.wrap_socket(sock, server_side=True)
            for _ in range(SIZE // len(data)):
                sock.sendall(data)
        except OSError:
            continue
        finally:
            sock.close()


def _receive(port: int, *, tunnel: bool, tls: bool) -> float:
    """Return bytes per second from connecting to the last byte."""
    started = time.perf_counter()
    sock: socket.socket = socket.create_connection(("127.0.0.1", port))
    if tunnel:
        sock.sendall(b"CONNECT far:443 HTTP/1.1\r\nHost: far:443\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
    if tls:
        context = ssl._create_unverified_context()
        sock = context.wrap_socket(sock, server_hostname="localhost")
    buffer = bytearray(256 << 10)
    received = 0
    with sock:
        while received < SIZE and (count := sock.recv_into(buffer)):
            received += count
    assert received == SIZE, received
    return received / (time.perf_counter() - started)


def _keeper(folder: Path, upstream: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server whose egress leads to `upstream`; returns it and its proxy's port."""
    token = folder / "token"
    token.write_text("t")
    with (
        socket.create_server(("127.0.0.1", 0)) as probe,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        api, port = probe.getsockname()[1], other.getsockname()[1]
    env = {
        **os.environ,
        "HTTPS_PROXY": f"http://u:{{{{file({token})}}}}@127.0.0.1:{upstream}",
        "SANDBOX_LOCAL_PROXY_PORT": str(port),
        "SANDKEEPER_STATE_DIR": str(folder / f"state{port}"),
        "SANDKEEPER_LOG": "none",
    }
    command = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(api)]
    process = subprocess.Popen(command, env=env)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except OSError:
            time.sleep(0.02)


def _compare(folder: Path, files: tuple[Path, Path] | None) -> tuple[float, float]:
    """Return the medians of direct and proxied bytes per second."""
    queue = Context.Queue()
    started: list[Any] = []
    ports = []
    for target in (_source, _source_behind_connect):
        process = Context.Process(target=target, args=(queue, files), daemon=True)
        process.start()
        started.append(process)
        ports.append(queue.get())
    keeper, port = _keeper(folder, ports[1])
    try:
        direct, proxied = [], []
        for _ in range(PAIRS):
            direct.append(_receive(ports[0], tunnel=False, tls=files is not None))
            proxied.append(_receive(port, tunnel=True, tls=files is not None))
        return statistics.median(direct), statistics.median(proxied)
    finally:
        keeper.terminate()
        keeper.wait()
        for process in started:
            process.terminate()


def _tunnels(folder: Path) -> tuple[int, float, float]:
    """Return how many of 500 open tunnels answered, the time to open one and to ask one (ms)."""
    queue = Context.Queue()
    upstream = Context.Process(target=_echo_behind_connect, args=(queue,), daemon=True)
    upstream.start()
    keeper, port = _keeper(folder, queue.get())
    socks, opened, asked = [], [], []
    try:
        for _ in range(TUNNELS):
            started = time.perf_counter()
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            sock.sendall(b"CONNECT far:443 HTTP/1.1\r\nHost: far:443\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            opened.append((time.perf_counter() - started) * 1000)
            socks.append(sock)
        answered = 0
        for sock in socks:
            started = time.perf_counter()
            sock.sendall(b"ping")
            answered += sock.recv(4) == b"ping"
            asked.append((time.perf_counter() - started) * 1000)
        return answered, percentile(opened, 50), percentile(asked, 99)
    finally:
        for sock in socks:
            sock.close()
        keeper.terminate()
        keeper.wait()
        upstream.terminate()


def run() -> list[Row]:
    """Measure throughput in two ways, then 500 tunnels at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for what, files, target in (
            ("TLS through a tunnel", _certificate(folder), "≥ 60 % of direct"),
            ("raw bytes through a tunnel", None, "≥ 60 % of direct"),
        ):
            direct, proxied = _compare(folder, files)
            share = proxied / direct
            rows.append(
                Row(
                    what,
                    f"{share:.0%} of direct",
                    target,
                    share >= 0.6,
                    f"{proxied / 1e6:.0f} of {direct / 1e6:.0f} MB/s",
                )
            )
        answered, opening, asking = _tunnels(folder)
    rows.append(
        Row(
            "tunnels open at once that answer",
            str(answered),
            str(TUNNELS),
            answered == TUNNELS,
            f"open p50 {opening:.1f} ms, round trip p99 {asking:.1f} ms",
        )
    )
    return rows
