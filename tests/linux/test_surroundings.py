"""What is taken for a sandbox, and what is somebody's desk: trees of files, whatever runs this."""

from pathlib import Path

import pytest

from sandkeeper.linux.surroundings import sandbox_sign
from sandkeeper.settings import Settings

PC = {"sys/class/dmi/id/sys_vendor": "LENOVO\n", "proc/cmdline": "BOOT_IMAGE=/vmlinuz ro quiet\n"}
DESK = {**PC, "proc/1/cgroup": "0::/init.scope\n", "etc/hosts": "127.0.0.1 localhost\n"}
PLAIN_ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
LAYERS = "27 1 0:30 / / rw - overlay overlay rw,lowerdir=/var/lib/{}/1/fs,upperdir=/x\n"


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize(
    ("files", "environ"),
    [
        ({}, {}),
        (DESK, {}),
        (DESK, {"BL_WORKSPACE": "mine", "BL_API_KEY": "k", "BL_ENV": "dev", "DISPLAY": ":0"}),
        # A virtual machine with a desktop on it: QEMU, VirtualBox, VMware, Hyper-V, Parallels.
        ({**DESK, "sys/class/dmi/id/sys_vendor": "QEMU\n"}, {}),
        ({**DESK, "sys/class/dmi/id/sys_vendor": "innotek GmbH\n"}, {"container": ""}),
        # A board or a laptop without DMI.
        ({"proc/cmdline": "console=tty1 root=PARTUUID=1 rootwait\n"}, {}),
        # Docker runs here, this is not in it: nested groups of process 1 tell, not those of others.
        ({**DESK, "proc/self/cgroup": "0::/system.slice/docker.service\n"}, {}),
        ({**DESK, "proc/1/mountinfo": PLAIN_ROOT + LAYERS.format("docker/overlay2")[6:]}, {}),
        ({**DESK, "proc/1/mountinfo": LAYERS.format("live/medium")}, {}),
        # Containers that people work in on their own desktop, on its network.
        ({**DESK, "run/.containerenv": "", "run/.toolboxenv": ""}, {"container": "podman"}),
        ({**DESK, "run/.containerenv": ""}, {"DISTROBOX_ENTER_PATH": "/usr/bin/distrobox-enter"}),
        ({**DESK, ".flatpak-info": "[Application]"}, {"container": "flatpak"}),
        ({**DESK, "run/systemd/container": "wsl\n"}, {}),
        ({"proc/sys/kernel/osrelease": "5.15.1-microsoft-standard-WSL2"}, {"container": "x"}),
        # Tools bring a Pod's variables to a desk.
        (DESK, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
    ],
)
def test_a_desk_is_no_sandbox(tmp_path: Path, files: dict, environ: dict) -> None:
    assert sandbox_sign(tree(tmp_path, files), environ, 4711) == ""


@pytest.mark.parametrize(
    ("files", "environ", "why"),
    [
        ({**DESK, ".dockerenv": ""}, {}, "/.dockerenv exists"),
        ({**DESK, "run/.containerenv": ""}, {}, "/run/.containerenv exists"),
        ({**DESK, "run/systemd/container": "lxc\n"}, {}, "/run/systemd/container exists"),
        (DESK, {"container": "systemd-nspawn"}, "container=systemd-nspawn is set"),
        ({**DESK, "proc/1/environ": b"A=1\0container=lxc\0"}, {}, "container=lxc is set for"),
        ({**DESK, "proc/1/cgroup": "4:memory:/docker/ab\n"}, {}, "/proc/1/cgroup names docker"),
        ({**DESK, "proc/1/cgroup": "0::/kubepods.slice/x\n"}, {}, "names kubepods"),
        ({**DESK, "proc/1/mountinfo": LAYERS.format("containerd/io")}, {}, "container's layers"),
        (
            {**DESK, "etc/hosts": "# Kubernetes-managed hosts file.\n127.0.0.1 localhost\n"},
            {},
            "/etc/hosts is of Kubernetes",
        ),
        ({"sys/class/dmi/id/sys_vendor": "Cloud Hypervisor\n"}, {}, "guest of Cloud Hypervisor"),
        ({"sys/firmware/acpi/tables/DSDT": b"DSDTS\x0f\0\0\x02wFIRECKFCVM"}, {}, "Firecracker"),
        ({"proc/cmdline": "console=ttyS0 reboot=k panic=1 pci=off\n"}, {}, "a microVM"),
        ({"proc/cmdline": "quiet virtio_mmio.device=4K@0xd0000000:5\n"}, {}, "a microVM"),
        ({"proc/cmdline": "panic=-1 init=/init.krun\n"}, {}, "libkrun"),
        ({**PC, "proc/cmdline": "systemd.unit=kata-containers.target\n"}, {}, "Kata"),
        ({"uk/libukp/scale_to_zero_disable": ""}, {}, "a unikernel"),
        (DESK, {"BL_METADATA_PATH": "/bl/metadata"}, "BL_METADATA_PATH is set"),
        (DESK, {"BL_CLOUD": "true"}, "BL_CLOUD is set"),
    ],
)
def test_a_sandbox_bears_a_mark(tmp_path: Path, files: dict, environ: dict, why: str) -> None:
    assert why in sandbox_sign(tree(tmp_path, files), environ, 4711)


def test_process_one_is_in_a_sandbox(tmp_path: Path) -> None:
    assert sandbox_sign(tmp_path, {}, 1) == "it is process 1"


@pytest.mark.parametrize(
    ("files", "env", "option", "host"),
    [
        (DESK, {}, "", "localhost"),
        ({".dockerenv": ""}, {}, "", "0.0.0.0"),
        (DESK, {"BL_CLOUD": "true"}, "", "0.0.0.0"),
        (DESK, {"SANDKEEPER_TOKEN": "t"}, "", "0.0.0.0"),
        (DESK, {"SANDKEEPER_HOST": "::"}, "", "::"),
        ({".dockerenv": ""}, {"SANDKEEPER_HOST": "127.0.0.1"}, "", "127.0.0.1"),
        ({".dockerenv": ""}, {"SANDKEEPER_HOST": "::"}, "10.0.0.1", "10.0.0.1"),
    ],
)
def test_without_a_token_only_a_sandbox_listens_everywhere(
    tmp_path: Path, files: dict, env: dict[str, str], option: str, host: str
) -> None:
    assert Settings.read(env, host=option, root=tree(tmp_path, files)).host == host


def test_on_the_contracts_platform_any_name_is_answered_as_its_gateway_passes_them() -> None:
    platform = {"BL_WORKSPACE_ID": "w"}
    assert Settings.read(platform).edge.hosts == ("*",)
    assert Settings.read(platform, host="127.0.0.1").edge.hosts == ()
    assert Settings.read({**platform, "SANDKEEPER_HOSTS": "a.example"}).edge.hosts == ("a.example",)
    assert Settings.read({"SANDKEEPER_CORS_ORIGINS": "*"}, host="localhost").edge.hosts == ("*",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDKEEPER_CORS_ORIGINS", "null"),
        ("SANDKEEPER_CORS_ORIGINS", "a.example"),
        ("SANDKEEPER_CORS_ORIGINS", "https://a.example/path"),
        ("SANDKEEPER_TERMINAL_ORIGINS", "https://me@a.example"),
        ("SANDKEEPER_HOSTS", "https://a.example"),
        ("SANDKEEPER_HOSTS", "a.*.example"),
        ("SANDKEEPER_HOSTS", "a.example:80"),
    ],
)
def test_what_is_no_origin_or_no_name_is_refused_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: "):
        Settings.read({name: value})


def test_origins_are_read_as_browsers_write_them() -> None:
    env = {"SANDKEEPER_CORS_ORIGINS": "HTTPS://A.example:443/, http://[::1]:80 https://b:8443"}
    assert Settings.read(env).edge.origins == (
        "https://a.example",
        "http://[::1]",
        "https://b:8443",
    )
