"""Tries the unit with a real systemd, process 1 of a machine that qemu emulates.

`unit_trial.py FILES --root ROOT.tar --bundle BUNDLE` makes its disk of a root of Debian with
systemd, `unit_trial.py FILES` boots it; the kernel and the initrd are the microVM's. What is asked
of systemd is asked by processes of the server itself: they live through it. Raises SystemExit at
what is not so.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "microvm"))

import build  # noqa: E402 - of the folder above
from machine import Machine  # noqa: E402
from trial import demand, until  # noqa: E402

TOKEN = "a-token-that-only-the-unit-knows"
WATCHDOG_SECONDS = 30
TOLD_BYTES = 8000
ANSWERED, REFUSED = "HTTP/1.1 200", "Connection refused"
UNIT = "/etc/systemd/system"
FILES = {
    f"{UNIT}/network.service": """
[Unit]
DefaultDependencies=no
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
[Install]
WantedBy=multi-user.target
""",
    f"{UNIT}/sandkeeper.service.d/soon.conf": f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n",
    "/etc/sandkeeper/token": TOKEN + "\n",
    "/etc/sandkeeper/environment": "SANDKEEPER_LOG_FORMAT=text\nGREETING=hello\n",
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/systemd/journald.conf.d/console.conf": """
[Journal]
ForwardToConsole=yes
TTYPath=/dev/ttyS0
""",
    "/root/knock.py": """
import collections, socket, time
ask = b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n"
while True:
    try:
        with socket.create_connection(("127.0.0.1", 8080)) as sock:
            sock.sendall(ask)
            said = sock.recv(12).decode() or "an end without an answer"
    except OSError as error:
        said = error.strerror
    print(said, flush=True)
    time.sleep(0.1)
""",
}
HARMLESS = {
    "a name space of its own": "unshare --mount --pid --fork true",
    "a mount": "unshare --mount mount -t tmpfs tmpfs /mnt",
    "another user": "setpriv --reuid 65534 --clear-groups id -u",
    "a program with its owner's rights": "cp /bin/true /tmp/t && chmod u+s /tmp/t && /tmp/t",
    "the system's folders": "touch /etc/x /usr/x && rm /etc/x /usr/x",
    "a setting of the kernel": "echo 100 > /proc/sys/vm/swappiness",
}


def main() -> None:
    """Make the disk, or try it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    if options.root:
        build.root(options.files / "root.ext4", options.root, options.bundle, dress)
        return
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(options.files, Path(name), "/lib/systemd/systemd", options="")
        try:
            machine.until_healthy()
            print(f"systemd's machine answers after {machine.seconds:.1f} s", flush=True)
            Trial(machine).run()
        except BaseException:
            print(machine.console.read_text(errors="replace")[-TOLD_BYTES:], file=sys.stderr)
            raise
        finally:
            machine.close()


def dress(tree: Path) -> None:
    """Install the unit as docs/install.md says, and what a machine without udev needs."""
    for place, text in FILES.items():
        path = tree / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tree / "etc/sandkeeper/token").chmod(0o600)
    folder = tree / UNIT.lstrip("/")
    for unit in ("sandkeeper.service", "sandkeeper-groups.service"):
        shutil.copy(HERE / unit, folder)
    shutil.copy(HERE / "strict.conf", tree / "root")
    wanted = folder / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    for name in ("sandkeeper.service", "network.service"):
        (wanted / name).symlink_to(f"{UNIT}/{name}")
    (folder / "default.target").unlink(missing_ok=True)
    (folder / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for name in ("getty@.service", "serial-getty@.service", "console-getty.service"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/null")


class Trial:
    """What is tried, in order."""

    def __init__(self, machine: Machine) -> None:
        url = f"http://127.0.0.1:{machine.port}"
        head = {"Authorization": f"Bearer {TOKEN}"}
        self.machine, self.seen = machine, 0
        self.client = httpx.Client(base_url=url, timeout=180, trust_env=False, headers=head)
        self.stranger = httpx.Client(base_url=url, timeout=180, trust_env=False)

    def run(self) -> None:
        """Try it."""
        self.is_told_and_watched()
        self.knows_its_token()
        self.breaks_no_workload()
        self.is_in_order()
        counting = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"
        self.ask({"name": "counting", "command": counting})
        self.keeper = self.of_keeper()
        knock = "exec /opt/sandkeeper/libexec/python3.11 -I -S /root/knock.py"
        self.ask({"name": "knocking", "command": knock})
        demand("somebody knocks all the time", until(lambda: ANSWERED in self.knocked()))
        stop = "systemctl stop sandkeeper; sleep 1; systemctl start sandkeeper"
        self.goes_on("a restart", "systemctl restart sandkeeper")
        seen = self.knocked()
        demand("a restart: who connects is answered, sooner or later", seen == {ANSWERED}, seen)
        self.goes_on("a stop and a start", stop)
        seen = self.knocked()
        demand("a stop: who connects is answered or refused", seen <= {ANSWERED, REFUSED}, seen)
        self.goes_on("a kill", f"kill -9 {self.main_pid()}")
        self.goes_on("a watchdog's end", f"kill -STOP {self.main_pid()}")
        self.ends_as_a_whole()
        self.is_strict()

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Start a process; returns its record."""
        record: dict[str, Any] = self.client.post("/process", json=body).raise_for_status().json()
        return record

    def command(self, text: str) -> dict[str, Any]:
        """Run a command to its end; returns its record."""
        return self.ask({"command": text, "waitForCompletion": True, "timeout": 120})

    def said(self, text: str) -> str:
        """Return what a command prints."""
        return str(self.command(text)["logs"]).strip()

    def shown(self, name: str) -> str:
        """Return a property of the unit."""
        return self.said(f"systemctl show sandkeeper --value -p {name}")

    def main_pid(self) -> int:
        """Return the server's process id."""
        return int(self.shown("MainPID"))

    def of_keeper(self) -> str:
        """Return the keeper's process id."""
        return self.said("grep -sl '[k]eeper/holder' /proc/[0-9]*/cmdline")

    def is_told_and_watched(self) -> None:
        """Type=notify, WatchdogSec."""
        state = [self.shown(name) for name in ("Type", "ActiveState", "SubState", "WatchdogUSec")]
        wanted = ["notify", "active", "running", f"{WATCHDOG_SECONDS}s"]
        demand("systemd knows that it runs, and watches it", state == wanted, state)
        pinged = self.shown("WatchdogTimestampMonotonic")
        again = until(lambda: self.shown("WatchdogTimestampMonotonic") != pinged)
        demand("it says that it lives", again, pinged)

    def knows_its_token(self) -> None:
        """LoadCredential, EnvironmentFile; nothing of it reaches a child."""
        status = self.stranger.get("/process").status_code
        demand("nobody is served without the token", status == 401, status)
        seen = self.said("exec env")
        ours = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG", "SANDKEEPER_TOKEN=", TOKEN)
        demand("children see neither token nor systemd", not any(one in seen for one in ours), seen)
        demand("the file of variables is read", "GREETING=hello" in seen, seen)

    def breaks_no_workload(self) -> None:
        """What programs of a sandbox do, and limits."""
        for what, text in HARMLESS.items():
            done = self.command(text)
            demand(f"a process may have {what}", done["exitCode"] == 0, done["logs"])
        limits = {"memoryBytes": 64 << 20, "pids": 16}
        body = {"command": "cat /proc/self/cgroup", "waitForCompletion": True, "limits": limits}
        made = self.ask(body)
        by = set(made["limits"]["enforcedBy"].values())
        demand("limits are groups below the unit's (Delegate)", by == {"cgroup2"}, made)
        inside = "sandkeeper.service" in made["logs"]
        demand("they lie in the unit's own group", inside, made["logs"])

    def is_in_order(self) -> None:
        """systemd-analyze."""
        told = self.command(f"systemd-analyze verify --man=no {UNIT}/sandkeeper.service")
        demand("systemd-analyze finds no fault", told["exitCode"] == 0 and not told["logs"], told)
        print("  " + self.said("systemd-analyze security --no-pager sandkeeper | tail -n 1"))

    def goes_on(self, how: str, command: str) -> None:
        """Have the server end and begin; what runs, its output and the keeper outlive it."""
        before, lines = self.main_pid(), self.count()
        self.ask({"name": "order", "command": f"sleep 3; {command}"})
        anew = until(lambda: self.began_anew(before))
        demand(f"{how}: another server answers", anew, before)
        record = self.client.get("/process/counting").json()
        demand(f"{how}: what runs goes on", record["status"] == "running", record)
        until(lambda: self.count() > lines + 20)
        text = self.client.get("/process/counting/logs").json()["stdout"].splitlines()
        whole = text == [f"line {number}" for number in range(1, len(text) + 1)]
        demand(f"{how}: no line is lost", whole, text)
        demand(f"{how}: the keeper stayed", self.of_keeper() == self.keeper, self.keeper)
        self.client.delete("/process/order")

    def began_anew(self, before: int) -> bool:
        """Say whether another server answers."""
        try:
            return self.stranger.get("/health").status_code == 200 and self.main_pid() != before
        except httpx.HTTPError:
            return False

    def knocked(self) -> set[str]:
        """Return what who knocks has seen since this was asked last."""
        text = str(self.client.get("/process/knocking/logs").json()["stdout"]).splitlines()
        new, self.seen = text[self.seen :], len(text)
        return set(new)

    def count(self) -> int:
        """Return the lines printed so far."""
        return str(self.client.get("/process/counting/logs").json()["stdout"]).count("\n")

    def ends_as_a_whole(self) -> None:
        """`systemctl kill --kill-whom=all`."""
        before = self.main_pid()
        self.ask({"command": "sleep 3; systemctl kill --kill-whom=all -s KILL sandkeeper"})
        demand("another server answers", until(lambda: self.began_anew(before)))
        record = self.client.get("/process/counting").json()
        demand("kill --kill-whom=all ends all of it", record["status"] != "running", record)

    def is_strict(self) -> None:
        """strict.conf: a user without rights."""
        add = "useradd --system --create-home --home-dir /var/lib/sandbox sandbox"
        drop = f"install -m 644 /root/strict.conf {UNIT}/sandkeeper.service.d/"
        done = self.command(f"{add} && {drop} && systemctl daemon-reload")
        demand("the drop-in is taken", done["exitCode"] == 0, done)
        before = self.main_pid()
        self.ask({"command": "sleep 3; systemctl kill --kill-whom=all -s KILL sandkeeper"})
        demand("strict: another server answers", until(lambda: self.began_anew(before)))
        demand("strict: the user is not root", self.said("id -un") == "sandbox")
        kept = self.command("touch ~/mine && ! touch /etc/x && ! touch /usr/x")
        demand("strict: it writes to its home and nowhere else", kept["exitCode"] == 0, kept)
        print("  " + self.said("systemd-analyze security --no-pager sandkeeper | tail -n 1"))


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
