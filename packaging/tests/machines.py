"""Roots that one changes into, and servers in them."""

import os
import platform
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from tests.harness import free_port, until

import sandkeeper

__all__ = ["NAME", "ROOT", "Machine", "Serving", "copy_libraries"]

ROOT = Path(__file__).parents[2]
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
NAME = f"sandkeeper-{sandkeeper.__version__}-linux-{platform.machine()}"
LIBRARIES = (
    "ld-linux*",
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
)
"""All that a root without anything else has: what glibc 2.31 still keeps apart."""


class Machine:
    """A root into which one changes, with /proc, /dev and /run, and the bundle somewhere in it."""

    def __init__(self, root: Path, bundle: Path, stack: ExitStack, place: str = "/opt") -> None:
        self.root = root
        self.program = f"{place}/sandkeeper/bin/sandkeeper"
        self._stack = stack
        for folder in (
            "proc",
            "dev/pts",
            "dev/shm",
            "run",
            "tmp",
            "root",
            "etc",
            place.lstrip("/"),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)
        self._mount("-t", "proc", "proc", "proc")
        self._mount("-t", "tmpfs", "tmpfs", "run")
        self._mount("-t", "tmpfs", "tmpfs", "dev/shm")
        for device in ("null", "zero", "full", "random", "urandom", "tty"):
            (root / "dev" / device).touch()
            self._mount("--bind", f"/dev/{device}", f"dev/{device}")
        self._mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "dev/pts")
        if not os.path.lexists(root / "dev/ptmx"):
            (root / "dev/ptmx").symlink_to("pts/ptmx")
        unpacked = ["tar", "-C", root / place.lstrip("/"), "--zstd", "-xf", bundle]
        subprocess.run(unpacked, check=True)

    def _mount(self, *words: str) -> None:
        target = self.root / words[-1]
        subprocess.run(["mount", *words[:-1], target], check=True)
        self._stack.callback(subprocess.run, ["umount", "--lazy", target], check=True)

    def run(self, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a program in there."""
        return subprocess.run(
            [CHROOT, self.root, *words], capture_output=True, text=True, check=False, **options
        )

    def serve(self, *words: str, env: dict[str, str] | None = None) -> "Serving":
        """Start the server and wait until it answers; it is ended with the machine."""
        made = Serving(self, words, env or {})
        self._stack.callback(made.end)
        return made


class Serving:
    """A server in a machine, and a client of it."""

    def __init__(self, machine: Machine, words: tuple[str, ...], env: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(
            base_url=self.url, timeout=60, trust_env=False, follow_redirects=True
        )
        self._log = open(machine.root / "tmp" / "server.log", "ab")  # noqa: SIM115 - `end` does
        command = [CHROOT, machine.root, machine.program, *words, "--port", str(self.port)]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", **env}
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            until(self.healthy)
        except BaseException:
            self._log.close()
            self.client.close()
            raise

    def healthy(self) -> bool:
        """Say whether it answers; fails when it has ended."""
        assert self.process.poll() is None, Path(self._log.name).read_text()[-4000:]
        try:
            return self.client.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def run(self, command: str, **more: Any) -> dict[str, Any]:
        """Run a command to its end; returns its record."""
        body = {"command": command, "waitForCompletion": True, **more}
        reply = self.client.post("/process", json=body)
        assert reply.status_code == 200, reply.text
        record: dict[str, Any] = reply.json()
        return record

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it and what it has started."""
        if self.process.poll() is None:
            for record in self.client.get("/process").json():
                self.client.delete(f"/process/{record['pid']}/kill")
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self.client.close()
        self._log.close()


def copy_libraries(archive: Path, root: Path) -> None:
    """Unpack the C library of a root, and nothing else."""
    patterns = [f"*/{name}" for name in (*LIBRARIES, "ld-2.31.so", "lib*-2.31.so")]
    command = ["tar", "-C", root, "-xf", archive, "--wildcards", *patterns]
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    if (root / "usr/lib64").exists() and not (root / "lib64").exists():
        (root / "lib64").symlink_to("usr/lib64")
    if (root / "usr/lib").exists() and not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
