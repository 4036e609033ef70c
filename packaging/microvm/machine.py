"""A machine that qemu emulates, and its monitor (QMP)."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Machine"]

PATIENCE = 600.0
LOOK_SECONDS, ANSWER_SECONDS = 0.05, 1.0
MACHINE = "pc,hpet=off,usb=off,vmport=off,smm=off"
"""Not `microvm`: it has no clock that this kernel could measure the processor's by, without KVM."""
PARAMETERS = (
    "console=ttyS0 quiet panic=-1 root=/dev/vda ip=10.0.2.15/24::10.0.2.2 net.ifnames=0 "
    "mitigations=off tsc=reliable no_timer_check"
)


class Machine:
    """One machine: started at once, ended with `close`.

    `seconds` is what it took to answer, `work` the processor's time of that.
    """

    def __init__(
        self,
        files: Path,
        folder: Path,
        program: str,
        *,
        options: str = "--host 0.0.0.0 --port 8080",
        memory: int = 1024,
    ) -> None:
        self.port, self.seconds, self.work = _free_port(), 0.0, 0.0
        self.console = folder / "console.log"
        disk = folder / "disk.qcow2"
        made = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"]
        subprocess.run([*made, files.absolute() / "root.ext4", disk], check=True)
        monitor = folder / "monitor"
        command = [
            *("qemu-system-x86_64", "-machine", MACHINE, "-accel", "tcg,thread=multi"),
            *("-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"),
            *("-smp", "2", "-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(files / "vmlinuz"), "-initrd", str(files / "initrd.img")),
            *("-append", f"{PARAMETERS} init={program} -- {options}"),
            *("-serial", f"file:{self.console}", "-qmp", f"unix:{monitor},server=on,wait=off"),
            *("-drive", f"file={disk},if=none,id=disk,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-net-pci,netdev=net"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:8080"),
            *("-device", "virtio-rng-pci", "-no-reboot"),
        ]
        self._began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            self._monitor = self._connected(monitor)
        except BaseException:
            self.process.kill()
            raise

    def _connected(self, path: Path) -> Iterator[Any]:
        """Return what the monitor says, line by line."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            with contextlib.suppress(OSError):
                self._socket.connect(str(path))
                break
            self.check()
            time.sleep(LOOK_SECONDS)
        lines = (json.loads(line) for line in self._socket.makefile("rb"))
        next(lines)
        self._monitor = lines
        self.tell("qmp_capabilities")
        return lines

    def check(self) -> None:
        """Raise SystemExit when it has ended, or takes too long."""
        over = time.monotonic() - self._began > PATIENCE
        if over or self.process.poll() is not None:
            said = self.console.read_text(errors="replace") if self.console.exists() else ""
            raise SystemExit(f"sandkeeper: the machine does not answer\n{said[-4000:]}")

    def tell(self, command: str, **arguments: Any) -> Any:
        """Give the monitor an order; returns its answer. Raises RuntimeError if it refuses."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self._monitor:
            if "error" in line:
                raise RuntimeError(f"{command}: {line['error']['desc']}")
            if "return" in line:
                return line["return"]
        raise RuntimeError(f"{command}: the monitor is gone")

    def person(self, line: str) -> str:
        """Give an order of the monitor for people; raises RuntimeError with what it says."""
        said = str(self.tell("human-monitor-command", **{"command-line": line}))
        if said.strip():
            raise RuntimeError(f"{line}: {said.strip()}")
        return said

    def until_healthy(self) -> float:
        """Wait for the first answer; returns the seconds since the power was switched on."""
        while self.answer_seconds() is None:
            self.check()
            time.sleep(LOOK_SECONDS)
        self.seconds = time.monotonic() - self._began
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        self.work = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return self.seconds

    def answer_seconds(self) -> float | None:
        """Ask for /health, on a connection of its own; returns how long the answer took."""
        began = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
            with contextlib.closing(client):
                client.request("GET", "/health")
                if client.getresponse().status == 200:
                    return time.monotonic() - began
        return None

    def ended(self, seconds: float = 120.0) -> bool:
        """Say whether the machine switches itself off."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds) == 0
        return False

    def close(self) -> None:
        """Pull the plug."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._socket.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
