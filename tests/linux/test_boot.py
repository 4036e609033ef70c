"""Process 1 of a machine: what it reads and does, in namespaces of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import needs_root

from sandkeeper.linux.boot.network import set_up_network

TAKEN = """
import os
from sandkeeper.linux.boot.charge import MOUNTS, take_charge
os.chroot({root!r})
os.chdir("/")
machine = take_charge()
print(machine.told)
print(all(os.path.ismount(place) for _, place, _, _ in MOUNTS), os.path.exists("/dev/fd/0"))
print(os.uname().nodename, os.environ["HOME"], open("/sys/class/net/lo/flags").read().strip())
print(take_charge() is not None)
"""


@needs_root
def test_a_machine_that_nobody_has_set_up_is_set_up_once(tmp_path: Path) -> None:
    for folder in ("proc", "sys", "dev", "etc", "run", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/hostname").write_text("little-box\n")
    spaces = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child"]
    command = [*spaces, sys.executable, "-c", TAKEN.format(root=str(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    told, mounted, named, again = done.stdout.splitlines()
    assert "cannot be mounted" not in told.replace("/sys/fs/cgroup cannot be mounted", "")
    assert mounted.endswith("True")
    assert named.startswith("little-box /root 0x")
    assert int(named.split()[2], 16) & 1
    assert again == "True"


@pytest.mark.parametrize("cmdline", ["", "quiet ip=dhcp", "ip=off", "zip=1.2.3.4/8"])
def test_no_address_means_no_network(cmdline: str) -> None:
    assert set_up_network(cmdline) == []


def test_an_address_that_is_none_is_told() -> None:
    assert set_up_network("ip=1.2.3.999::1.2.3.1:255.0.0.0::nothing0:off") != []
    (told,) = set_up_network("ip=10.9.8.7/24:::::nothing0")
    assert told == "ip=10.9.8.7/24:::::nothing0: there is no device nothing0"
