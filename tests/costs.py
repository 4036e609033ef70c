"""Says what each test costs: `scripts/test -p tests.costs …` writes `.pytest_cache/costs`.

Columns: seconds, CPU seconds of the test and of all processes below it, servers started, place.
What a fixture of a module costs is counted with the test that needs it first and the one that
ends it. Processes that outlive their parent (keepers) are not counted.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server

TICKS = os.sysconf("SC_CLK_TCK")
_starts = 0


def _spent() -> float:
    """Return the CPU seconds of this process and of everything below it, ended or not."""
    parents: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
            used[int(name)] = sum(int(field) for field in fields[11:15])
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        total += used.get(pid, 0)
        waiting += parents.get(pid, [])
    return total / TICKS


def _counted(start: object) -> object:
    def counting(self: Server) -> None:
        global _starts
        _starts += 1
        start(self)  # type: ignore[operator]

    return counting


def pytest_configure(config: pytest.Config) -> None:
    """Count the starts of servers, and begin the table."""
    Server.start = _counted(Server.start)  # type: ignore[method-assign,assignment]
    _table(config).parent.mkdir(parents=True, exist_ok=True)
    _table(config).write_text("")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure a test with its fixtures."""
    begun, spent, starts = time.monotonic(), _spent(), _starts
    result = yield
    seconds, cpu = time.monotonic() - begun, _spent() - spent
    with _table(item.config).open("a") as table:
        table.write(f"{seconds:8.2f} {cpu:8.2f} {_starts - starts:3d} {item.nodeid}\n")
    return result


def _table(config: pytest.Config) -> Path:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return config.rootpath / ".pytest_cache" / "costs" / worker
