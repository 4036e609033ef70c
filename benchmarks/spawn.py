"""Starting processes: one waited for, many at once, a list of a thousand."""

import asyncio
import subprocess
import time

import httpx

from benchmarks.load import Request, running, timed
from benchmarks.tables import Row, percentile

TITLE = "Starting and listing processes"


def run() -> list[Row]:
    """Measure on one server with its state on disk."""
    with running() as server:
        request = Request(server.port)
        body = {"command": "true", "waitForCompletion": True}
        for _ in range(50):
            request.post("/process", body)
        waited = [timed(lambda: request.post("/process", body))[0] * 1000 for _ in range(300)]
        bare = [
            timed(lambda: subprocess.run(["/bin/bash", "-c", "true"], check=True))[0] * 1000
            for _ in range(300)
        ]
        rate = asyncio.run(_rate(server.url))
        listed = [timed(lambda: request.get("/process")) for _ in range(10)]
        count = listed[0][1].count(b'"pid":')
        slowest = max(seconds for seconds, _ in listed) * 1000
        p50, base = percentile(waited, 50), percentile(bare, 50)
        return [
            Row("POST /process `true`, waited: p50", f"{p50:.2f} ms", "≤ 3 ms", p50 <= 3),
            Row("the same against a bare subprocess.run", f"{p50 / base:.2f} ×", "≤ 3 ×",
                p50 <= 3 * base, f"bare: {base:.2f} ms"),
            Row("spawn", f"{rate:.0f} processes/s", "≥ 300 /s", rate >= 300),
            Row(f"GET /process, {count} entries", f"{slowest:.0f} ms, "
                f"{len(listed[0][1]) >> 10} KiB", "bounded"),
        ]  # fmt: skip


async def _rate(url: str, count: int = 1000, workers: int = 8) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await client.post("/process", json={"command": "true"})

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(workers)))
        return count / (time.perf_counter() - began)
