"""Exports of 1 GB of changes to a storage on loopback that reads and forgets.

Method: the changes are files of this machine (from /usr, as they come, until there is 1 GB), and
once more the same bytes in eight files. The storage is a process of its own that answers a PUT when
it has its last byte. The time is the whole call's: stopping, looking for changes, compressing,
sending. Memory is the largest resident size seen every 10 ms, less the idle one before the first
export: what is imported for it counts. Requests meanwhile: `GET /health` every 5 ms.
"""

import multiprocessing
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.harness import Server

from benchmarks.load import disk_folder, rss, running
from benchmarks.tables import Row, percentile

TITLE = "Archive"

SIZE = 1 << 30
LARGE = 8
MANY = 50_000
Context = multiprocessing.get_context("fork")


def _storage(queue: Any) -> None:
    """Read every PUT to its end and answer 200."""
    listener = socket.create_server(("127.0.0.1", 0))
    queue.put(listener.getsockname()[1])
    buffer = bytearray(1 << 20)
    while True:
        sock, _ = listener.accept()
        with sock:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(65536)
            head, _, rest = head.partition(b"\r\n\r\n")
            left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(rest)
            while left > 0:
                left -= sock.recv_into(buffer)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _fill_real(folder: Path) -> int:
    """Copy files of the machine until there is 1 GB; returns how many."""
    size = count = 0
    for top, _, names in os.walk("/usr"):
        for name in names:
            source = Path(top, name)
            if source.is_symlink() or not source.is_file():
                continue
            target = folder / f"{count // 500}" / f"{count}-{name}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            size += target.stat().st_size
            count += 1
            if size >= SIZE:
                return count
    return count


def _fill_large(folder: Path, source: Path) -> None:
    files = sorted(source.rglob("*"))
    outs = [open(folder / str(number), "wb") for number in range(LARGE)]  # noqa: SIM115
    for number, path in enumerate(path for path in files if path.is_file()):
        outs[number % LARGE].write(path.read_bytes())
    for out in outs:
        out.close()


class _Watch:
    """The largest memory and the times of requests while inside."""

    def __init__(self, server: Server) -> None:
        self.peak = 0
        self.times: list[float] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._memory, self._requests)]

    def __enter__(self) -> "_Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, rss(self._server.pid))

    def _requests(self) -> None:
        while not self._stop.wait(0.005):
            began = time.perf_counter()
            self._server.client.get("/health")
            self.times.append((time.perf_counter() - began) * 1000)


def _export(
    root: Path, port: int, compression: str, *, dry: bool = False
) -> tuple[float, int, float, int]:
    """Return seconds, sent bytes, p99 of requests meanwhile in ms, and growth in bytes."""
    root.mkdir(exist_ok=True)
    env = {"SANDKEEPER_ARCHIVE_ROOT": str(root), "SANDKEEPER_ARCHIVE_IMAGE": str(root / "../none")}
    with running(env=env) as server:
        before = rss(server.pid)
        body = {"url": f"http://127.0.0.1:{port}/", "compression": compression, "dryRun": dry}
        with _Watch(server) as watch:
            began = time.perf_counter()
            reply = server.client.post("/archive/export", json=body, timeout=600)
            took = time.perf_counter() - began
        assert reply.status_code == 200, reply.text
        assert dry or reply.json()["manifest"]["payloadBytes"] >= SIZE * 0.9
        return took, reply.json()["size"], percentile(watch.times, 99), watch.peak - before


def run() -> list[Row]:
    """Export many real files and few large ones, plain and compressed; then look at many."""
    queue = Context.Queue()
    storage = Context.Process(target=_storage, args=(queue,), daemon=True)
    storage.start()
    port = queue.get()
    rows = []
    try:
        with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
            folder = Path(name)
            (folder / "none").mkdir()
            real, large, many = folder / "real", folder / "large", folder / "many"
            for made in (real, large, many):
                made.mkdir()
            count = _fill_real(real)
            _fill_large(large, real)
            for what, root in ((f"{count} files of /usr", real), (f"{LARGE} large files", large)):
                for compression in ("none", "zstd"):
                    rows += _rows(what, compression, *_export(root, port, compression))
            shutil.rmtree(real)
            for number in range(MANY):
                if number % 1000 == 0:
                    (many / str(number // 1000)).mkdir()
                (many / str(number // 1000) / str(number)).touch()
            took, _, late, growth = _export(many, port, "none", dry=True)
            rows.append(
                Row(
                    f"dry run over {MANY} new files",
                    f"{took / MANY * 1e6:.0f} µs a file",
                    "",
                    None,
                    f"memory + {growth / 1e6:.1f} MB, requests p99 {late:.1f} ms",
                )
            )
    finally:
        storage.terminate()
        storage.join()
    return rows


def _rows(
    what: str, compression: str, took: float, sent: int, late: float, growth: int
) -> list[Row]:
    with_zstd = compression == "zstd"
    rate = SIZE / took / 1e6
    return [
        Row(
            f"1 GB, {what}, {'zstd' if with_zstd else 'plain'}",
            f"{rate:.0f} MB/s",
            "≥ 200 MB/s",
            rate >= 200,
            f"{sent / 1e6:.0f} MB sent, requests p99 {late:.1f} ms",
        ),
        Row("memory meanwhile", f"+ {growth / 1e6:.1f} MB", "≤ 50 MB", growth <= 50e6),
    ]
