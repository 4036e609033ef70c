"""Boots the microVM and tries what can be tried only there: `trial.py FILES [--starts N]`.

Process 1 of a machine without any init, an older kernel, cgroup v2, the power button, pauses and
snapshots. Emulated by qemu, so nothing is quick: times are compared with those of an init that
only answers, on the same kernel and root: one in C (answers.c), and one in Python (answers.py),
which is what an interpreter takes there at least. Raises SystemExit at what is not so.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from machine import Machine

SERVER = ("/opt/sandkeeper/bin/sandkeeper", "--host 0.0.0.0 --port 8080")
BARE = ("/usr/local/sbin/answers", "")
LEAST = (
    "/usr/local/sbin/answers",
    "/opt/sandkeeper/libexec/python3.11 -I -S /usr/local/sbin/answers.py",
)
"""What is started as process 1, and its arguments."""

TO_REACH = 1.5
MIB = 1 << 20
PATIENCE = 600.0
ANSWER_SECONDS, EMULATED = 0.1, 5
HOURS = 5 * 3600


def main() -> None:
    """Try all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path)
    parser.add_argument("--starts", type=int, default=1, help="starts of each, by turns")
    parser.add_argument("--untried", action="store_true", help="only start them")
    options = parser.parse_args()
    starts: dict[tuple[str, str], list[Start]] = {BARE: [], LEAST: [], SERVER: []}
    for number in range(options.starts):
        last = number == options.starts - 1
        for kind, taken in starts.items():
            with booted(options.files, *kind) as machine:
                taken.append(Start(machine.seconds, machine.work))
                if last and kind is SERVER and not options.untried:
                    with machine_client(machine) as client:
                        Trial(machine, client).run()
                elif last:
                    told_of_snapshot(machine)
    told("power-on to /health", [[one.seconds for one in taken] for taken in starts.values()])
    told("the processor's time of that", [[one.work for one in taken] for taken in starts.values()])


class Start(NamedTuple):
    """What a start took until the first answer: time, and the processor's time, in seconds."""

    seconds: float
    work: float


def told(what: str, taken: list[list[float]]) -> None:
    """Print how the medians compare: of the init in C, that in Python, the server."""
    bare, least, server = map(statistics.median, taken)
    reached = "reached" if server <= TO_REACH * bare else "not reached"
    print(
        f"{what}: {server:.1f} s, an init that only answers {bare:.1f} s: {server / bare:.2f} x "
        f"(to reach: {TO_REACH} x, {reached}); one in Python {least:.1f} s: {least / bare:.2f} x, "
        f"of which the server is {server / least:.2f} x"
    )


def told_of_snapshot(machine: Machine) -> None:
    """Print how soon it answers after a snapshot is resumed: what qemu alone takes for that."""
    for _ in range(10):
        machine.answer_seconds()
    machine.person("savevm least")
    machine.person("loadvm least")
    began = time.monotonic()
    until(lambda: machine.answer_seconds() is not None)
    first = time.monotonic() - began
    print(f"  after a snapshot: the first answer takes {first * 1000:.0f} ms", flush=True)


@contextlib.contextmanager
def booted(files: Path, program: str, arguments: str) -> Iterator[Machine]:
    """Give a machine that answers."""
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(files, Path(name), program, options=arguments)
        try:
            machine.until_healthy()
            started = (arguments if program == LEAST[0] else "") or program
            print(
                f"{started} answers after {machine.seconds:.1f} s ({machine.work:.1f} s)",
                flush=True,
            )
            yield machine
        finally:
            machine.close()


def machine_client(machine: Machine) -> httpx.Client:
    """Return a client of the server in it."""
    url = f"http://127.0.0.1:{machine.port}"
    return httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)


def demand(what: str, holds: object, seen: object = "") -> None:
    """Say that something holds; raises SystemExit when it does not."""
    if not holds:
        raise SystemExit(f"sandkeeper: not so: {what}\n{seen}")
    print(f"  {what}", flush=True)


def until(holds: Callable[[], Any]) -> Any:
    """Wait until something holds, for as long as patience lasts; returns it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


class Trial:
    """What is tried with one machine, in order: each part leaves it running but the last."""

    def __init__(self, machine: Machine, client: httpx.Client) -> None:
        self.machine, self.client = machine, client

    def run(self) -> None:
        """Try it."""
        self.is_a_machine()
        self.has_limits()
        self.usual = max(self.health_seconds() for _ in range(10))
        self.goes_on_after_a_pause()
        self.notices_a_snapshot()
        self.is_switched_off()

    def command(self, text: str, **more: Any) -> dict[str, Any]:
        """Run a command to its end; returns its record."""
        body = {"command": text, "waitForCompletion": True, "timeout": 60, **more}
        record: dict[str, Any] = self.client.post("/process", json=body).json()
        return record

    def said(self, text: str) -> str:
        """Return what a command prints."""
        return str(self.command(text)["stdout"])

    def health_seconds(self) -> float:
        """Ask for /health on a new connection; returns how long the answer took."""
        taken = self.machine.answer_seconds()
        return PATIENCE if taken is None else taken

    def is_a_machine(self) -> None:
        """Mounts, names, the loopback, orphans, statuses: what an init sees to."""
        told = self.said("cat /proc/1/comm /proc/sys/kernel/hostname; uname -r; cat /proc/mounts")
        places = {line.split()[1] for line in told.splitlines() if len(line.split()) == 6}
        wanted = {"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp", "/sys/fs/cgroup"}
        demand("all is mounted that programs expect", wanted <= places, told)
        demand("the machine has its name", "microvm\n" in told, told)
        flags = int(self.said("cat /sys/class/net/lo/flags"), 16)
        demand("the loopback is up", flags & 1, flags)
        done = self.command("exit 7")
        demand("a status is told without PIDFD_GET_INFO", done["exitCode"] == 7, done)
        done = self.command("kill -9 $$")
        demand("so is a signal", done["exitReason"] == "signaled" or done["exitCode"], done)
        self.command("(sleep 0.2 &) ; (true &) ; :")
        states = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1 | sort | uniq -c"
        demand("orphans are reaped", until(lambda: "Z" not in self.said(states)))

    def has_limits(self) -> None:
        """Limits by cgroup v2."""
        limits = {"memoryBytes": 64 * MIB, "pids": 16, "cpus": 0.5}
        made = self.command("cat /proc/self/cgroup", limits=limits)
        by = made["limits"]["enforcedBy"]
        kept = {by[name] for name in limits} == {"cgroup2"}
        demand("memory, processes, processors are kept by cgroup v2", kept, made)
        done = self.command("tail /dev/zero", limits={"memoryBytes": 64 * MIB})
        demand("who takes too much memory ends by `oom`", done["exitReason"] == "oom", done)

    def answers_soon(self) -> None:
        """/health right after a resume; what qemu translates anew delays the first answer."""
        began = time.monotonic()
        until(lambda: self.machine.answer_seconds() is not None)
        first = time.monotonic() - began
        taken = statistics.median(self.health_seconds() for _ in range(5))
        told = [f"{seconds * 1000:.0f} ms" for seconds in (first, taken, self.usual)]
        print("  /health: the first {}, then {}; before, at most {}".format(*told))
        most = max(ANSWER_SECONDS, EMULATED * self.usual)
        demand("/health answers soon after a resume", taken <= most and first < PATIENCE / 4)

    def goes_on_after_a_pause(self) -> None:
        """A pause that the machine does not notice: its clocks stood as well."""
        counting = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"
        body = {"name": "counting", "command": counting, "timeout": 3600}
        self.client.post("/process", json=body).raise_for_status()
        with self.client.stream("GET", "/process/counting/logs/stream") as stream:
            lines = (line for line in stream.iter_lines() if "line " in line)
            before = next(lines)
            self.machine.tell("stop")
            time.sleep(5)
            self.machine.tell("cont")
            self.answers_soon()
            seen = [before] + [next(lines) for _ in range(20)]
        numbers = [int(line.split()[-1]) for line in seen]
        whole = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        demand("a stream goes on after a pause, without a gap", whole, numbers)

    def notices_a_snapshot(self) -> None:
        """A snapshot that is resumed hours later: clients are gone, the clock is put right."""
        path = "/root/linked.txt"
        self.client.put(f"/filesystem/{path}", json={"content": "x"}).raise_for_status()
        link = {"path": path, "operation": "read", "seconds": 600}
        made = self.client.post("/filesystem-links", json=link).json()
        opened = str(made["url"])
        with self.client.stream("GET", "/process/counting/logs/stream") as stream:
            next(stream.iter_lines())
            self.machine.person("savevm pause")
        self.client.close()
        self.machine.person("loadvm pause")
        self.client = machine_client(self.machine)
        self.answers_soon()
        cursor = self.client.get("/process/counting/logs").json()["stdout"].count("\n")
        self.said(f"date -s @$(($(date +%s) + {HOURS})) >/dev/null")
        self.answers_soon()
        log = "the clock was put forward"
        demand("the server notices that the clock leapt", until(lambda: self.has_logged(log)))
        record = self.client.get("/process/counting").json()
        demand("no time limit was over for that", record["status"] == "running", record)
        grown = self.client.get("/process/counting/logs").json()["stdout"].count("\n")
        demand("what ran goes on", grown > cursor)
        gone = self.client.get(opened).status_code
        demand("a link that ended meanwhile opens nothing", gone in {401, 403, 404, 410}, gone)
        mine = "cat /proc/net/tcp | awk '$4 == \"01\" && $2 ~ /:1F90$/' | wc -l"
        alone = until(lambda: int(self.said(mine)) <= 2)
        demand("connections of clients that are gone are closed", alone, self.said(mine))

    def has_logged(self, text: str) -> bool:
        """Say whether the console shows something."""
        return text in self.machine.console.read_text(errors="replace")

    def is_switched_off(self) -> None:
        """The power button."""
        self.client.close()
        self.machine.tell("system_powerdown")
        off = self.machine.ended()
        demand("the power button switches it off in good order", off)


if __name__ == "__main__":
    main()
